"""Subscriptions: which workflow is started by which event types, since when.

Written by workers at start and by `veltrix workflows register`; read by apis, relays and workers.
One row per workflow and code version. The current row of a workflow is the one that was made
current last: by a deploy, or because what was deployed later has no workers any more
(`releases/rules.py`, docs/decisions/0028). Finding it is one probe of an index, however many
releases there were.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import workflow_suffix
from veltrix.releases import release_rows
from veltrix.releases.rules import Routed, Switch, release_id
from veltrix.store.arrays import TextArray

VERSIONS_KEPT = 100  # of a workflow, beside those that somebody resolved a failure group with
RESTART_S = 600.0


class Subscription(msgspec.Struct, frozen=True):
    """A workflow as its code declares it. Events accepted before `since` never start it.

    `routed_at`: since when this version routes its events; `replaced`: the version that did so
    before; `is_back`: that one was first registered later than this.
    """

    workflow: str
    code_version: str
    types: tuple[str, ...]
    queue: str
    options: dict[str, Any]
    input_schema: dict[str, Any] | None
    since: datetime | None = None
    routed_at: datetime | None = None
    replaced: str | None = None
    is_back: bool = False


class Subscribed(msgspec.Struct, frozen=True):
    """What an api must know of a subscription to route by it."""

    workflow: str
    queue: str
    types: tuple[str, ...]


class Taken(msgspec.Struct, frozen=True):
    """A version that routes its workflow's events from now on, instead of `replaced` (or none).

    `is_back`: `replaced` was first registered later, so this is a roll-back.
    """

    workflow: str
    code_version: str
    replaced: str | None
    is_back: bool


class Registered(msgspec.Struct, frozen=True):
    """What registering did: workflows whose version was not there before, and what took over."""

    new: list[str]
    taken: list[Taken]


class SuffixTaken(ValueError):
    """Two workflow names share the 24 bits that their run ids carry: one must be renamed."""


# Rows that old code writes have no `current_at`: they count from when they were registered, as that
# code has it. '-infinity': never current yet, but it is the only row of its workflow that is not
# retired when older code has taken that up again.
_ORDER = "coalesce(s.current_at, s.registered_at) desc, s.code_version desc"
_ROUTED_AT = "coalesce(nullif(c.current_at, '-infinity'), c.registered_at)"
CURRENT_OF = f"""from subscriptions s where s.workflow = {{}} and s.retired_at is null
    order by {_ORDER} limit 1"""
# The queue of a run's workflow now, over the columns of `runs r`; that of the run if there is none.
QUEUE_NOW = f"coalesce((select s.queue {CURRENT_OF.format('r.workflow')}), r.queue)"

_WORKFLOWS = """
with recursive named as (
    (select workflow from subscriptions where retired_at is null order by workflow limit 1)
    union all
    select (select s.workflow from subscriptions s
            where s.retired_at is null and s.workflow > named.workflow
            order by s.workflow limit 1)
    from named where named.workflow is not null
)
"""
_OF_EACH = f"""
cross join lateral (select s.* {CURRENT_OF.format("named.workflow")}) c
where named.workflow is not null order by c.workflow
"""

_CURRENT = f"""{_WORKFLOWS}
select c.workflow, c.code_version, c.types, c.queue, c.options, c.input_schema, c.since,
    {_ROUTED_AT}, c.replaced,
    coalesce((select o.registered_at > c.registered_at from subscriptions o
        where o.workflow = c.workflow and o.code_version = c.replaced), false)
from named {_OF_EACH}"""  # noqa: S608 - put together from constants

_ROUTES = f"{_WORKFLOWS} select c.workflow, c.queue, c.types from named {_OF_EACH}"  # noqa: S608

_ROUTED = f"""{_WORKFLOWS}
select c.workflow, c.code_version, {_ROUTED_AT}, c.current_at is null,
    c.queue
