"""Subscriptions: which workflow is started by which event types, since when.

Written by workers at start and by `veltrix workflows register`; read by apis, relays and workers.
One row per workflow and code version. The current row of a workflow is the version that was first
registered last, so an old worker that starts again during a deploy never takes a newer row's place.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from app.domain.ids import workflow_suffix
from app.store.arrays import TextArray


class Subscription(msgspec.Struct, frozen=True):
    """A workflow as its code declares it. Events accepted before `since` never start it."""

    workflow: str
    code_version: str
    types: tuple[str, ...]
    queue: str
    options: dict[str, Any]
    input_schema: dict[str, Any] | None
    since: datetime | None = None


class SuffixTaken(ValueError):
    """Two workflow names share the 24 bits that their run ids carry: one must be renamed."""


# A version whose types an earlier version covers has held since that one did; one that gains a type
# holds from now, for nothing old starts by itself. The same rule holds for the row's own past.
_REGISTER = """
with given as (
    select g.*, array(select json_array_elements_text(g.types_json)) as types
    from unnest(%(workflow)s, %(code_version)s, %(types)s::json[], %(queue)s, %(options)s::json[],
                %(input_schema)s::json[])
        as g(workflow, code_version, types_json, queue, options, input_schema)
), dated as (
    select given.*, coalesce(
        (select min(o.since) from subscriptions o
         where o.workflow = given.workflow and o.retired_at is null and not exists (
            select from unnest(given.types) t where not exists (
                select from unnest(o.types) p
                where p = t or (right(p, 2) = '.*' and starts_with(t, left(p, -1)))))),
        clock_timestamp()) as since
    from given
)
insert into subscriptions as s (workflow, code_version, types, queue, options, input_schema, since,
    registered_at)
select workflow, code_version, types, queue, options, input_schema, since, clock_timestamp()
from dated order by workflow, code_version
on conflict (workflow, code_version) do update
set types = excluded.types, queue = excluded.queue, options = excluded.options,
    input_schema = excluded.input_schema, retired_at = null,
    since = case when s.retired_at is null then excluded.since else clock_timestamp() end
returning workflow, xmax = 0 as is_new
"""

_CURRENT = """
select distinct on (workflow) workflow, code_version, types, queue, options, input_schema, since
from subscriptions where retired_at is null
order by workflow, registered_at desc, code_version desc
"""

_RETIRE = """
update subscriptions set retired_at = now()
where workflow = any(%(workflow)s) and retired_at is null
returning workflow
"""


def register(tx: Connection, subscriptions: Sequence[Subscription]) -> list[str]:
    """Write what workers know; the workflows of which this code version was not there before.

    Registering again brings a row up to date and keeps its `since`, unless it gains a type.
    Raises SuffixTaken when two workflows could give one event the same run id.
    """
    if not subscriptions:
        return []
    _check_suffixes(tx, subscriptions)
    rows = sorted(subscriptions, key=lambda s: (s.workflow, s.code_version))
    done = tx.exec_driver_sql(
        _REGISTER,
        {
            "workflow": TextArray([s.workflow for s in rows]),
            "code_version": TextArray([s.code_version for s in rows]),
            "types": TextArray([_json(s.types) for s in rows]),
            "queue": TextArray([s.queue for s in rows]),
            "options": TextArray([_json(s.options) for s in rows]),
            "input_schema": TextArray(
                [None if s.input_schema is None else _json(s.input_schema) for s in rows]
            ),
        },
    )
    return sorted({workflow for workflow, is_new in done if is_new})


def current(tx: Connection) -> list[Subscription]:
    """One subscription per workflow that is not retired, by name."""
    return [
        Subscription(workflow, version, tuple(types), queue, options, schema, since)
        for workflow, version, types, queue, options, schema, since in tx.exec_driver_sql(_CURRENT)
    ]


def retire(tx: Connection, workflows: Sequence[str]) -> list[str]:
    """End the subscriptions of these workflows; the names that had one. Their runs go on.

    A worker that still has the code takes the subscription up again when it starts, from then on.
    """
    ended = tx.exec_driver_sql(_RETIRE, {"workflow": TextArray(list(workflows))})
    return sorted({row[0] for row in ended})


def _check_suffixes(tx: Connection, subscriptions: Sequence[Subscription]) -> None:
    names = {row[0] for row in tx.exec_driver_sql("select distinct workflow from subscriptions")}
    owners: dict[str, str] = {}
    for name in sorted(names | {s.workflow for s in subscriptions}):
        other = owners.setdefault(workflow_suffix(name), name)
        if other != name:
            raise SuffixTaken(
                f"the workflow names {other!r} and {name!r} give the same run ids; rename one"
            )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
