"""Transactional: runs of one step, plain and transactional by turns, and their ratio."""

import argparse
from collections.abc import Mapping
from statistics import median

from bench.report import Result, progress, us_per_event
from bench.rig import Rig
from bench.throughput import sustained
from bench.usage import cpu_between, cpu_seconds

KINDS = {"plain": "bench.event", "transactional": "bench.book"}
TARGET = 0.4  # of the rate of plain ones


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=4.0, help="for each kind in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--open-max", type=int, default=4_000, help="no batch while more are open")


def run(options: argparse.Namespace) -> Result:
    """Each kind in each turn, on one platform."""
    figures, ratios = [], []
    with Rig() as rig:
        for type_ in KINDS.values():
            rig.flood(2.0, open_max=2_000, type_=type_)  # or the cost of its runs is not known
            rig.drain()
        for turn in range(1, options.turns + 1):
            settled = {}
            for kind, type_ in KINDS.items():
                progress(f"turn {turn}: {kind}")
                before = cpu_seconds(rig.platform)
                flooded, rates = sustained(
                    rig, options.seconds, open_max=options.open_max, type_=type_
                )
                cpu = cpu_between(before, cpu_seconds(rig.platform))
                each = us_per_event(cpu, flooded.accepted)
                settled[kind] = rates["settled_per_s"]
                figures.append({"turn": turn, "runs": kind, **rates, **_cpu(each)})
            ratios.append(round(settled["transactional"] / settled["plain"], 3))
        books = rig.books()
    return Result(
        benchmark="transactional",
        settings={"seconds": options.seconds, "turns": options.turns},
        figures=figures,
        books=books,
        notes=[f"transactional to plain, by turns: {ratios}; median {median(ratios)} ({TARGET})"],
        is_as_promised=median(ratios) >= TARGET,
    )


def _cpu(each: Mapping[str, int]) -> dict[str, int]:
    """Microseconds per run, of all processes and of each kind."""
    return {f"us_{kind}": us for kind, us in each.items() if us}
