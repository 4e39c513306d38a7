"""Backlog: a million runs waiting; accept, settle rate and the time to drain beside an empty one.

Accept is measured twice with no worker at work, so that only the backlog differs; the settle rate
twice beside the same open loop of batches, at the rate that the empty system sustains. (A load that
asks how many runs are open, as `throughput` does, has a million rows counted at each look.)
"""

import argparse
from time import monotonic

from bench.report import Result, Row, percentiles, progress
from bench.rig import Rig
from bench.throughput import OPEN_MAX

SHARE_MIN = 0.8
WORKER = "worker-1"
BATCH = 250


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")


def run(options: argparse.Namespace) -> Result:
    """Empty, then with the backlog, then drained."""
    runs, seconds = options.runs, options.seconds
    with Rig() as rig:
        rig.flood(5.0, open_max=OPEN_MAX)
        rig.drain()
        progress("empty: accept, settle")
        rate = _sustained(rig, seconds)
        empty = {"runs waiting": 0, **_accept(rig, seconds), **_settle(rig, seconds, rate)}
        rig.drain()
        _stop(rig)
        progress(f"accepting {runs:,}")
        flooded = rig.flood(3_600.0, count_max=runs)
        _start(rig)
        _stop(rig)
        progress("full: accept, settle")
        full = {"runs waiting": rig.books().open, **_accept(rig, seconds)}
        full |= _settle(rig, seconds, rate)
        progress("draining")
        began, waiting = monotonic(), rig.books().open
        books = rig.drain()
        drained_s = monotonic() - began
    shares = {
        "accept p50": empty["ack p50"] / full["ack p50"],
        "settled": full["settled_per_s"] / empty["settled_per_s"],
    }
    accepted_per_s = round(flooded.accepted / flooded.seconds)
    return Result(
        benchmark="backlog",
        settings={"runs": runs, "seconds": seconds, "accept measured at": "333/s, no worker"},
        figures=[empty, full],
        books=books,
        notes=[
            f"{runs:,} accepted with no worker at {accepted_per_s:,}/s",
            f"drained {waiting:,} in {drained_s:.0f} s: {waiting / drained_s:,.0f}/s",
            *(f"{name}: {share:.0%} of the empty system's" for name, share in shares.items()),
        ],
        is_as_promised=all(share >= SHARE_MIN for share in shares.values()),
    )


def _accept(rig: Rig, seconds: float) -> Row:
    """Of single events at 333/s, with no worker at work."""
    is_running = rig.platform.processes[WORKER].is_running
    if is_running:
        _stop(rig)
    sent = rig.trickle([(333.0, seconds)])
    if is_running:
        _start(rig)
    return percentiles([one.answered - one.due for one in sent if one.answered], "ack ")


def _sustained(rig: Rig, seconds: float) -> float:
    """Events per second that are settled while few runs are open."""
    began, before = monotonic(), rig.books().settled
    rig.flood(seconds, open_max=OPEN_MAX)
    return (rig.drain().settled - before) / (monotonic() - began)


def _settle(rig: Rig, seconds: float, rate: float) -> Row:
    """Beside batches at this rate."""
    if not rig.platform.processes[WORKER].is_running:
        _start(rig)
    rig.trickle([(rate, 2.0)], size=BATCH)
    before, began = rig.books(), monotonic()
    rig.trickle([(rate, seconds)], size=BATCH)
    after, took = rig.books(), monotonic() - began
    return {
        "offered_per_s": round(rate),
        "accepted_per_s": round((after.accepted - before.accepted) / took),
        "settled_per_s": round((after.settled - before.settled) / took),
    }


def _stop(rig: Rig) -> None:
    rig.platform.terminate(WORKER)
    rig.platform.wait_ended(WORKER)


def _start(rig: Rig) -> None:
    rig.platform.start(WORKER, "worker")
    rig.platform.wait_ready(WORKER)
