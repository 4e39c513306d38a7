"""Profile: where each process spends its time under a given load, and what statements cost.

py-spy samples every Python process (RabbitMQ and PostgreSQL are seen by their CPU, PostgreSQL by
its statements too). Stacks go to the folder, one collapsed file per process: for speedscope or
flamegraph.pl.
"""

import argparse
import subprocess
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from bench.report import Result, Row, us_per_event
from bench.rig import Rig
from bench.statements import read, reset
from bench.usage import cpu_between, cpu_seconds

TOP = 12
_EVERYWHERE = 0.9  # of a process's samples: what started it, or waits for everything


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
        rig.flood(2.0, open_max=5_000)
        rig.drain()
        reset(rig.engine)
        before = cpu_seconds(rig.platform)
        samplers = [_sample(name, pid, folder, options.seconds) for name, pid in _pids(rig)]
        if options.rate > 0:
            events = len(rig.trickle([(options.rate, options.seconds)]))
        else:
            events = rig.flood(options.seconds, open_max=5_000).accepted
        cpu = cpu_between(before, cpu_seconds(rig.platform))
        statements = read(rig.engine)
        for sampler in samplers:
            sampler.wait(timeout=60)
        books = rig.drain()
        figures = [row for file in sorted(folder.glob("*.collapsed")) for row in _top(file)]
    notes = [
        f"{one.ms * 1000 / events:8.1f} us/event  {one.calls / events:7.3f} calls/event "
        f" {one.wal_bytes / events:8.0f} WAL bytes/event  {one.name}"
        for one in statements[:14]
    ]
    return Result(
        benchmark="profile",
        settings={"rate": options.rate or "flood", "seconds": options.seconds, "events": events},
        figures=figures,
        books=books,
        us_per_event=us_per_event(cpu, events),
        notes=notes,
    )


def _pids(rig: Rig) -> list[tuple[str, int]]:
    found = []
    for member in rig.platform.processes.values():
        found.append((member.name, member.pid))
        children = psutil.Process(member.pid).children(recursive=True)
        found += [(f"{member.name}-child-{n}", c.pid) for n, c in enumerate(children)]
    return found


def _sample(name: str, pid: int, folder: Path, seconds: float) -> "subprocess.Popen[bytes]":
    py_spy = Path(sysconfig.get_path("scripts")) / "py-spy"
    file = folder / f"{name}.collapsed"
    command = [str(py_spy), "record", "--pid", str(pid), "--duration", str(round(seconds))]
    command += ["--rate", "100", "--format", "raw", "--native", "--output", str(file)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _top(file: Path) -> list[Row]:
    """The frames that most samples of a process had, each counted once per stack."""
    inclusive: Counter[str] = Counter()
    whole = 0
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        whole += int(count)
        for frame in {part.rsplit(":", 1)[0] for part in stack.split(";")}:
            inclusive[frame] += int(count)
    own = [(f, c) for f, c in inclusive.most_common() if c < _EVERYWHERE * whole]
    return [
        {"process": file.stem, "share": f"{count / max(1, whole):.0%}", "samples": count, "in": f}
        for f, count in own[:TOP]
    ]
