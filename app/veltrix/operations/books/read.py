"""The books read: their totals, and a page of accounts, however many of those there are.

A sealed minute agreed with its rows and had nothing open, so what is astray is looked for in the
minutes that are not sealed, in deltas and in open rows; of the totals only whether they agree with
themselves. All of it in one REPEATABLE READ snapshot.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.store.tables import COUNTED

_COLUMNS = ", ".join(COUNTED)
_SUMS = ", ".join(f"sum({name})::bigint as {name}" for name in COUNTED)
_STATES = ("queued", "running", "waiting")
_OPEN = " + ".join(_STATES)
_COUNT_STATES = ", ".join(f"count(*) filter (where state = '{s}') as {s}" for s in _STATES)
_BOTH = ", ".join(f"coalesce(j.{n}, 0) + coalesce(t.{n}, 0) as {n}" for n in COUNTED)
_ASTRAY = """abs(accepted - routed - unrouted)
    + abs(started - succeeded - failed - cancelled{open})"""

# Two differences of the living books show at once: events that are neither routed nor unrouted, and
# runs that are neither settled nor open rows. What a recount found may be more.
_LIVING = f"""
living as materialized (
    select account_id, {", ".join(f"coalesce({name}, 0) as {name}" for name in COUNTED)},
        {", ".join(f"coalesce({state}, 0) as {state}" for state in _STATES)},
        coalesce(discrepancy, 0) as discrepancy, oldest_at
    from (
        select account_id, {_SUMS}, sum(discrepancy)::bigint as discrepancy from (
            select account_id, {_COLUMNS}, discrepancy from counters where not is_sealed
            union all
            select account_id, {_COLUMNS}, 0 from counter_deltas
            where account_id <> {CANARY_ACCOUNT}
        ) as both_tables group by account_id
    ) as counted
    full join (
        select account_id, {_COUNT_STATES},
            min(started_at) as oldest_at
        from runs where due_at is not null and account_id <> {CANARY_ACCOUNT} group by account_id
    ) as open using (account_id)
), judged as materialized (
    select *, greatest(discrepancy, {_ASTRAY.format(open=f" - ({_OPEN})")}) as unaccounted
    from living
)
"""  # noqa: S608 - column names of our own tables

_TOTALS = f"""
with {_LIVING}
select now(), {", ".join(f"sum({name})::bigint" for name in COUNTED)},
    {", ".join(f"sum({state})::bigint" for state in _STATES)}, sum(unaccounted)::bigint,
    min(oldest_at)
from (
    select {_COLUMNS}, {", ".join(_STATES)}, unaccounted, oldest_at from judged
    union all
    select {_COLUMNS}, 0, 0, 0, {_ASTRAY.format(open="")}, null from counter_totals
) as books
"""  # noqa: S608 - as _LIVING

_PAGE = f"""
with {_LIVING}
select account_id, source, type, {", ".join(f"b.{name}" for name in COUNTED)},
    {", ".join(_STATES)}, unaccounted
from (
    select account_id, {_BOTH},
        {", ".join(f"coalesce({state}, 0) as {state}" for state in _STATES)},
        coalesce(j.unaccounted, 0) + coalesce(t.unaccounted, 0) as unaccounted
    from judged j
    full join (
        select *, {_ASTRAY.format(open="")} as unaccounted from counter_totals
    ) t using (account_id)
    order by coalesce(j.unaccounted, 0) + coalesce(t.unaccounted, 0) desc,
        coalesce({_OPEN}, 0) desc, coalesce(j.accepted, 0) + coalesce(t.accepted, 0) desc,
        account_id desc
    limit %(limit)s offset %(skip)s
) as b left join accounts a on a.id = b.account_id
order by unaccounted desc, {_OPEN} desc, accepted desc, account_id desc
"""  # noqa: S608 - as _LIVING

_COUNT = "select count(*) from accounts"


class Summed(msgspec.Struct, frozen=True):
    """Counters by the names of COUNTED, open runs by state, and what cannot be accounted for."""

    counted: dict[str, int]
    open: dict[str, int]
    unaccounted: int


class Totals(Summed, frozen=True):
    """All accounts at one moment. `oldest_at`: since when the oldest open run is, if any is."""

    as_of: datetime
    oldest_at: datetime | None


class AccountSums(Summed, frozen=True):
    """One account; `id` 0 is "not known", that of the overflow account has no source either."""

    id: int
    source: str | None
    type: str | None


def totals(tx: Connection) -> Totals:
    """Both sides of the books, in sum. Costs what is not sealed and what is open."""
    as_of, *numbers, unaccounted, oldest_at = tx.exec_driver_sql(_TOTALS).one()
    counted, open_ = _split(numbers)
    return Totals(counted, open_, unaccounted or 0, as_of, oldest_at)


def page(tx: Connection, *, limit: int, skip: int = 0) -> list[AccountSums]:
    """Accounts: those with most unaccounted first, then most open, then most accepted."""
    found = []
    keys = {"limit": limit, "skip": skip}
    for id_, source, type_, *numbers, unaccounted in tx.exec_driver_sql(_PAGE, keys):
        counted, open_ = _split(numbers)
        found.append(AccountSums(counted, open_, unaccounted, id_, source, type_))
    return found


def count(tx: Connection) -> int:
    """How many accounts there are."""
    return int(tx.exec_driver_sql(_COUNT).scalar_one())


def _split(numbers: list[int | None]) -> tuple[dict[str, int], dict[str, int]]:
    values = [number or 0 for number in numbers]
    return (
        dict(zip(COUNTED, values, strict=False)),
        dict(zip(_STATES, values[len(COUNTED) :], strict=True)),
    )
