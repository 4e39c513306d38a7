"""What worker children say of themselves, without the workers."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, text

from veltrix.store import loads
from veltrix.store.transactions import transaction


def report(
    engine: Engine,
    worker_id: str,
    release: str | None,
    queues: Sequence[str],
    *,
    seen_ago_s: float = 0.0,
    started_ago_s: float | None = None,
    has_left: bool = False,
) -> None:
    """A child of this release that serves these queues was seen so long ago.

    Without a release it is one of code that does not say which it has.
    """
    load: dict[str, Any] = {
        "queues": {queue: {"claimed_2s": 0} for queue in queues},
        "workflows": {},
        "children": 1,
    }
    load |= {} if release is None else {"release": release}
    load |= {"left": True} if has_left else {}
    ages = {"id": worker_id, "seen": seen_ago_s, "started": started_ago_s}
    with transaction(engine) as tx:
        loads.report(tx, worker_id, "tests", load)
        tx.execute(
            text(
                "update workers set seen_at = now() - :seen * interval '1 second',"
                " started_at = coalesce(now() - cast(:started as float8) * interval '1 second',"
                " started_at) where id = :id"
            ),
            ages,
        )


def forget_workers(engine: Engine, *worker_ids: str) -> None:
    """These were not heard of for longer than anybody waits."""
    with transaction(engine) as tx:
        loads.forget(tx, list(worker_ids))
