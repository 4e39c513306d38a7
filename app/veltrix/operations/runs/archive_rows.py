"""Runs held for an action on many, and those put away: archived runs are failed, and in no list.

Failed runs never expire by themselves; archiving one is a decision, with an author and a reason.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, func, literal_column, select

from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read import conditions_of
from veltrix.store.arrays import TextArray
from veltrix.store.failure_deltas import RUN_GROUP, RUN_KIND
from veltrix.store.tables import runs


class Eligible(StrEnum):
    """What runs must be for an action."""

    OPEN = "open"
    FAILED = "failed"
    ARCHIVED = "archived"


class HeldRuns(msgspec.Struct, frozen=True):
    """A run whose row is locked; `state` None: there is no such run."""

    id: str
    state: str | None
    is_archived: bool


_HOLD = """
select id::text, state, archived_at is not null from runs where id = any(%(id)s::uuid[])
order by id for no key update
"""

# `sign` of what the group counts: archived runs leave its count and are counted beside it.
_PUT = """
with moved as (
    update runs set archived_at = {time}
    where life < 2 and id = any(%(id)s::uuid[]) and state = 'failed'
        and (archived_at is null) = {is_listed}
    returning id, generation, workflow, fingerprint, reason
), grouped as (
    insert into failure_deltas (group_id, kind, workflow, count, archived)
    select {group}, {kind}, workflow, {sign} count(*), -({sign} count(*))
    from moved group by 1, 2, 3
), noted as (
    insert into actions (run_id, action, generation, author, reason)
    select id, %(action)s, generation, %(author)s, %(reason)s from moved order by id
)
select count(*) from moved
"""
_NAMED = {"group": RUN_GROUP, "kind": RUN_KIND}
_ARCHIVE = _PUT.format(time="now()", is_listed="true", sign="-", **_NAMED)
_RESTORE = _PUT.format(time="null", is_listed="false", sign="+", **_NAMED)


def hold(tx: Connection, run_ids: Sequence[str]) -> list[HeldRuns]:
    """Those of these runs that there are, locked in the order of their ids."""
    return [HeldRuns(*row) for row in tx.exec_driver_sql(_HOLD, {"id": TextArray(run_ids)})]


def hold_matching(tx: Connection, wanted: RunQuery, eligible: Eligible, limit: int) -> list[str]:
    """The ids of the first `limit` runs that `wanted` describes and that are so, locked."""
    found = (
        select(runs.c.id)
        .where(_is(eligible), *conditions_of(wanted))
        .order_by(runs.c.id)
        .limit(limit)
        .with_for_update(key_share=True)
    )
    return list(tx.execute(found).scalars())


def count_matching(tx: Connection, wanted: RunQuery, eligible: Eligible, limit: int) -> int:
    """How many runs `wanted` describes and are so; `limit` stands for that many and more."""
    found = select(runs.c.id).where(_is(eligible), *conditions_of(wanted)).limit(limit)
    return int(tx.execute(select(func.count()).select_from(found.subquery())).scalar_one())


def is_everything(tx: Connection, wanted: RunQuery, eligible: Eligible) -> bool:
    """Whether it leaves out no run that is so: it has no condition, or only times beyond all.

    Whatever else it asks for is a choice, even where every run happens to be like that.
    """
    known = {"state": None, "archived": None, "since": None, "until": None}
    if msgspec.structs.replace(wanted, **known) != RunQuery():
        return False
    return not _leaves_any(tx, wanted.since, wanted.until, eligible)


def _leaves_any(
    tx: Connection, since: datetime | None, until: datetime | None, eligible: Eligible
) -> bool:
    """Whether any run that is so was accepted before `since`, or at `until` or later."""
    beyond = []
    if since is not None:
        beyond.append(conditions_of(RunQuery(until=since)))
    if until is not None:
        beyond.append(conditions_of(RunQuery(since=until)))
    return any(
        tx.execute(select(runs.c.id).where(_is(eligible), *outside).limit(1)).first() is not None
        for outside in beyond
    )


def archive(tx: Connection, run_ids: Sequence[str], *, reason: str, author: str) -> int:
    """Put away those of these runs that are failed and listed; how many."""
    return _put(tx, _ARCHIVE, "archive", run_ids, reason, author)


def restore(tx: Connection, run_ids: Sequence[str], *, reason: str, author: str) -> int:
    """List those of these runs again that were put away; how many."""
    return _put(tx, _RESTORE, "restore", run_ids, reason, author)


def _put(
    tx: Connection, statement: str, action: str, run_ids: Sequence[str], reason: str, author: str
) -> int:
    values = {"id": TextArray(run_ids), "action": action, "reason": reason, "author": author}
    return int(tx.exec_driver_sql(statement, values).scalar_one())


def _is(eligible: Eligible) -> ColumnElement[bool]:
    if eligible is Eligible.OPEN:
        return runs.c.due_at.is_not(None)
    # As a literal, so that the planner sees that a partial index covers the question.
    is_failed = runs.c.state == literal_column("'failed'")
    is_put_away = runs.c.archived_at.is_not(None)
    return and_(is_failed, is_put_away if eligible is Eligible.ARCHIVED else ~is_put_away)
