"""The newest failed attempt of a group, which says what its failures look like."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import Id
from veltrix.store.arrays import TextArray


class Sample(msgspec.Struct, frozen=True):
    """One failed attempt, with what payloads said: for those who may see them."""

    run: Id
    step: str
    attempt: int
    type: str
    message: str
    traceback: str
    code_version: str | None
    failed_at: datetime


_SAMPLE = """
select f.run_id::text, f.step, f.attempt, f.type, f.message, f.traceback, r.code_version,
    f.failed_at
from failed_attempts f
cross join lateral (select code_version from runs where id = f.run_id offset 0) r
where f.run_id = any(%(run)s::uuid[]) and f.fingerprint = %(group)s
order by f.id desc limit 1
"""


def sample(tx: Connection, group_id: str, run_ids: Sequence[str]) -> Sample | None:
    """The newest among the attempts of these runs, by their index; None: none is of the group."""
    asked = {"group": group_id, "run": TextArray(run_ids)}
    found = tx.exec_driver_sql(_SAMPLE, asked).one_or_none()
    return None if found is None else Sample(*found)
