"""How workflows stand: what routes them, and how many worker children have that code."""

from collections import Counter

import msgspec
from sqlalchemy import Connection

from veltrix.releases.subscription_rows import Subscription, current
from veltrix.store.loads import IS_LIVE, LIVE_LIMITS


class WorkflowStanding(Subscription, frozen=True):
    """A subscription, and the worker children that have its code version."""

    children: int = 0


_CHILDREN = f"""
select r.workflows, r.code_versions, w.children from releases r join (
    select load ->> 'release' as id, count(*) as children from workers
    where {IS_LIVE} group by 1
) w on w.id = r.id
"""  # noqa: S608 - put together from constants


def standing(tx: Connection) -> list[WorkflowStanding]:
    """Every workflow that is not retired, by name."""
    children: Counter[tuple[str, str]] = Counter()
    for workflows, versions, count in tx.exec_driver_sql(_CHILDREN, LIVE_LIMITS):
        for of_workflow in zip(workflows, versions, strict=True):
            children[of_workflow] += count
    return [
        WorkflowStanding(
            **msgspec.structs.asdict(row), children=children[row.workflow, row.code_version]
        )
        for row in current(tx)
    ]
