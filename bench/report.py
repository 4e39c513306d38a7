"""What a benchmark says: figures, the machine they are from, and whether the books balance."""

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from sqlalchemy import Engine

from app.dev.platform import Platform
from app.pipeline.books import balance


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """{p50, p99, p999, max} in milliseconds."""
    ordered = sorted(values_ms)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    if not ordered:
        return {}
    return {"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": round(ordered[-1], 2)}


def drain(engine: Engine, expected: int, deadline_s: float) -> tuple[Any, float]:
    """The balance once nothing is open, and the Unix time it was seen."""
    end = time.monotonic() + deadline_s
    while True:
        books = balance(engine)
        is_done = books.runs.open == 0 and books.runs.succeeded >= expected
        if is_done or time.monotonic() > end:
            return books, time.time()
        time.sleep(0.1)


def machine() -> dict[str, Any]:
    """What the figures are from."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "celery": version("celery"),
        "psycopg": version("psycopg"),
        "sqlalchemy": version("sqlalchemy"),
        "durability": "synchronous_commit=on fsync=on, quorum queue",
        "shape": "1 api, 1 relay, 1 worker with 2 children, load generator beside them",
    }


def show(title: str, figures: dict[str, Any], *, as_json: bool) -> int:
    """Print the figures; the exit code: 1 if anything is unaccounted or open."""
    figures = {"benchmark": title, **figures, "machine": machine()}
    if as_json:
        print(json.dumps(figures))
    else:
        print(title)
        for name, value in figures.items():
            print(f"  {name:<18} {value}")
    return 1 if figures["unaccounted"] or figures["open"] else 0


def address(platform_: Platform) -> tuple[str, int]:
    """Host and port of the first api."""
    host, _, port = platform_.api_url.removeprefix("http://").partition(":")
    return host, int(port)
