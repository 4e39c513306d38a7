"""A ledger whose days of the past are there, as if it had been split long ago."""

from datetime import date, timedelta

from sqlalchemy import Connection, Engine, text

from veltrix.store.history.days import PARTS
from veltrix.store.history.dropped_rows import bounds_of
from veltrix.store.transactions import transaction

_END = "select high::text from parts_of('{whole}') where part = '{whole}_first'::regclass"


def make_old_days(engine: Engine, first: date, days: int) -> None:
    """`days` parts of a day from `first` on; what the split made is before and behind them."""
    with transaction(engine) as tx:
        for whole in PARTS:
            _split(tx, whole, [first + timedelta(days=n) for n in range(days + 1)])


def _split(tx: Connection, whole: str, days: list[date]) -> None:
    end = tx.execute(text(_END.format(whole=whole))).scalar_one()
    tx.execute(text(f"alter table {whole} detach partition {whole}_first"))
    lows = ["minvalue", *(f"'{bounds_of(day).first}'" for day in days)]
    names = ["first", *(f"{day:%Y%m%d}" for day in days[:-1]), "rest"]
    for name, low, high in zip(names, lows, [*lows[1:], f"'{end}'"], strict=True):
        part = f"{whole}_{name}"
        if name != "first":
            tx.execute(text(f"create table {part} (like {whole}_default including all)"))
        bounds = f"for values from ({low}) to ({high})"
        tx.execute(text(f"alter table {whole} attach partition {part} {bounds}"))
