"""Failure groups as people read them: a page of many, or one with what it is made of.

A page costs the same however many failures there are: it reads groups, never their failures.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from veltrix.domain.failure_groups import GroupKind, GroupState
from veltrix.domain.ids import Id
from veltrix.domain.states import RunState
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read import RunRow
from veltrix.operations.runs.read import page as runs_page

SAMPLES_MAX = 10
ROWS_MAX = 100_000
HOURS = 24
_DAYS_MAX = 60

Order = Literal["last_seen", "first_seen", "count"]


class GroupRow(msgspec.Struct, kw_only=True):
    """A group: a line of a list. `count` failures are there now, `total` were ever seen.

    Which of the names are set depends on the kind. `by_hour`: how many were seen in each of the
    last 24 hours, the current one last.
    """

    id: str
    kind: GroupKind
    state: GroupState
    workflow: str | None
    step: str | None
    type: str | None
    message: str | None
    queue: str | None
    reason: str | None
    source: str | None
    event_type: str | None
    count: int
    archived: int
    total: int
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_version: str | None
    state_changed_at: datetime
    state_changed_by: str | None
    state_reason: str | None
    by_hour: list[int] = []
    redacted: bool = False


class Bucket(msgspec.Struct):
    """How many were seen from `since` on, for an hour or a day."""

    since: datetime
    seen: int


class SeenVersion(msgspec.Struct):
    """How many were seen in this version of the code, to the hour; None: not known in which."""

    code_version: str | None
    seen: int
    first_seen_at: datetime
    last_seen_at: datetime


class Note(msgspec.Struct):
    """What an operator wrote beside the group."""

    id: int
    author: str
    text: str
    written_at: datetime


class GroupStory(GroupRow, kw_only=True):
    """A group with samples of what is failed now, newest first, and its notes, oldest first.

    `sparkline` has a bucket for each hour since the group was first seen, or for each day if that
    is more than two days ago; at most the last 60.
    """

    sparkline: list[Bucket]
    bucket_s: int
    versions: list[SeenVersion]
    runs: list[RunRow]
    dead_letters: list[int]
    events: list[Id]
    notes: list[Note]


class GroupFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which groups; None leaves a condition out. `since`: seen at or after it.

    Without `is_empty` those in which nothing is failed now are left out.
    """

    kind: GroupKind | None = None
    states: tuple[GroupState, ...] = ()
    workflow: str | None = None
    since: datetime | None = None
    is_empty: bool = False


class GroupPage(msgspec.Struct):
    """Groups in the order asked for. `next` goes on from here, None: there are no more."""

    items: list[GroupRow]
    next: str | None


_NAMES = GroupRow.__struct_fields__[:-2]
_COLUMNS = ", ".join(_NAMES)
_SORTED = {"last_seen": "last_seen_at", "first_seen": "first_seen_at", "count": "count"}

# By the index of the order, from the cursor on, which is a group: one that moved meanwhile is seen
# twice or not, as in every list of what is alive.
_PAGE = """
select {columns} from failure_groups g
where (%(cursor)s::text is null or ({sorted}, id) <
        (select {sorted}, id from failure_groups c where c.id = %(cursor)s::text))
    and (%(kind)s::text is null or kind = %(kind)s::text)
    and (cardinality(%(states)s::text[]) = 0 or state = any(%(states)s::text[]))
    and (%(workflow)s::text is null or workflow = %(workflow)s::text)
    and (%(since)s::timestamptz is null or last_seen_at >= %(since)s::timestamptz)
    and (%(is_empty)s or count > 0)
order by {sorted} desc, id desc limit %(limit)s
"""
_PAGES = {
    order: _PAGE.format(columns=_COLUMNS, sorted=sorted_) for order, sorted_ in _SORTED.items()
}

_ONE = f"select {_COLUMNS} from failure_groups where id = %(id)s"  # noqa: S608 - of constants

_BY_HOUR = """
select group_id, hours_ago, sum(seen)::bigint
from (
    select group_id, seen,
        (extract(epoch from date_trunc('hour', now()) - hour) / 3600)::int as hours_ago
    from failure_hours
    where group_id = any(%(id)s)
        and hour > date_trunc('hour', now()) - %(hours)s * interval '1 hour'
) as hours group by group_id, hours_ago
"""

