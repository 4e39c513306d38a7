"""Planning a replay: the set is frozen in one statement, and what it will do is foreseen from rows.

Nothing moves. A run may be in many plans: who moves it first has it, and for the others it has
changed since.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    exists,
    func,
    literal,
    literal_column,
    select,
)

from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.patch import text_of
from veltrix.operations.replays.rules import RATE_MAX, Options
from veltrix.operations.runs.action_rows import MovedRun
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read import conditions_of
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.replay_tables import edits, replay_runs
from veltrix.store.tables import runs

RUNS_MAX = 1_000_000


class Failures(msgspec.Struct):
    """Planned runs that failed alike: of one workflow, error, step, reason and code version."""

    workflow: str
    fingerprint: str | None
    failed_step: str | None
    reason: str | None
    code_version: str | None
    runs: int
    sample: str


class Finished(msgspec.Struct):
    """A step that planned runs have recorded: how many of them."""

    workflow: str
    step: str
    runs: int
    entries: int


class Ages(msgspec.Struct):
    """How long ago the planned runs failed."""

    within_1_h: int
    within_1_d: int
    within_7_d: int
    older: int


class Foreseen(msgspec.Struct):
    """What the frozen set consists of."""

    failures: list[Failures]
    finished: list[Finished]
    ages: Ages
    runs_recorded: int
    entries_recorded: int
    in_other_replays: int
    edited_before: int


# A UUIDv7 by the database's clock, so that the newest replays are the last of the key.
_NEW_ID = """(lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
    || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid"""

_INSERT = f"""
insert into replays (id, state, mode, rate, canary, canary_to, stop_share, patch, asked, author,
    reason)
values ({_NEW_ID}, 'planned', %(mode)s, %(rate)s, %(canary)s, %(canary)s, %(stop_share)s,
    %(patch)s::json, %(asked)s::json, %(author)s, %(reason)s)
returning id::text
"""  # noqa: S608 - put together from constants

# A list that was replayed at once is a replay as well: begun, and with nothing left.
_INSERT_BEGUN = f"""
with made as (
    insert into replays (id, state, mode, rate, canary, canary_to, asked, planned, replayed, author,
        reason, started_by, start_reason, started_at, paced_at)
    values ({_NEW_ID}, 'running', %(mode)s, %(rate)s, 0, 0, %(asked)s::json, %(runs)s, %(runs)s,
        %(author)s, %(reason)s, %(author)s, %(reason)s, now(), now())
    returning id
), listed as (
    insert into replay_runs (replay_id, run_id, generation, state, moved_generation, moved_at)
    select made.id, u.run_id, u.generation, 'replayed', u.moved_generation, now()
    from made, unnest(%(run_id)s::uuid[], %(generation)s, %(moved_generation)s)
        as u(run_id, generation, moved_generation)
)
select id::text from made
"""  # noqa: S608 - put together from constants

_COUNT = """
update replays set planned = (select count(*) from replay_runs where replay_id = %(id)s)
where id = %(id)s returning planned
"""

_RUN_IDS = "select run_id::text from replay_runs where replay_id = %(id)s order by run_id"

_FAILURES = """
select r.workflow, r.fingerprint, r.failed_step, r.reason, r.code_version, count(*),
    max(r.id::text)
from replay_runs k join runs r on r.id = k.run_id
where k.replay_id = %(id)s
group by 1, 2, 3, 4, 5 order by 6 desc, 7
"""

_FINISHED = """
select r.workflow, j.name, count(distinct j.run_id), count(*)
from replay_runs k join runs r on r.id = k.run_id
join journal j on j.run_id = k.run_id and j.generation = k.generation
where k.replay_id = %(id)s and j.kind = 'step' and j.error is null
group by 1, 2 order by 3 desc, 1, 2
"""

_AGES = """
select count(*) filter (where age <= interval '1 hour'),
    count(*) filter (where age > interval '1 hour' and age <= interval '1 day'),
    count(*) filter (where age > interval '1 day' and age <= interval '7 days'),
    count(*) filter (where age > interval '7 days')
from (
    select now() - r.settled_at as age from replay_runs k join runs r on r.id = k.run_id
    where k.replay_id = %(id)s
) as ages
"""

_RECORDED = """
select count(distinct j.run_id), count(*)
from replay_runs k join journal j on j.run_id = k.run_id and j.generation = k.generation
where k.replay_id = %(id)s and j.error is null
"""

_BESIDE = """
select
    (select count(distinct k.run_id) from replay_runs k
     join replay_runs o on o.run_id = k.run_id and o.replay_id <> k.replay_id
     join replays p on p.id = o.replay_id
     where k.replay_id = %(id)s and o.state = 'planned'
       and p.state in ('canary', 'running', 'paused', 'stopped')),
    (select count(distinct k.run_id) from replay_runs k join edits e on e.origin_run_id = k.run_id
     where k.replay_id = %(id)s)
"""

_SUMMARISE = "update replays set summary = %(summary)s::json where id = %(id)s"


def insert(
    tx: Connection, options: Options, asked: dict[str, Any], *, author: str, reason: str
) -> str:
    """The id of a new replay without runs: `planned`."""
    values = msgspec.structs.asdict(options) | {"author": author, "reason": reason}
    values |= {"asked": _json(asked), "patch": options.patch and text_of(options.patch)}
    return str(tx.exec_driver_sql(_INSERT, values).scalar_one())


def insert_begun(
    tx: Connection, mode: ReplayMode, moved: Sequence[MovedRun], *, author: str, reason: str
) -> str:
    """The id of a new replay of runs that this transaction has moved already."""
    ids = [run.run_id for run in moved]
    values = {
        "mode": mode,
        "rate": RATE_MAX,
        "asked": _json({"ids": ids, "from": mode}),
        "runs": len(ids),
        "author": author,
        "reason": reason,
        "run_id": TextArray(ids),
        "generation": IntArray([run.generation - 1 for run in moved]),
        "moved_generation": IntArray([run.generation for run in moved]),
    }
    return str(tx.exec_driver_sql(_INSERT_BEGUN, values).scalar_one())


def freeze(tx: Connection, replay_id: str, wanted: RunQuery, runs_max: int = RUNS_MAX) -> int:
    """Give the replay the failed runs that are wanted now; how many. At most runs_max + 1."""
    edited = select(func.count()).where(edits.c.origin_run_id == runs.c.id).scalar_subquery()
    found = (
        select(
            literal(replay_id, replay_runs.c.replay_id.type),
            runs.c.id,
            runs.c.generation,
            edited,
            runs.c.archived_at.is_not(None),
        )
        .where(runs.c.state == literal_column("'failed'"), *conditions_of(wanted))
        .order_by(runs.c.id)
        .limit(runs_max + 1)
    )
    if wanted.ids is None:
        found = found.where(*_not_dealt_with())
    names = ["replay_id", "run_id", "generation", "edits", "is_archived"]
    tx.execute(replay_runs.insert().from_select(names, found))
    return int(tx.exec_driver_sql(_COUNT, {"id": replay_id}).scalar_one())


def run_ids(tx: Connection, replay_id: str) -> list[str]:
    """The frozen set, in order."""
    return [row[0] for row in tx.exec_driver_sql(_RUN_IDS, {"id": replay_id})]


def foresee(tx: Connection, replay_id: str) -> Foreseen:
    """What the frozen set consists of: its failures, what its runs recorded, how old they are."""
    key = {"id": replay_id}
    ages = tx.exec_driver_sql(_AGES, key).one()
    recorded = tx.exec_driver_sql(_RECORDED, key).one()
    beside = tx.exec_driver_sql(_BESIDE, key).one()
    return Foreseen(
        failures=[Failures(*row) for row in tx.exec_driver_sql(_FAILURES, key)],
        finished=[Finished(*row) for row in tx.exec_driver_sql(_FINISHED, key)],
        ages=Ages(*ages),
        runs_recorded=recorded[0],
        entries_recorded=recorded[1],
        in_other_replays=beside[0],
        edited_before=beside[1],
    )


def summarise(tx: Connection, replay_id: str, summary: msgspec.Struct) -> None:
    """Keep what the plan foresees."""
    tx.exec_driver_sql(_SUMMARISE, {"id": replay_id, "summary": _json(summary)})


def _not_dealt_with() -> list[ColumnElement[bool]]:
    """What was archived, or edited and so runs as another run, is replayed only when named."""
    is_this = and_(
        edits.c.origin_run_id == runs.c.id, edits.c.origin_generation == runs.c.generation
    )
    return [runs.c.archived_at.is_(None), ~exists().where(is_this)]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
