"""Steps: what 1, 2 and 5 steps, an async step of 10 ms and a transactional step cost."""

import argparse

from bench.report import Result, progress, us_per_event
from bench.rig import Rig
from bench.throughput import sustained
from bench.usage import cpu_between, cpu_seconds

KINDS = {
    "1 step": "bench.event",
    "2 steps": "bench.two",
    "5 steps": "bench.five",
    "async step of 10 ms": "bench.pause",
    "transactional step": "bench.book",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=15.0, help="for each kind")


def run(options: argparse.Namespace) -> Result:
    """Each kind in turn, on one platform."""
    figures = []
    with Rig() as rig:
        for kind, type_ in KINDS.items():
            progress(kind)
            rig.flood(2.0, open_max=2_000, type_=type_)  # or the cost of its runs is not known
            rig.drain()
            before = cpu_seconds(rig.platform)
            flooded, rates = sustained(rig, options.seconds, type_=type_)
            cpu = cpu_between(before, cpu_seconds(rig.platform))
            each = us_per_event(cpu, flooded.accepted)
            figures.append({"runs of": kind, **rates, "us_cpu_per_run": each["together"]})
        books = rig.books()
    return Result(
        benchmark="steps", settings={"seconds": options.seconds}, figures=figures, books=books
    )
