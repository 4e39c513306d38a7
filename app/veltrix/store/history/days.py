"""The days of the ledger: which there are, made ahead, and runs that ended put into theirs."""

from datetime import date

import msgspec
from sqlalchemy import Connection

AHEAD_DAYS = 7
LATE_ROWS_MAX = 10_000  # rows of a day that is made late, moved in one transaction
PARTS = ("events", "journal", "failed_attempts", "runs_ended")
_KEYS = {"events": "id", "journal": "run_id", "failed_attempts": "run_id", "runs_ended": "id"}


class Days(msgspec.Struct, frozen=True):
    """How the ledger stands. `ahead`: days from today on that all of its tables have, today too.

    `late`: tables that took rows of days they do not have. `unsplit`: tables that are whole still.
    `checked`: tables that refuse what is accepted from the day `refuses_from` on, since a split of
    them was never finished.
    """

    today: date
    ahead: int = 0
    late: tuple[str, ...] = ()
    unsplit: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()

    @property
    def is_split(self) -> bool:
        """All of it."""
        return not self.unsplit


_TODAY = "select (now() at time zone 'UTC')::date"
_STATE = """
select k.name, coalesce(c.relkind = 'p', false), exists (
    select from pg_constraint b where b.conrelid = c.oid and b.conname = k.name || '_before'
)
from unnest(%(name)s::text[]) as k(name) left join pg_class c on c.oid = to_regclass(k.name)
"""
_AHEAD = """
select count(*) from generate_series(0, %(days)s) d(day)
where not exists (
    select from unnest(%(parts)s::text[]) as k(name)
    where not exists (
        select from parts_of(to_regclass(k.name)) p
        where p.low <= first_id_of_day((now() at time zone 'UTC')::date + d.day)
            and p.high >= first_id_of_day((now() at time zone 'UTC')::date + d.day + 1)
    )
)
"""
_MAKE = "select make_day(%(day)s::date, %(rows_max)s)"
# What old code settled, and what had ended before the split, oldest first. The life of a run that
# is open is 0, so what is looked for is in no index: the table is read page by page, from `after`.
_MOVE = """
with page as materialized (
    select id, state from runs where life = 0 and id > %(after)s::uuid order by id limit %(limit)s
), ended as materialized (
    select id from runs
    where life = 0 and id = any(array(
        select id from page where state in ('succeeded', 'failed', 'cancelled')))
    order by id for no key update skip locked
), moved as (
    update runs r set life = life_of(r.state) from ended
    where r.life = 0 and r.id = ended.id and r.state in ('succeeded', 'failed', 'cancelled')
    returning r.id
)
select (select count(*) from moved), (select count(*) from page), (select max(id::text) from page)
"""


def today(tx: Connection) -> date:
    """The day that the ledger is at (UTC)."""
    found: date = tx.exec_driver_sql(_TODAY).scalar_one()
    return found


def look(tx: Connection) -> Days:
    """How the ledger stands."""
    names = ["events", "journal", "failed_attempts", "runs"]
    state = tx.exec_driver_sql(_STATE, {"name": names}).all()
    unsplit = tuple(name for name, is_split, _ in state if not is_split)
    checked = tuple(name for name, is_split, is_checked in state if is_checked and not is_split)
    if unsplit:
        return Days(today(tx), unsplit=unsplit, checked=checked)
    keys = {"days": AHEAD_DAYS, "parts": list(PARTS)}
    late = tuple(
        name
        for name in PARTS
        if tx.exec_driver_sql(f"select exists (select from {name}_default limit 1)").scalar_one()  # noqa: S608 - of ours
    )
    return Days(today(tx), int(tx.exec_driver_sql(_AHEAD, keys).scalar_one()), late)


def make(tx: Connection, day: date) -> bool:
    """The day is there; whether any table of it was made. Not while the default has many of it.

    In autocommit. Raises what says that a lock could not be had, after a fifth of a second.
    """
    keys = {"day": day, "rows_max": LATE_ROWS_MAX}
    return bool(tx.exec_driver_sql(_MAKE, keys).scalar_one())


def move_ended(tx: Connection, after: str, limit: int) -> tuple[int, str | None]:
    """Put the ended among the next `limit` runs of the first life where they belong.

    How many were moved, and where the next page begins; None: this was the last. In autocommit.
    """
    moved, read, last = tx.exec_driver_sql(_MOVE, {"after": after, "limit": limit}).one()
    return int(moved), last if read == limit else None
