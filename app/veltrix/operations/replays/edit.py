"""Edit and run again: a failed run's payload is changed, and a new run is made of it.

The origin stays failed, as evidence; the new run belongs to an event of its own, so the books count
both. Each edit of an origin is one event identity, so it is made once.
"""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.authoring.input_schema import InputSchema
from veltrix.domain.ids import EventIds, run_id, unix_ms_of, workflow_suffix
from veltrix.operations.replays import edit_rows
from veltrix.operations.replays.edit_rows import NewEdit
from veltrix.operations.replays.patch import (
    EditRefused,
    Origin,
    Patch,
    diff,
    edited,
    edited_event,
    text_of,
)
from veltrix.operations.replays.replay_rows import MovedByReplay, Skipped
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.accept.ledger_rows import EventInsert, RunStart
from veltrix.releases.subscription_rows import current
from veltrix.store.transactions import is_bad_value

LIST_RUNS_MAX = 100
# Who may not see payloads sees this; the message of a refusal quotes them.
_REFUSED = (
    "its payload does not take the patch, or what comes of it does not fit the workflow's input"
)


class Payload(msgspec.Struct, gc=False):
    """An origin with its payload as it will be: JSON text, and the patch between the two."""

    origin: Origin
    after: str
    patch: Patch


class Refused(msgspec.Struct):
    """An origin whose payload cannot be edited like this, and why."""

    run: str
    message: str
    errors: list[dict[str, str]] = []


class EditOf(msgspec.Struct, frozen=True):
    """What an edit is made with: whose, why, for which replay, and with which limits."""

    replay_id: str
    author: str
    reason: str
    bytes_max: int
    new_ids: EventIds
    accounts_max: int


def schemas(tx: Connection) -> dict[str, InputSchema]:
    """The input check of each workflow that has a subscription."""
    return {row.workflow: InputSchema(row.input_schema) for row in current(tx)}


def payloads(
    origins: Sequence[Origin], patch: Patch, of: Mapping[str, InputSchema], bytes_max: int
) -> tuple[list[Payload], list[Refused]]:
    """What the patch makes of these payloads, and those that it cannot be applied to."""
    good: list[Payload] = []
    refused: list[Refused] = []
    for origin in origins:
        schema = of.get(origin.workflow) or InputSchema(None)
        if origin.is_binary:
            refused.append(Refused(origin.run_id, "its payload is not JSON: no patch applies"))
            continue
        try:
            after = edited(origin.data, patch, schema, bytes_max)
        except EditRefused as error:
            refused.append(Refused(origin.run_id, str(error), error.errors))
        else:
            good.append(Payload(origin, after, diff(origin.data, after, patch)))
    return good, refused


def make(
    tx: Connection, runs: Sequence[tuple[str, int]], patch: Patch, of: EditOf
) -> tuple[list[MovedByReplay], list[Skipped]]:
    """New runs, due now, of those of these (run, generation) that are failed; and who has none.

    A run that is in neither list is not failed in this generation any more.
    """
    found = edit_rows.origins(tx, runs, is_locked=True)
    good, refused = payloads(found, patch, schemas(tx), of.bytes_max)
    skipped = [Skipped(one.run, _REFUSED) for one in refused]
    moved = _insert(tx, good, of, skipped) if good else []
    return moved, skipped


def _insert(
    tx: Connection, made: Sequence[Payload], of: EditOf, skipped: list[Skipped]
) -> list[MovedByReplay]:
    """Insert all that can be stored; in halves where a value cannot be."""
    for draws in range(ledger_rows.DRAWS_MAX, -1, -1):
        try:
            with tx.begin_nested():
                return _insert_all(tx, made, of)
        except (DBAPIError, UnicodeError, OverflowError) as error:
            if draws and ledger_rows.is_id_taken(error):
                continue  # with other ids
            if ledger_rows.is_id_taken(error) or not is_bad_value(error):
                raise
            break
    if len(made) == 1:
        skipped.append(Skipped(made[0].origin.run_id, "PostgreSQL cannot store the payload"))
        return []
    middle = len(made) // 2
    return _insert(tx, made[:middle], of, skipped) + _insert(tx, made[middle:], of, skipped)


def _insert_all(tx: Connection, made: Sequence[Payload], of: EditOf) -> list[MovedByReplay]:
    items = _items(tx, made, of)
    ledger_rows.insert(tx, [item for item, _ in items], unix_ms_of(items[0][0].event_id), hold_s=0)
    rows = [
        NewEdit(
            item.runs[0].id,
            one.origin.run_id,
            one.origin.generation,
            text_of(one.patch),
        )
        for item, one in items
    ]
    edit_rows.keep(tx, rows, of.replay_id, author=of.author, reason=of.reason)
    return [MovedByReplay(row.origin_run_id, 0, row.run_id) for row in rows]


def _items(
    tx: Connection, made: Sequence[Payload], of: EditOf
) -> list[tuple[EventInsert, Payload]]:
    """Each with the event and run to insert, sorted by the event's identity."""
    events = sorted(
        ((edited_event(one.origin, one.after), one) for one in made),
        key=lambda pair: (pair[0].source, pair[0].id),
    )
    pairs = {(event.source, event.type) for event, _ in events}
    accounts = ledger_rows.accounts(tx, pairs, of.accounts_max)
    ids = of.new_ids.make(edit_rows.unix_ms(tx), len(events))
    return [
        (
            EventInsert(id_, accounts[event.source, event.type], event, [_start(id_, one, of)]),
            one,
        )
        for id_, (event, one) in zip(ids, events, strict=True)
    ]


def _start(event_id: str, one: Payload, of: EditOf) -> RunStart:
    origin = one.origin
    return RunStart(
        id=run_id(event_id, workflow_suffix(origin.workflow)),
        workflow=origin.workflow,
        queue=origin.queue,
        created_by=of.author,
        origin_run_id=origin.run_id,
        priority=origin.priority,
    )
