"""History: what ten million settled events change in accept, claim and settle."""

import argparse
from pathlib import Path
from typing import Any

from bench.latency import rows
from bench.plans import Plan, explain
from bench.report import Result, progress
from bench.rig import Rig
from bench.seed import check_room, seed
from bench.statements import by_name, checkpoint, read, reset
from bench.throughput import sustained

SHARE_MIN = 0.8
RATE = 333.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--events", type=int, default=10_000_000, help="settled beforehand, by SQL")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each part")
    parser.add_argument("--plans", type=Path, help="write every plan into this file")


def run(options: argparse.Namespace) -> Result:
    """Measure, seed, measure."""
    check_room(Path("/tmp"), options.events)  # noqa: S108 - where the rig is
    plans: list[Plan] = []
    with Rig() as rig:
        empty = _measure(rig, options.seconds, 0, plans)
        seed(rig.engine, options.events, progress)
        rig.accepted += options.events
        full = _measure(rig, options.seconds, options.events, plans)
        books = rig.drain()
    if options.plans:
        shown = (f"== {p.stage}, list of {p.list_size}\n{p.text}\n" for p in plans)
        options.plans.write_text("\n".join(shown))
    shares = {
        "settled per second": full["settled_per_s"] / empty["settled_per_s"],
        "accept p50": empty["ack p50"] / full["ack p50"],
        "outcome p50": empty["outcome p50"] / full["outcome p50"],
    }
    return Result(
        benchmark="history",
        settings={"events": options.events, "seconds": options.seconds, "latency at": RATE},
        figures=[empty, full],
        books=books,
        notes=[f"{name}: {share:.0%} of the empty system's" for name, share in shares.items()],
        is_as_promised=all(share >= SHARE_MIN for share in shares.values()),
    )


def _measure(rig: Rig, seconds: float, history: int, plans: list[Plan]) -> dict[str, Any]:
    progress(f"measuring with {history:,} settled")
    checkpoint(rig.engine)  # what the seeding left to write is not a cost of history
    rig.flood(5.0, open_max=5_000)
    rig.drain()
    sent = rig.trickle([(RATE, seconds)])
    rig.drain()
    times = {row["until"]: row for row in rows(RATE, sent, rig.outcomes(sent))}
    reset(rig.engine)
    flooded, rates = sustained(rig, seconds)
    cost = by_name(read(rig.engine))
    found = [plan for size in (1, 250) for plan in explain(rig, size)]
    plans += found
    return {
        "settled before": history,
        "ack p50": times["ack"]["p50"],
        "ack p99": times["ack"]["p99"],
        "outcome p50": times["outcome"]["p50"],
        "outcome p99": times["outcome"]["p99"],
        "settled_per_s": rates["settled_per_s"],
        **{
            f"{name} us/event": round(cost[name].ms * 1000 / flooded.accepted, 1)
            for name in ("accept", "claim", "write")
            if name in cost
        },
        **{
            f"{plan.stage} of {plan.list_size}": f"{plan.ms} ms, {plan.hit}+{plan.read} pages"
            for plan in found
        },
    }
