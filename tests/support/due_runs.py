"""Events and runs put straight into the ledger, for tests of what happens to them next."""

import random
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, text

from veltrix.domain.events import NewEvent, content_digest
from veltrix.domain.ids import EventIds, run_id, workflow_suffix
from veltrix.pipeline.accept import ledger_rows
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
) -> list[str]:
    """The run ids of `count` new events (the event ids if not `is_routed`), sorted."""
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
                is_hinted=is_hinted,
                delay_s=delay_s,
            )
            items.append(
                ledger_rows.EventInsert(event_id, account, event, [start] if is_routed else [])
            )
        ledger_rows.insert(tx, items, unix_ms, hold_s=8.0)
    return sorted(item.runs[0].id if is_routed else item.event_id for item in items)


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
