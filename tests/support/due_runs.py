"""Events and runs put straight into the ledger, for tests of what happens to them next."""

import random
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, text

from veltrix.broker.handed import pack_event
from veltrix.broker.message import ListLimits, Message, messages_for
from veltrix.domain.due import DueRun, Lease
from veltrix.domain.events import NewEvent, content_digest
from veltrix.domain.ids import EventIds, run_id, workflow_suffix
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.handed_key import read_key
from veltrix.store.transactions import transaction

_IDS = EventIds(random.Random(7).getrandbits)
_sent = 0


def add_runs(
    engine: Engine,
    count: int,
    *,
    workflow: str = "fulfil",
    queue: str = "orders",
    type_: str = "shop.order.placed",
    is_hinted: bool = False,
    delay_s: float = 0.0,
    is_routed: bool = True,
    data: str = "{}",
    ids: EventIds = _IDS,
    lease: Lease | None = None,
    due: list[DueRun] | None = None,
) -> list[str]:
    """The run ids of `count` new events (the event ids if not `is_routed`), sorted.

    With a `lease` they are handed over as claimed; `due` is given what is to be published then.
    """
    global _sent  # noqa: PLW0603 - every event of a test run is another one
    with transaction(engine) as tx:
        account = ledger_rows.accounts(tx, [("/tests", type_)], 1_000)["/tests", type_]
        unix_ms = int(tx.execute(text("select extract(epoch from now()) * 1000")).scalar_one())
        items = []
        for event_id in ids.make(unix_ms, count):
            _sent += 1
            digest = content_digest(type_, None, None, None, data.encode())
            event = NewEvent(
                source="/tests", id=f"{_sent:09}", type=type_, digest=digest, data_json=data
            )
            start = ledger_rows.RunStart(
                run_id(event_id, workflow_suffix(workflow)),
                workflow,
                queue,
                is_hinted=is_hinted or lease is not None,
                is_handed=lease is not None,
                delay_s=delay_s,
            )
            if due is not None:
                packed = pack_event(start.id, event)
                due.append(DueRun(start.id, workflow, queue, lease=lease, packed=packed))
            items.append(
                ledger_rows.EventInsert(event_id, account, event, [start] if is_routed else [])
            )
        token = None if lease is None else lease.token
        ledger_rows.insert(tx, items, unix_ms, hold_s=8.0, token=token)
    return sorted(item.runs[0].id if is_routed else item.event_id for item in items)


def hand_over(engine: Engine, count: int = 1, *, within_s: float = 4.0, **columns: Any) -> Message:
    """The message of new runs that are handed over as claimed, as an api makes it.

    They may be begun within so many seconds from now.
    """
    with transaction(engine) as tx:
        unix_ms = int(tx.execute(text("select extract(epoch from now()) * 1000")).scalar_one())
        key = read_key(tx)
    lease = Lease(_IDS.token(), unix_ms + round(within_s * 1000))
    due: list[DueRun] = []
    add_runs(engine, count, lease=lease, due=due, **columns)
    due.sort(key=lambda run: run.id)
    limits = ListLimits(runs_max=1_000, runs_unmeasured=1_000, bytes_max=2**24, work_s=1.0)
    (message,) = messages_for(due, "api@tests", limits, {}, key)
    return message


def change_runs(engine: Engine, run_ids: Sequence[str], assignments: str) -> None:
    """`update runs set <assignments>` for these runs."""
    with transaction(engine) as tx:
        tx.execute(
            text(f"update runs set {assignments} where id = any(cast(:ids as uuid[]))"),
            {"ids": list(run_ids)},
        )


def read_runs(engine: Engine, run_ids: Sequence[str], columns: str) -> list[Any]:
    """The rows of these runs by id; `due_in` is how far `due_at` is ahead, in seconds."""
    columns = columns.replace("due_in", "extract(epoch from due_at - now())::float8")
    with transaction(engine) as tx:
        return list(
            tx.execute(
                text(
                    f"select {columns} from runs where id = any(cast(:ids as uuid[])) order by id"
                ),
                {"ids": list(run_ids)},
            )
        )


def subscribe(
    engine: Engine, workflow: str = "fulfil", queue: str = "orders", **columns: Any
) -> None:
    """A subscription of `workflow`, since an hour ago unless `since` says otherwise."""
    values = {"types": ["shop.*"], "since": "1 hour", "code_version": "1"} | columns
    with transaction(engine) as tx:
        tx.execute(
            text(
                "insert into subscriptions (workflow, code_version, types, queue, options, since)"
                " values (:workflow, :code_version, :types, :queue, '{}',"
                " now() - cast(:since as interval))"
            ),
            {"workflow": workflow, "queue": queue} | values,
        )
