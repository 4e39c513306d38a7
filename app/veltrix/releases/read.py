"""How workflows stand: what routes them, and how many worker children have that code."""

from collections import Counter
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.releases.subscription_rows import Subscription, current
from veltrix.store.loads import IS_LIVE, LIVE_LIMITS


class WorkflowStanding(Subscription, frozen=True):
    """A subscription, and the worker children that have its code version."""

    children: int = 0


class Version(msgspec.Struct, frozen=True):
    """A version of a workflow's code that was registered, and the worker children that have it."""

    code_version: str
    queue: str
    types: tuple[str, ...]
    registered_at: datetime
    retired_at: datetime | None
    children: int = 0


_VERSIONS = """
select code_version, queue, types, registered_at, retired_at from subscriptions
where workflow = %(workflow)s order by registered_at desc, code_version desc limit %(max)s
"""

_CHILDREN = f"""
select r.workflows, r.code_versions, w.children from releases r join (
    select load ->> 'release' as id, count(*) as children from workers
    where {IS_LIVE} group by 1
) w on w.id = r.id
"""  # noqa: S608 - put together from constants


def standing(tx: Connection) -> list[WorkflowStanding]:
    """Every workflow that is not retired, by name."""
    children = _children(tx)
    return [
        WorkflowStanding(
            **msgspec.structs.asdict(row), children=children[row.workflow, row.code_version]
        )
        for row in current(tx)
    ]


def versions(tx: Connection, workflow: str, at_most: int = 20) -> list[Version]:
    """The newest versions of this workflow, retired ones too; empty: there never was one."""
    children = _children(tx)
    asked = {"workflow": workflow, "max": at_most}
    return [
        Version(version, queue, tuple(types), registered, retired, children[workflow, version])
        for version, queue, types, registered, retired in tx.exec_driver_sql(_VERSIONS, asked)
    ]


def _children(tx: Connection) -> Counter[tuple[str, str]]:
    children: Counter[tuple[str, str]] = Counter()
    for workflows, versions_, count in tx.exec_driver_sql(_CHILDREN, LIVE_LIMITS):
        for of_workflow in zip(workflows, versions_, strict=True):
            children[of_workflow] += count
    return children
