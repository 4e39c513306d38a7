"""Machine: what this machine gives any program, to tell what is ours from what is the machine's.

Nothing of Veltrix is measured, so there are no books. Compare two machines by this table before
comparing anything else on them.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psycopg

from bench.report import Result, Row, progress
from veltrix.dev.servers.postgres import Postgres

SPACING_S = 0.003  # between two events at 333/s
_LINE_BYTES, _WORD_BYTES = 64, 8
_CACHED = 256 << 10
_SIZES = (1 << 20, 4 << 20, 16 << 20, 256 << 20)
_STEPS = 1_000_000
_TURNS = 10_000_000
_LIST = 500


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each part")


def run(options: argparse.Namespace) -> Result:
    """One part after the other, each by itself."""
    figures: list[Row] = []
    parts = (_python, _memory, _wake_up, _disk, _database)
    with tempfile.TemporaryDirectory(prefix="veltrix-machine-") as folder:
        for part in parts:
            progress(part.__name__.strip("_").replace("_", " "))
            figures += part(Path(folder), options.seconds)
    return Result(
        benchmark="machine", settings={"seconds": options.seconds}, figures=figures, books=None
    )


def _row(what: str, figure: float, unit: str, **more: float) -> Row:
    shown = {name: round(value, 1) for name, value in more.items()}
    return {"what": what, "figure": round(figure, 2 if unit == "s" else 1), "unit": unit} | shown


def _spread(what: str, values_s: list[float]) -> Row:
    """The median in microseconds, and the 99th percentile beside it."""
    ordered = sorted(values_s)
    return _row(what, _us(ordered[len(ordered) // 2]), "us", p99=_us(ordered[-len(ordered) // 100]))


def _us(seconds: float) -> float:
    return seconds * 1e6


# Processors


def _python(_folder: Path, _seconds: float) -> Iterator[Row]:
    with _processes(2) as pool:
        yield _row("10,000,000 turns of a Python loop", _loop(_TURNS), "s")
        both = list(pool.map(_loop, [_TURNS] * 2))
        yield _row("... two processes at once, the slower", max(both), "s")


def _loop(turns: int) -> float:
    began, total = time.perf_counter(), 0
    for number in range(turns):
        total += number
    return time.perf_counter() - began


def _memory(_folder: Path, _seconds: float) -> Iterator[Row]:
    """Each load needs the one before; the time of Python itself is that of the smallest."""
    floor_s = _chase(_CACHED)
    for size in _SIZES:
        told = f"a load from {size >> 20} MiB, beyond one from {_CACHED >> 10} KiB"
        yield _row(told, (_chase(size) - floor_s) * 1e9, "ns")


def _chase(size: int) -> float:
    """Seconds per step of a walk over all cache lines of so many bytes, in no order."""
    lines, words = size // _LINE_BYTES, _LINE_BYTES // _WORD_BYTES
    memory = array("q", bytes(size))
    here = 0
    for _ in range(lines):  # a full cycle: lines is a power of two
        following = (here * 1_664_525 + 1_013_904_223) % lines
        memory[here * words] = following * words
        here = following
    at = 0
    for _ in range(min(lines, _STEPS)):  # what fits into the caches is in them
        at = memory[at]
    began = time.perf_counter()
    for _ in range(_STEPS):
        at = memory[at]
    return (time.perf_counter() - began) / _STEPS


def _wake_up(_folder: Path, seconds: float) -> Iterator[Row]:
    """A byte to another process and back: two wake-ups."""
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=_echo, args=(there,), daemon=True)
    other.start()
    there.close()
    here.send_bytes(b"1")
    here.recv_bytes()

    def _round() -> None:
        here.send_bytes(b"1")
        here.recv_bytes()

    yield from _both("a byte to another process and back", _round, seconds)
    here.close()
    other.join()


def _echo(pipe: "multiprocessing.connection.Connection") -> None:
    try:
        while True:
            pipe.send_bytes(pipe.recv_bytes())
    except EOFError:
        return


# Disk and database


def _disk(folder: Path, seconds: float) -> Iterator[Row]:
    size, place = 16 << 20, 0
    file = os.open(folder / "synced", os.O_CREAT | os.O_RDWR)
    try:
        os.write(file, bytes(size))
        os.fsync(file)

        def _write() -> None:
            nonlocal place
            os.pwrite(file, b"x" * 8192, place)
            os.fdatasync(file)
            place = (place + 8192) % size

        yield from _both("write and fdatasync of 8 KiB", _write, seconds)
    finally:
        os.close(file)


def _both(what: str, once: Callable[[], None], seconds: float) -> Iterator[Row]:
    """One after the other, and with a pause before each as between two events."""
    for told, pause_s in (
        (f"{what}, one after the other", 0.0),
        (f"{what}, every 3 ms", SPACING_S),
    ):
        values = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if pause_s:  # the pause is what is measured: how much dearer a cold call is
                time.sleep(pause_s)
            began = time.perf_counter()
            once()
            values.append(time.perf_counter() - began)
        yield _spread(told, values)


def _database(folder: Path, seconds: float) -> Iterator[Row]:
    server = Postgres(folder / "postgres")
    server.start()
    try:
        url = server.url.replace("postgresql+psycopg:", "postgresql:")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create table singles (id bigserial primary key, x text)")
            connection.execute("create table lists (id bigint primary key, x text)")
        for clients in (1, 4, 16):
            with _processes(clients) as pool:
                rates = pool.map(_insert, [url] * clients, [seconds] * clients)
                yield _row(f"inserts with a commit each, {clients} at once", sum(rates), "1/s")
        yield _row(
            f"rows by lists of {_LIST} with a commit each", _insert_lists(url, seconds), "1/s"
        )
    finally:
        server.stop()


def _processes(number: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"))


def _insert(url: str, seconds: float) -> float:
    done = 0
    with psycopg.connect(url, autocommit=True) as connection:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.execute("insert into singles (x) values (%s)", ("x" * 100,))
            done += 1
        return done / (time.perf_counter() - began)


def _insert_lists(url: str, seconds: float) -> float:
    query = (
        "insert into lists select * from unnest(%s::bigint[], %s::text[]) on conflict do nothing"
    )
    done = 0
    with psycopg.connect(url, autocommit=True) as connection:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.execute(query, (list(range(done, done + _LIST)), ["x" * 100] * _LIST))
            done += _LIST
        return done / (time.perf_counter() - began)
