"""A ledger with a past: events of long ago, with runs that ended as they are told."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from veltrix.domain.ids import EventIds, run_id, workflow_suffix
from veltrix.operations.retention.rules import JudgedEvent
from veltrix.store.transactions import transaction

ACCOUNT = 7
_IDS = EventIds(random.Random(11).getrandbits)
_EVENT = text("""
insert into events (id, account_id, minute, unrouted, accepted_at, source, sender_id, type, data,
    digest)
values (cast(:id as uuid), :account, :minute, :unrouted, :at, '/old', cast(cast(:id as uuid) as
    text), 'old.thing', '{}', '')
""")
_RUN = text("""
insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, due_at, settled_at,
    archived_at, state, workflow, queue, fingerprint, lease_token)
values (cast(:id as uuid), :event_id, :account, :minute, 2, :at, :due_at, :settled_at,
    :archived_at, :state, :workflow, 'orders', :fingerprint,
    case when :state = 'running' then cast(:id as uuid) end)
""")
_COUNT = text("""
insert into counters (minute, account_id, accepted, routed, unrouted, started, succeeded, failed,
    cancelled, is_sealed)
values (:minute, :account, 1, :routed, :unrouted, :started, :succeeded, :failed, :cancelled,
    :sealed)
on conflict (minute, account_id) do update set accepted = counters.accepted + 1,
    routed = counters.routed + excluded.routed, unrouted = counters.unrouted + excluded.unrouted,
    started = counters.started + excluded.started,
    succeeded = counters.succeeded + excluded.succeeded,
    failed = counters.failed + excluded.failed,
    cancelled = counters.cancelled + excluded.cancelled,
    is_sealed = counters.is_sealed and excluded.is_sealed
""")
_GROUP = text("""
insert into failure_groups (id, kind, state, count, archived, total, first_seen_at, last_seen_at,
    state_changed_at)
values (:id, 'run', 'resolved', 0, 0, 1, :at, :at, :at) on conflict (id) do nothing
""")


def add_past(engine: Engine, events: Sequence[JudgedEvent]) -> list[str]:
    """The ids of these events, which are in the ledger now with their runs and counters.

    A run whose group is resolved has a failure group of its own.
    """
    ids: list[str] = []
    with transaction(engine) as tx:
        for event in events:
            unix_ms = round(event.accepted_at.timestamp() * 1000)
            (id_,) = _IDS.make(unix_ms, 1)
            minute = unix_ms // 60_000
            place = {"account": ACCOUNT, "minute": minute, "at": event.accepted_at}
            row = {"id": id_, "unrouted": event.is_unrouted, **place}
            tx.execute(_EVENT, row)
            states = [run.state.value for run in event.runs]
            for number, run in enumerate(event.runs):
                own = run_id(id_, workflow_suffix(f"{run.workflow} {number}"))
                group = own[:13] + own[-3:] if run.resolved_at is not None else None
                if group is not None:
                    tx.execute(_GROUP, {"id": group, "at": run.resolved_at})
                values: dict[str, Any] = {
                    "id": own,
                    "event_id": id_,
                    "due_at": event.accepted_at if run.settled_at is None else None,
                    "settled_at": run.settled_at,
                    "archived_at": run.archived_at,
                    "state": run.state.value,
                    "workflow": run.workflow,
                    "fingerprint": group,
                }
                tx.execute(_RUN, values | place)
            counted = {s: states.count(s) for s in ("succeeded", "failed", "cancelled")}
            routed = {"routed": int(not event.is_unrouted), "unrouted": int(event.is_unrouted)}
            counts = counted | routed | {"started": len(states), "sealed": event.is_sealed}
            tx.execute(_COUNT, place | counts)
            ids.append(id_)
    return ids


def days_ago(now: datetime, days: float) -> datetime:
    """So long before, to the millisecond, as ids are."""
    at = now - timedelta(days=days)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
