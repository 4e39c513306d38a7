"""Profile: where each process spends its time under a given load, and what statements cost.

py-spy samples every Python process, which takes processor time itself; PostgreSQL is seen by its
statements, RabbitMQ by its own counters. Stacks go to the folder, one collapsed file per process:
for speedscope or flamegraph.pl.
"""

import argparse
import json
import re
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import veltrix
from bench.report import Result, Row, us_per_event
from bench.rig import Rig
from bench.statements import read, reset
from bench.usage import cpu_between, cpu_seconds, members
from veltrix.dev.servers.rabbitmq import manage

SHARE_MIN = 0.02
_STATISTICS_S = 6.0
_PATH = re.compile(r"\((.+\.py):\d+\)$")
_ROOT = str(Path(veltrix.__file__).parents[2])
_LIBRARY = re.compile(r"python3\.\d+/(?:site-packages/)?([\w-]+)")
# Modules in which a process spends its life, whatever it does.
_ENTRY = (
    "app/veltrix/cli.py",
    "app/veltrix/commands/",
    "app/veltrix/processes/api.py",
    "app/veltrix/processes/worker.py",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--rate", type=float, default=333.0, help="single events; 0: a flood")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="keep the stacks here")


def run(options: argparse.Namespace) -> Result:
    """One load, with a sampler on each Python process."""
    with tempfile.TemporaryDirectory() as temporary, Rig() as rig:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not options.rate:
            rig.flood(2.0, open_max=5_000)
        reset(rig.engine)
        sampled = _sampled(rig, folder)
        told = _rabbitmq(rig)
        before = cpu_seconds(rig.platform)
        samplers = [_sample(pid, file, options.seconds) for pid, (_, file) in sampled.items()]
        if options.rate > 0:
            events = len(rig.trickle([(options.rate, options.seconds)]))
        else:
            events = rig.flood(options.seconds, open_max=5_000).accepted
        cpu = cpu_between(before, cpu_seconds(rig.platform))
        statements = read(rig.engine)
        for sampler in samplers:
            sampler.wait(timeout=60)
        books = rig.drain()
        done = _rabbitmq(rig)
        each = us_per_event(cpu, events)
        figures = _budget(sampled.values(), each)
    notes = [
        f"{one.ms * 1000 / events:8.1f} us/event  {one.calls / events:7.3f} calls/event "
        f" {one.wal_bytes / events:8.0f} WAL bytes/event  {one.name}"
        for one in statements[:14]
    ]
    per_event = (f"{name} {(done[name] - told[name]) / events:.2f}" for name in told)
    notes.append(f"RabbitMQ, each per event: {', '.join(per_event)}")
    return Result(
        benchmark="profile",
        settings={"rate": options.rate or "flood", "seconds": options.seconds, "events": events},
        figures=figures,
        books=books,
        us_per_event=each,
        notes=notes,
    )


def _sampled(rig: Rig, folder: Path) -> dict[int, tuple[str, Path]]:
    """The kind and the file of every Python process of the platform."""
    return {
        process.pid: (kind, folder / f"{kind.replace(' ', '-')}-{process.pid}.collapsed")
        for kind, process in members(rig.platform)
        if kind not in {"PostgreSQL", "RabbitMQ"}
    }


def _sample(pid: int, file: Path, seconds: float) -> "subprocess.Popen[bytes]":
    """Only threads that hold the interpreter: the others wait, or are in C for somebody else."""
    py_spy = Path(sysconfig.get_path("scripts")) / "py-spy"
    command = [str(py_spy), "record", "--pid", str(pid), "--duration", str(round(seconds)), "--gil"]
    command += ["--rate", "200", "--format", "raw", "--full-filenames", "--output", str(file)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _budget(sampled: Iterable[tuple[str, Path]], each: Mapping[str, int]) -> list[Row]:
    """What each kind of process spends per event, shared out by what its samples were in."""
    found: dict[str, Counter[str]] = {}
    for kind, file in sampled:
        stages = found.setdefault(kind, Counter())
        for line in file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            stages[_stage(stack.split(";"))] += int(count)
    return [
        {
            "process": kind,
            "us/event": round(each[kind] * count / stages.total()),
            "share": f"{count / stages.total():.0%}",
            "in": stage,
            "samples": count,
        }
        for kind, stages in found.items()
        for stage, count in stages.most_common()
        if count >= SHARE_MIN * stages.total()
    ]


def _stage(stack: Sequence[str]) -> str:
    """The innermost of our own modules, whatever library it called; else the innermost library."""
    paths = [found[1] for frame in stack if (found := _PATH.search(frame))]
    for path in reversed(paths):
        own = path.removeprefix(f"{_ROOT}/")
        if own != path and not own.startswith((".venv", *_ENTRY)):
            return own
    for path in reversed(paths):
        if library := _LIBRARY.search(path):
            return f"{library[1]} (library)"
    return "Python itself"


def _rabbitmq(rig: Rig) -> dict[str, int]:
    """What RabbitMQ counts by itself, since it began; its own figures are up to 5 s old."""
    Event().wait(_STATISTICS_S)
    (node,) = _asked(rig, "nodes")
    stats = _asked(rig, "overview")["message_stats"]
    names = ("context_switches", "gc_num", "io_write_count", "io_sync_count")
    counted = {name: node.get(name, 0) for name in names}
    return counted | {name: stats.get(name, 0) for name in ("publish", "confirm", "deliver", "ack")}


def _asked(rig: Rig, path: str) -> Any:
    at = urlsplit(rig.platform.management_url)
    assert at.port is not None
    assert at.password is not None
    return json.loads(manage(at.port, at.password, "GET", f"/api/{path}"))
