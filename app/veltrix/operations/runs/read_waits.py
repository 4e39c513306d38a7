"""What waiting runs wait for, as their last pauses say: a sleep, a retry, code, or their start."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import Connection

from veltrix.domain.places import DEPLOY_POSITION, WORKER_POSITION
from veltrix.domain.states import RunState
from veltrix.operations.runs.read import RunRow
from veltrix.store.arrays import TextArray

_SLEEP_S_MAX = 1_000_000_000.0  # what a time can be moved by


class Pause(StrEnum):
    """The kinds of what a run waits for."""

    START = "start"  # it was accepted for later
    SLEEP = "sleep"
    RETRY = "retry"  # of a step, or of the workflow's own code
    CODE = "code"  # no worker had the code that it began with
    WORKER = "worker"  # its worker ended, and nobody knows in what


class Wait(msgspec.Struct, frozen=True):
    """What a run waits for, until its `due_at`. `step` and `attempt` are of the next try of a step.

    `step` None of a retry: the workflow's own code.
    """

    kind: Pause
    until: datetime
    step: str | None = None
    attempt: int | None = None


# A run becomes due when the first of its pauses is over: the one that ends nearest to that is it.
_WAITS = """
select r.id::text, coalesce(pause.kind, 'start'), r.due_at, nullif(pause.step, ''),
    pause.attempt + 1
from runs r left join lateral (
    select kind, step, attempt from (
        select 'sleep' as kind, null as step, null::int as attempt, recorded_at
            + least(output::text::float8, %(sleep_s_max)s) * interval '1 second' as ends_at
        from journal
        where run_id = r.id and generation = r.generation and kind = 'sleep'
        union all
        select case position when %(deploy)s then 'code' when %(worker)s then 'worker'
            else 'retry' end, step, attempt, failed_at + retry_delay_s * interval '1 second'
        from failed_attempts
        where run_id = r.id and generation = r.generation and retry_delay_s is not null
    ) as pauses
    order by abs(extract(epoch from ends_at - r.due_at)) limit 1
) as pause on true
where r.life = 0 and r.id = any(%(id)s::uuid[]) and r.state = 'waiting'
"""


def waits(tx: Connection, found: Sequence[RunRow]) -> dict[str, Wait]:
    """Of those of these runs that wait, by id."""
    ids = [run.id for run in found if run.state == RunState.WAITING]
    if not ids:
        return {}
    asked = {
        "id": TextArray(ids),
        "deploy": DEPLOY_POSITION,
        "worker": WORKER_POSITION,
        "sleep_s_max": _SLEEP_S_MAX,
    }
    return {
        id_: Wait(Pause(kind), due_at, step, attempt)
        for id_, kind, due_at, step, attempt in tx.exec_driver_sql(_WAITS, asked)
    }
