"""What a benchmark says: its figures, what they are from, and whether the books balance."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
DURABILITY = (
    "PostgreSQL fsync=on synchronous_commit=on full_page_writes=on;"
    " RabbitMQ classic queues unless the settings say quorum"
)
PAYLOAD = "CloudEvents of 200 bytes, each starts a run of one journalled step unless said"


class Books(msgspec.Struct, frozen=True):
    """The ledger after a benchmark. `missing`: accepted by an answer and not in the ledger."""

    accepted: int
    succeeded: int
    failed: int
    open: int
    unaccounted: int
    missing: int

    @property
    def settled(self) -> int:
        """Runs with an outcome."""
        return self.succeeded + self.failed

    @property
    def balance(self) -> bool:
        """Everything accepted is there and succeeded."""
        return not (self.failed or self.open or self.unaccounted or self.missing)


class Result(msgspec.Struct, kw_only=True):
    """`figures` are rows of one table; `us_per_event` is CPU by kind of process."""

    benchmark: str
    settings: Row
    figures: Sequence[Row]
    books: Books | None  # None: nothing was accepted, there are none
    us_per_event: Row = {}
    notes: Sequence[str] = ()
    is_as_promised: bool = True

    @property
    def exit_code(self) -> int:
        """1 if anything is unaccounted, missing, failed or open, or what must hold did not."""
        balance = self.books is None or self.books.balance
        return 0 if balance and self.is_as_promised else 1


def percentiles(values_s: Sequence[float], prefix: str = "") -> dict[str, float]:
    """{p50, p99, p99.9, max} in milliseconds of seconds; empty of none."""
    ordered = sorted(values_s)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)

    if not ordered:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {f"{prefix}{name}": at(share) for name, share in shares.items()}


def us_per_event(cpu_s: Mapping[str, float], events: int) -> dict[str, int]:
    """CPU microseconds per event by kind of process, and together."""
    each = {kind: round(seconds * 1e6 / max(1, events)) for kind, seconds in cpu_s.items()}
    return {**each, "together": sum(each.values())}


def machine() -> dict[str, Any]:
    """What the figures are from."""
    packages = ("veltrix", "celery", "kombu", "sqlalchemy", "psycopg", "uvicorn", "uvloop")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "durability": DURABILITY,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def show(result: Result, *, as_json: bool) -> None:
    """Print it: tables for people, one line for scripts."""
    if as_json:
        told = msgspec.to_builtins(result) | {"payload": PAYLOAD, "machine": machine()}
        print(json.dumps(told))
        return
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 250)
    console.print(f"[bold]{result.benchmark}[/]  {_words(result.settings)}")
    console.print(_table(result.figures))
    if result.us_per_event:
        console.print("CPU microseconds per event:", _words(result.us_per_event))
    for note in result.notes:
        console.print(note, markup=False)
    if result.books:
        state = "[green]balance[/]" if result.books.balance else "[red]DO NOT BALANCE[/]"
        console.print(f"books {state}: {_words(msgspec.to_builtins(result.books))}")
    if not result.is_as_promised:
        console.print("[red]what this benchmark checks does not hold[/]")
    console.print(f"[dim]{PAYLOAD}; {_words(machine())}[/]")


def _table(rows: Sequence[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*(str(name) for name in names), header_style="bold", box=None)
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in names))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _words(values: Row) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in values.items())


_began = time.monotonic()


def progress(text: str) -> None:
    """A line on stderr: what long work does now."""
    print(f"{time.monotonic() - _began:7.1f} s  {text}", file=sys.stderr, flush=True)
