"""Idle: what a platform costs on which nothing happens."""

import argparse
from threading import Event

from bench.report import Result
from bench.rig import Rig
from bench.statements import read, reset
from bench.usage import cpu_between, cpu_seconds, held

CORE_SHARE_MAX = 0.01


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=60.0)


def run(options: argparse.Namespace) -> Result:
    """Look before and after some time in which nothing is sent."""
    with Rig() as rig:
        Event().wait(15.0)  # for what a warm-up leaves: folds, recounts, the last looks
        reset(rig.engine)
        before = cpu_seconds(rig.platform)
        Event().wait(options.seconds)
        used = cpu_between(before, cpu_seconds(rig.platform))
        calls = sum(one.calls for one in read(rig.engine))
        memory = held(rig.platform)
        books = rig.books()
    counted: dict[str, list[int]] = {}
    for name, one in memory.items():
        counted.setdefault(name.rstrip("0123456789 "), []).append(one.uss)
    figures = [
        {
            "process": kind,
            "of them": len(counted.get(kind, ())),
            "core_percent_each": round(seconds / options.seconds / processes * 100, 2),
            "mib_each": round(sum(counted.get(kind, ())) / processes / 2**20, 1),
        }
        for kind, seconds in used.items()
        if kind != "load generator" and (processes := len(counted.get(kind, ())) or 1)
    ]
    ours = [row for row in figures if row["process"] not in {"PostgreSQL", "RabbitMQ"}]
    return Result(
        benchmark="idle",
        settings={"seconds": options.seconds},
        figures=figures,
        books=books,
        notes=[f"{calls / options.seconds:.1f} statements a second"],
        is_as_promised=all(row["core_percent_each"] < CORE_SHARE_MAX * 100 for row in ours),
    )