from named {_OF_EACH}"""  # noqa: S608 - put together from constants

# Retired ones too, whose runs there are. By the primary key, one probe each.
_NAMES = """
with recursive named as (
    (select workflow from subscriptions order by workflow limit 1)
    union all
    select (select s.workflow from subscriptions s where s.workflow > named.workflow
            order by s.workflow limit 1)
    from named where named.workflow is not null
)
select workflow from named where workflow is not null
"""

# What covers all types of the new row has held them since it did; a gained type holds from now, for
# nothing old starts by itself: not what came while a version without it was current, either.
_SINCE = """case when c.workflow is not null and not exists (
        select from unnest({types}) t where not exists (
            select from unnest(c.types) p
            where p = t or (right(p, 2) = '.*' and starts_with(t, left(p, -1)))))
    then c.since else clock_timestamp() end"""

_REGISTER = f"""
with given as (
    select g.*, array(select json_array_elements_text(g.types_json)) as types
    from unnest(%(workflow)s, %(code_version)s, %(types)s::json[], %(queue)s, %(options)s::json[],
                %(input_schema)s::json[])
        as g(workflow, code_version, types_json, queue, options, input_schema)
), dated as (
    select g.*, {_SINCE.format(types="g.types")} as since,
        case when c.code_version = g.code_version
                then coalesce(c.current_at, clock_timestamp())
            when %(is_deployed)s or c.workflow is null then clock_timestamp()
            else '-infinity' end as current_at,
        case when c.code_version = g.code_version then c.replaced else c.code_version end
            as replaced
    from given g
    left join lateral (select s.* {CURRENT_OF.format("g.workflow")}) c on true
)
insert into subscriptions as s (workflow, code_version, types, queue, options, input_schema, since,
    registered_at, current_at, replaced)
select workflow, code_version, types, queue, options, input_schema, since, clock_timestamp(),
    current_at, case when current_at > '-infinity' then replaced end
from dated order by workflow, code_version
on conflict (workflow, code_version) do update
set types = excluded.types, queue = excluded.queue, options = excluded.options,
    input_schema = excluded.input_schema, retired_at = null,
    since = case when excluded.current_at > '-infinity' then excluded.since else s.since end,
    current_at = case when excluded.current_at > '-infinity' then excluded.current_at
        else s.current_at end,
    replaced = case when excluded.current_at > '-infinity' then excluded.replaced
        else s.replaced end
returning workflow, code_version, replaced, xmax = 0 as is_new, current_at >= now() as is_taken,
    (select o.registered_at > s.registered_at from subscriptions o
     where o.workflow = s.workflow and o.code_version = s.replaced) as is_back
"""  # noqa: S608 - put together from constants

_SWITCH = f"""
with switched as (
    select n.workflow, n.code_version, {_SINCE.format(types="n.types")} as since,
        c.code_version as replaced
    from unnest(%(workflow)s, %(code_version)s) as k(workflow, code_version)
    join subscriptions n on n.workflow = k.workflow and n.code_version = k.code_version
        and n.retired_at is null
    join lateral (select s.* {CURRENT_OF.format("k.workflow")}) c
        on c.code_version <> n.code_version
)
update subscriptions s set current_at = clock_timestamp(), since = k.since, replaced = k.replaced
from switched k where s.workflow = k.workflow and s.code_version = k.code_version
returning s.workflow, s.code_version, s.replaced,
    (select o.registered_at > s.registered_at from subscriptions o
     where o.workflow = s.workflow and o.code_version = s.replaced)
"""  # noqa: S608 - put together from constants

_RETIRE = """
update subscriptions set retired_at = now()
where workflow = any(%(workflow)s) and retired_at is null
returning workflow
"""

# The newest stay, what routes, and what a failure group was resolved with: it says what is older.
_FORGET = f"""
with many as (
    select workflow from subscriptions group by workflow having count(*) > %(kept)s
), ranked as (
    select s.workflow, s.code_version,
        row_number() over (partition by s.workflow order by {_ORDER}) as place
    from subscriptions s join many using (workflow)
)
delete from subscriptions s using ranked r
where r.place > %(kept)s and s.workflow = r.workflow and s.code_version = r.code_version
    and not exists (select from failure_groups g
        where g.workflow = s.workflow and g.resolved_version = s.code_version)
