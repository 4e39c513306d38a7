"""Events and runs of the past, put straight into the ledger."""

import random
from itertools import count

from sqlalchemy import Engine, text

from veltrix.domain.events import NewEvent
from veltrix.domain.ids import EventIds, run_id, workflow_suffix
from veltrix.pipeline.accept import ledger_rows
from veltrix.store.transactions import transaction

_CHANCE = random.Random(46)
_SENT = count(1)


def add_old_events(
    engine: Engine,
    minutes_ago: int,
    number: int = 1,
    *,
    type_: str = "old",
    is_routed: bool = True,
    data: str = "{}",
) -> list[str]:
    """Run ids of events that were accepted so many minutes ago (event ids if not `is_routed`)."""
    with transaction(engine) as tx:
        now_ms = int(tx.execute(text("select extract(epoch from now()) * 1000")).scalar_one())
        unix_ms = now_ms - minutes_ago * 60_000
        account = ledger_rows.accounts(tx, [("/old", type_)], 1_000)["/old", type_]
        items = []
        for event_id in EventIds(_CHANCE.getrandbits).make(unix_ms, number):
            start = ledger_rows.RunStart(run_id(event_id, workflow_suffix("old")), "old", "old")
            event = NewEvent(
                source="/old", id=f"{next(_SENT)}", type=type_, digest=b"", data_json=data
            )
            runs = [start] if is_routed else []
            items.append(ledger_rows.EventInsert(event_id, account, event, runs))
        items.sort(key=lambda item: item.event.id)
        ledger_rows.insert(tx, items, unix_ms, hold_s=8.0)
    return sorted(item.runs[0].id if is_routed else item.event_id for item in items)
