"""Burst: ten times the rate for a while; what it does to latency, and when all is as before."""

import argparse
from collections.abc import Sequence

from bench.load import Sent
from bench.report import Result, Row, percentiles
from bench.rig import Outcome, Rig

TIMES = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--rate", type=float, default=333.0, help="before and after")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the three parts")


def run(options: argparse.Namespace) -> Result:
    """Before, burst, after: one open loop."""
    rate, seconds = options.rate, options.seconds
    with Rig() as rig:
        sent = rig.trickle([(rate, seconds), (rate * TIMES, seconds), (rate, seconds)])
        rig.drain()
        outcomes = rig.outcomes(sent)
        books = rig.books()
    began = min(one.due for one in sent)
    parts = ("before", "burst", "after")
    figures = [
        _row(part, [one for one in sent if int((one.due - began) / seconds) == number], outcomes)
        for number, part in enumerate(parts)
    ]
    calm_s = _calm_after(sent, outcomes, began + 2 * seconds, float(figures[0]["outcome p99"]))
    return Result(
        benchmark="burst",
        settings={"rate": rate, "times": TIMES, "seconds": seconds},
        figures=figures,
        books=books,
        notes=[f"the p99 of a second is below twice that of before again after {calm_s} s"],
    )


def _row(part: str, sent: Sequence[Sent], outcomes: dict[int, Outcome]) -> Row:
    known = [outcomes[one.number].committed - one.due for one in sent if one.number in outcomes]
    acks = [one.answered - one.due for one in sent if one.answered]
    return {
        "part": part,
        "events": len(sent),
        **percentiles(acks, "ack "),
        **percentiles(known, "outcome "),
    }


def _calm_after(
    sent: Sequence[Sent], outcomes: dict[int, Outcome], end: float, p99_ms: float
) -> int | None:
    """Whole seconds from the burst's end to the first calm second; None: there was none."""
    seconds: dict[int, list[float]] = {}
    for one in sent:
        if one.due >= end and one.number in outcomes:
            took = outcomes[one.number].committed - one.due
            seconds.setdefault(int(one.due - end), []).append(took)
    calm = (s for s, took in sorted(seconds.items()) if percentiles(took)["p99"] <= 2 * p99_ms)
    return next(calm, None)
