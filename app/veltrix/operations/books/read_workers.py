"""Workers as people read them: each with its children, by what those last said of themselves.

There is nothing else that the database knows of a worker: one whose children have not reported yet,
or not for five minutes, is in no list.
"""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.store.loads import PRESENT_S


class WorkerChildRow(msgspec.Struct):
    """A child of a worker. `id` is the `worker_id` of the runs it works on.

    Not `is_present`: not heard of for 15 s. `claimed_2s`: runs it claimed in two seconds, when it
    last reported.
    """

    id: str
    started_at: datetime
    seen_at: datetime
    is_present: bool
    claimed_2s: int


class WorkerRow(msgspec.Struct):
    """A worker, by the name of its node, with what its children said last.

    `releases`: the sets of workflow versions that they have, more than one while one replaces
    another under the same name. `workflows` and `code_versions` are what is in them. A worker is
    present while one of its children is. `started_at` is that of its oldest child.
    """

    name: str
    is_present: bool
    started_at: datetime
    seen_at: datetime
    releases: list[str]
    queues: list[str]
    workflows: list[str]
    code_versions: dict[str, list[str]]
    children: list[WorkerChildRow]


class WorkerPage(msgspec.Struct):
    """Workers by name. `next` goes on from here, None: there are no more."""

    items: list[WorkerRow]
    next: str | None


# Those that said goodbye are gone, though their rows are there for some minutes.
_PAGE = """
with page as materialized (
    select distinct node from workers
    where load ->> 'left' is null and (%(after)s::text is null or node > %(after)s::text)
    order by node limit %(limit)s
)
select w.node, w.id, w.started_at, w.seen_at,
    w.seen_at > now() - %(present_s)s * interval '1 second', w.load::text, r.workflows,
    r.code_versions
from page p join workers w on w.node = p.node
left join releases r on r.id = w.load ->> 'release'
where w.load ->> 'left' is null
order by w.node, w.id
"""


def page(tx: Connection, *, after: str | None, limit: int) -> WorkerPage:
    """The first `limit` workers with a name above `after`."""
    asked = {"after": after, "limit": limit, "present_s": PRESENT_S}
    found: dict[str, WorkerRow] = {}
    for name, *child in tx.exec_driver_sql(_PAGE, asked):
        _add(found, name, *child)
    rows = list(found.values())
    for row in rows:
        for names in (row.releases, row.queues, row.workflows, *row.code_versions.values()):
            names[:] = sorted(set(names))
    return WorkerPage(rows, rows[-1].name if len(rows) == limit else None)


def _add(
    found: dict[str, WorkerRow],
    name: str,
    id_: str,
    started_at: datetime,
    seen_at: datetime,
    is_present: bool,
    text: str,
    workflows: list[str] | None,
    versions: list[str] | None,
) -> None:
    load: dict[str, Any] = msgspec.json.decode(text)
    queues: dict[str, dict[str, int]] = load.get("queues", {})
    row = found.setdefault(
        name, WorkerRow(name, is_present, started_at, seen_at, [], [], [], {}, [])
    )
    row.is_present |= is_present
    row.started_at, row.seen_at = min(row.started_at, started_at), max(row.seen_at, seen_at)
    row.releases += [load["release"]] if load.get("release") else []
    row.queues += queues
    for workflow, version in zip(workflows or (), versions or (), strict=True):
        row.workflows.append(workflow)
        row.code_versions.setdefault(workflow, []).append(version)
    claimed = sum(queue.get("claimed_2s", 0) for queue in queues.values())
    row.children.append(WorkerChildRow(id_, started_at, seen_at, is_present, claimed))