"""  # noqa: S608 - put together from constants


def register(tx: Connection, subscriptions: Sequence[Subscription]) -> list[str]:
    """As `write` for a worker: the workflows of which this code version was not there before."""
    return write(tx, subscriptions).new


def write(
    tx: Connection,
    subscriptions: Sequence[Subscription],
    *,
    restart_s: float = RESTART_S,
    release: str | None = None,
    is_by_hand: bool = False,
    is_kept: bool = False,
) -> Registered:
    """Write what a worker knows, in a transaction.

    Together they are a release (`release` is its id, when they are only some of it). One that is
    new, or whose workers were all gone for longer than `restart_s`, is deployed by this: its
    versions route events from now on. So is one that somebody registers by hand, unless what routes
    is to be kept; it counts as served for `restart_s` before its first worker comes. Otherwise only
    a workflow that nothing routes is taken up. A row keeps its `since`, unless it gains a type.
    Raises SuffixTaken when two workflows could give one event the same run id.
    """
    if not subscriptions:
        return Registered([], [])
    release_rows.take_turn(tx)
    _check_suffixes(tx, subscriptions)
    rows = sorted(subscriptions, key=lambda s: (s.workflow, s.code_version))
    is_deployed = release_rows.put(
        tx,
        release or release_of(rows),
        {row.workflow: row.code_version for row in rows},
        restart_s=restart_s,
        held_s=restart_s if is_by_hand and not is_kept else None,
        is_by_hand=is_by_hand,
    )
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
            "is_deployed": is_deployed and not is_kept,
        },
    )
    found = sorted(done, key=lambda row: row[0])
    return Registered(
        new=[row[0] for row in found if row[3]],
        taken=[Taken(row[0], row[1], row[2], bool(row[5])) for row in found if row[4]],
    )


def release_of(subscriptions: Sequence[Subscription]) -> str:
    """The id of the release that these are together."""
    return release_id((s.workflow, s.code_version, s.types, s.queue) for s in subscriptions)


def current(tx: Connection) -> list[Subscription]:
    """One subscription per workflow that is not retired, by name."""
    return [
        Subscription(workflow, version, tuple(types), *rest)
        for workflow, version, types, *rest in tx.exec_driver_sql(_CURRENT)
    ]


def routes(tx: Connection) -> list[Subscribed]:
    """What apis route by: one per workflow that is not retired, by name."""
    rows = tx.exec_driver_sql(_ROUTES)
    return [Subscribed(workflow, queue, tuple(types)) for workflow, queue, types in rows]


def routed(tx: Connection) -> list[Routed]:
    """Which version of each workflow that is not retired is current, by name."""
    return [Routed(*row) for row in tx.exec_driver_sql(_ROUTED)]


def switch(tx: Connection, wanted: Sequence[Switch]) -> list[Taken]:
    """Make these versions current; those that were not.

    A version that is retired, or of which there is no row, is left out. Needs `releases.take_turn`.
    """
    keys = {
        "workflow": TextArray([one.workflow for one in wanted]),
        "code_version": TextArray([one.code_version for one in wanted]),
    }
    rows = tx.exec_driver_sql(_SWITCH, keys)
    return sorted(
        (Taken(row[0], row[1], row[2], bool(row[3])) for row in rows), key=lambda one: one.workflow
    )


def retire(tx: Connection, workflows: Sequence[str]) -> list[str]:
    """End the subscriptions of these workflows; the names that had one. Their runs go on.

    A worker that still has the code takes the subscription up again when it starts, from then on.
    """
    ended = tx.exec_driver_sql(_RETIRE, {"workflow": TextArray(list(workflows))})
    return sorted({row[0] for row in ended})


def forget(tx: Connection, versions_kept: int = VERSIONS_KEPT) -> int:
    """Delete rows of versions that are long gone, beyond the newest of each workflow; how many."""
    return tx.exec_driver_sql(_FORGET, {"kept": versions_kept}).rowcount


def _check_suffixes(tx: Connection, subscriptions: Sequence[Subscription]) -> None:
    names = {row[0] for row in tx.exec_driver_sql(_NAMES)}
    owners: dict[str, str] = {}
    for name in sorted(names | {s.workflow for s in subscriptions}):
        other = owners.setdefault(workflow_suffix(name), name)
        if other != name:
            raise SuffixTaken(
                f"the workflow names {other!r} and {name!r} give the same run ids; rename one"
            )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