_SPARKLINE = """
with span as (
    select case when first_seen_at < now() - interval '2 days' then 'day' else 'hour' end as unit
    from failure_groups where id = %(id)s
)
select extract(epoch from ('1 ' || unit)::interval)::int, since, coalesce(sum(seen), 0)::bigint
from span cross join lateral generate_series(
    greatest(date_trunc(unit, (select first_seen_at from failure_groups where id = %(id)s)),
        date_trunc(unit, now()) - (%(buckets)s - 1) * ('1 ' || unit)::interval),
    date_trunc(unit, now()), ('1 ' || unit)::interval
) as since
left join failure_hours h on h.group_id = %(id)s and h.hour >= since
    and h.hour < since + ('1 ' || unit)::interval
group by unit, since order by since
"""

_VERSIONS = """
select nullif(code_version, ''), sum(seen)::bigint, min(hour), max(hour)
from failure_hours where group_id = %(id)s
group by code_version order by max(hour) desc, code_version limit 100
"""

_NOTES = """
select id, author, text, written_at from failure_notes where group_id = %(id)s
order by id desc limit 100
"""

_LETTERS = """
select id from (
    select id, queue, reason from dead_letters where seen_at is null
    order by id desc limit %(rows_max)s
) as newest where queue = %(queue)s and reason = %(reason)s
order by id desc limit %(max)s
"""

_EVENTS = """
select id::text from (
    select id, source from events where unrouted and type = %(event_type)s
    order by id desc limit %(rows_max)s
) as newest where source = %(source)s
order by id desc limit %(max)s
"""


def page(
    tx: Connection,
    wanted: GroupFilter,
    order: Order = "last_seen",
    *,
    cursor: str | None = None,
    limit: int = 50,
) -> GroupPage:
    """The first `limit` groups that `wanted` describes, highest first, after the group `cursor`."""
    values = msgspec.structs.asdict(wanted) | {"cursor": cursor, "limit": limit}
    values["states"] = [state.value for state in wanted.states]
    rows = [_row(row) for row in tx.exec_driver_sql(_PAGES[order], values)]
    by_hour: dict[str, list[int]] = {row.id: [0] * HOURS for row in rows}
    hours = {"id": list(by_hour), "hours": HOURS}
    for group_id, hours_ago, seen in tx.exec_driver_sql(_BY_HOUR, hours):
        if 0 <= hours_ago < HOURS:
            by_hour[group_id][HOURS - 1 - hours_ago] = seen
    for row in rows:
        row.by_hour = by_hour[row.id]
    return GroupPage(rows, rows[-1].id if len(rows) == limit else None)


def has(tx: Connection, group_id: str) -> bool:
    """Whether there is this group."""
    asked = "select exists (select from failure_groups where id = %(id)s)"
    return bool(tx.exec_driver_sql(asked, {"id": group_id}).scalar_one())


def story(tx: Connection, group_id: str) -> GroupStory | None:
    """The group with what it is made of, or None if there is no such group."""
    found = tx.exec_driver_sql(_ONE, {"id": group_id}).one_or_none()
    if found is None:
        return None
    row, key = _row(found), {"id": group_id}
    buckets = tx.exec_driver_sql(_SPARKLINE, key | {"buckets": _DAYS_MAX}).all()
    notes = [Note(*note) for note in tx.exec_driver_sql(_NOTES, key)]
    return GroupStory(
        **msgspec.structs.asdict(row),
        sparkline=[Bucket(since, seen) for _, since, seen in buckets],
        bucket_s=buckets[0][0] if buckets else 3600,
        versions=[SeenVersion(*version) for version in tx.exec_driver_sql(_VERSIONS, key)],
        runs=_failed_runs(tx, group_id) if row.workflow is not None else [],
        dead_letters=_samples(tx, _LETTERS, row) if row.reason is not None else [],
        events=_samples(tx, _EVENTS, row) if row.source is not None else [],
        notes=notes[::-1],
    )


def redact(row: GroupRow) -> None:
    """Take the message out, which may hold what a payload said."""
    row.message, row.redacted = None, True


def _failed_runs(tx: Connection, group_id: str) -> list[RunRow]:
    wanted = RunQuery(state=RunState.FAILED, fingerprint=group_id, archived=False)
    return runs_page(tx, wanted, limit=SAMPLES_MAX).items


def _samples(tx: Connection, statement: str, row: GroupRow) -> list[Any]:
    named = {name: getattr(row, name) for name in ("queue", "reason", "source", "event_type")}
    values = named | {"max": SAMPLES_MAX, "rows_max": ROWS_MAX}
    return list(tx.exec_driver_sql(statement, values).scalars())


def _row(row: Sequence[object]) -> GroupRow:
    return msgspec.convert(dict(zip(_NAMES, row, strict=True)), GroupRow)
