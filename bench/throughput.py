"""Throughput: what the whole platform sustains, accept to outcome, over HTTP in batches."""

import argparse

from sqlalchemy import text

from bench.load import Flooded
from bench.report import Result, Row, us_per_event
from bench.rig import Rig, add_queue_option
from bench.usage import cpu_between, cpu_seconds
from veltrix.store.transactions import transaction

OPEN_MAX = 5_000
_SPAN = """
select extract(epoch from min(e.accepted_at))::float8, extract(epoch from max(r.settled_at))::float8
from events e join runs r on r.event_id = e.id
where e.id >= cast(:since as uuid) and r.id >= cast(:since as uuid)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument(
        "--open-max", type=int, default=OPEN_MAX, help="no batch while more are open; 0: no bound"
    )
    add_queue_option(parser)


def run(options: argparse.Namespace) -> Result:
    """One flood, drained."""
    with Rig(queue_type=options.queue) as rig:
        before = cpu_seconds(rig.platform)
        flooded, figures = sustained(rig, options.seconds, options.batch, options.open_max)
        cpu = cpu_between(before, cpu_seconds(rig.platform))
        books = rig.books()
    settings = {
        "seconds": options.seconds,
        "batch": options.batch,
        "open_max": options.open_max,
        "queue": options.queue,
    }
    each = us_per_event(cpu, flooded.accepted)
    return Result(
        benchmark="throughput", settings=settings, figures=[figures], books=books, us_per_event=each
    )


def sustained(
    rig: Rig, seconds: float, size: int = 250, open_max: int = OPEN_MAX, type_: str = "bench.event"
) -> tuple[Flooded, Row]:
    """Flood, drain, and the rates: settled from the first accept to the last outcome."""
    since = now_id(rig)
    flooded = rig.flood(seconds, size=size, open_max=open_max, type_=type_)
    rig.drain()
    with transaction(rig.engine) as tx:
        began, ended = tx.execute(text(_SPAN), {"since": since}).one()
    rates = {
        "accepted": flooded.accepted,
        "refused": flooded.refused,
        "accepted_per_s": round(flooded.accepted / flooded.seconds),
        "settled_per_s": round(flooded.accepted / (ended - began)) if flooded.accepted else 0,
    }
    return flooded, rates


def now_id(rig: Rig) -> str:
    """Every id made from now on is greater."""
    with transaction(rig.engine) as tx:
        ms = tx.execute(text("select floor(extract(epoch from now()) * 1000)::bigint")).scalar_one()
    return f"{ms:012x}{0:020x}"
