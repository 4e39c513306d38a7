"""Dropping: what accepts feel while a part of the ledger with so many events leaves it.

The part is seeded by SQL and ends now, as if it were yesterday. Requests of one event each come at
a rate all the time; around each step of the drop their time until the 202 is looked at by itself.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Engine, text

from bench.load import Sent
from bench.report import Result, percentiles, progress
from bench.rig import Rig
from bench.seed import check_room, seed
from veltrix.domain.ids import first_id_at
from veltrix.operations.retention.drop import drop_next
from veltrix.store.history.days import PARTS
from veltrix.store.transactions import transaction

TIMES_MAX = 2.0
RATE = 333.0
BEFORE_S, AFTER_S = 20.0, 10.0
_END = """
select high::text from parts_of(cast(:whole as regclass)) where part::text = :whole || '_first'
"""
_POLICY = """
insert into retention_policies (workflow, outcome, content_s, lines_s, changed_by)
values ('', 'succeeded', 1, 86400, 'bench')
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--events", type=int, default=10_000_000, help="of the part that leaves")
    parser.add_argument("--most", type=float, default=900.0, help="seconds that a drop may take")


def run(options: argparse.Namespace) -> Result:
    """Seed, cut, and drop under load."""
    check_room(Path("/tmp"), 2 * options.events)  # noqa: S108 - where the rig is; lines, too
    with Rig() as rig, ThreadPoolExecutor(1) as threads:
        seed(rig.engine, options.events, progress)
        rig.accepted += options.events
        _cut(rig.engine)
        steps: list[tuple[float, str]] = []

        def drop() -> None:
            Event().wait(BEFORE_S)
            steps.append((time.time(), "it begins"))

            def tell(step: str) -> None:
                progress(step)
                steps.append((time.time(), step))

            drop_next(rig.engine, author="bench", tell=tell)

        dropping = threads.submit(drop)
        sent: list[Sent] = []
        end_at = time.time() + BEFORE_S + options.most
        while not dropping.done() and time.time() < end_at:
            sent += rig.trickle([(RATE, BEFORE_S)])
        dropping.result(timeout=0.0)
        sent += rig.trickle([(RATE, AFTER_S)])
        books = rig.drain()
    figures = _figures(sent, steps)
    own, worst = figures[0]["p99"], max(row["p99"] for row in figures[1:])
    return Result(
        benchmark="dropping",
        settings={"events": options.events, "rate": RATE},
        figures=figures,
        books=books,
        notes=[f"p99 of the worst step is {worst / own:.1f} times that before it"],
        is_as_promised=worst <= TIMES_MAX * own,
    )


def _cut(engine: Engine) -> None:
    """What is there is a part of its own, which ends now."""
    with transaction(engine) as tx:
        now = tx.execute(text("select now()")).scalar_one()
        cut = first_id_at(now)
        for whole in PARTS:
            high = tx.execute(text(_END), {"whole": whole}).scalar_one()
            first, rest = f"{whole}_first", f"{whole}_now"
            bounds = {first: f"(minvalue) to ('{cut}')", rest: f"('{cut}') to ('{high}')"}
            tx.execute(text(f"alter table {whole} detach partition {first}"))
            tx.execute(text(f"create table {rest} (like {whole}_default including all)"))
            for part, values in bounds.items():
                attach = f"attach partition {part} for values from {values}"
                tx.execute(text(f"alter table {whole} {attach}"))
        tx.execute(text(_POLICY))


def _figures(sent: list[Sent], steps: list[tuple[float, str]]) -> list[dict[str, Any]]:
    """Milliseconds until the 202, before the drop and in each of its steps."""
    bounds = [0.0, *(at for at, _ in steps), float("inf")]
    names = ["before", *(f"until: {name}" for _, name in steps[1:]), "after"]
    rows = []
    for name, since, until in zip(names, bounds[:-1], bounds[1:], strict=True):
        within = (one for one in sent if since <= one.due < until and one.answered)
        values = [one.answered - one.due for one in within]
        if values:
            rows.append({"step": name, "accepts": len(values), **percentiles(values)})
    return rows
