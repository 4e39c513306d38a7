"""Of which workflows the runs are that somebody asks to act on."""

from collections.abc import Sequence

from sqlalchemy import Connection

from veltrix.store.arrays import TextArray

_OF_RUNS = "select distinct workflow from runs where id = any(%(ids)s::uuid[])"
_OF_REPLAY = """
select distinct r.workflow from replay_runs k join runs r on r.id = k.run_id
where k.replay_id = %(id)s
"""
_OF_GROUP = "select workflow from failure_groups where id = %(id)s"


def workflows_of_runs(tx: Connection, run_ids: Sequence[str]) -> list[str]:
    """The workflows of those of these runs that there are."""
    return list(tx.exec_driver_sql(_OF_RUNS, {"ids": TextArray(run_ids)}).scalars())


def workflows_of_replay(tx: Connection, replay_id: str) -> list[str]:
    """The workflows of the runs of a replay."""
    return list(tx.exec_driver_sql(_OF_REPLAY, {"id": replay_id}).scalars())


def workflow_of_group(tx: Connection, group_id: str) -> str | None:
    """The workflow of all runs of a failure group; None: it is not of runs of one, or unknown."""
    workflow: str | None = tx.exec_driver_sql(_OF_GROUP, {"id": group_id}).scalar()
    return workflow
