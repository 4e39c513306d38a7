"""Partitions: what each layout of the ledger's tables costs our own statements.

In a PostgreSQL of its own every layout has the same settled history, and the layouts take turns.
Figures are processor time of the session's process, which has in it what `pg_stat_statements`
leaves out: locks, the start of an execution, the commit.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import getloadavg
from pathlib import Path
from statistics import median
from typing import Any

from bench.layout_turns import SIZES, Costs, Measured, session_of
from bench.layouts import LAYOUTS, WAYS, make, seed
from bench.report import Result, Row, progress
from bench.seed import check_room
from veltrix.dev.servers.postgres import Postgres
from veltrix.store import schema

CHOSEN = "lives, told"
SLOWER_MAX = 1.05
HOT = tuple(f"{what} of {size}" for what in ("accept", "claim", "settle") for size in SIZES)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--events", type=int, default=1_000_000, help="settled, in each layout")
    parser.add_argument("--turns", type=int, default=5)


def run(options: argparse.Namespace) -> Result:
    """Lay out and seed; then every way in every turn."""
    check_room(Path("/tmp"), options.events * len(LAYOUTS))  # noqa: S108 - where the server is
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="veltrix-partitions-") as folder:
        server = Postgres(Path(folder) / "postgres")
        server.start()
        try:
            url = _ledger(server)
            for layout in LAYOUTS:
                progress(f"seeding {layout.name}")
                with session_of(url, is_hot=False) as tx:
                    make(tx, layout, now)
                    seed(tx, layout, options.events, now)
            server.execute("checkpoint")
            sessions = [Measured(url, way, now, options.events) for way in WAYS]
            for one in sessions:
                progress(f"warming {one.way.name}")
                one.warm()
            for turn in range(1, options.turns + 1):
                progress(f"turn {turn}, load {getloadavg()[0]:.1f}")
                for one in sessions if turn % 2 else reversed(sessions):
                    one.turn()
            beside = {one.way.name: one.beside() for one in sessions}
            for one in sessions:  # last: who shares the layout has to plan again, too
                beside[one.way.name] |= one.planned_again()
                one.close()
            figures = list(_figures({one.way.name: one.costs for one in sessions}, beside))
        finally:
            server.stop()
    shares = {row["what"]: row[CHOSEN] / row["today"] for row in figures if row["what"] in HOT}
    together = _together(figures, CHOSEN) / _together(figures, "today")
    return Result(
        benchmark="partitions",
        settings={"events": options.events, "turns": options.turns, "load": getloadavg()[0]},
        figures=figures,
        books=None,
        notes=[
            f"{CHOSEN}: " + ", ".join(f"{what} x{share:.2f}" for what, share in shares.items()),
            f"{CHOSEN}: accept, claim and settle in lists of 250 together x{together:.3f}",
        ],
        is_as_promised=together <= SLOWER_MAX,
    )


def _ledger(server: Postgres) -> str:
    """A migrated database; nothing but the sessions works in this server, or writes its log."""
    for setting in ("autovacuum = off", "full_page_writes = off", "max_wal_size = '16GB'"):
        server.execute(f"alter system set {setting}")
    server.execute("select pg_reload_conf()")
    url = server.create_database("ledger")
    schema.upgrade(url)
    return url


def _figures(
    costs: Mapping[str, Costs], beside: Mapping[str, Mapping[str, float]]
) -> Iterator[Row]:
    """A row for each statement, a column for each way: medians over the turns."""
    names = list(dict.fromkeys(name for found in costs.values() for name in found))
    for column, unit in ((0, "us"), (1, "bytes of log")):
        for name in names:
            row: dict[str, Any] = {"what": name, "unit": unit}
            for way, found in costs.items():
                values = [each[column] for each in found.get(name, ())]
                row[way] = round(median(values), 1) if values else ""
            if column == 0 or any(isinstance(row[way], float) and row[way] >= 1 for way in costs):
                yield row | ({"what": f"{name}, log"} if column else {})
    for name in next(iter(beside.values())):
        yield {"what": name, "unit": ""} | {way: found[name] for way, found in beside.items()}


def _together(figures: Sequence[Row], way: str) -> float:
    return sum(
        float(row[way]) for row in figures if row["what"] in HOT and row["what"].endswith("250")
    )
