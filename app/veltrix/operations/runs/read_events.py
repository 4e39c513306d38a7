"""Events as people read them: one with its payload as sent, or a page of many without.

A page costs the same however long the ledger is: where a filter has no index, it looks at
`ROWS_MAX` events and says where to go on.
"""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    cast,
    literal_column,
    select,
)
from sqlalchemy.sql.selectable import Subquery

from veltrix.domain.events import CANARY_ACCOUNT, CANARY_SOURCE
from veltrix.domain.ids import Id, first_id_at
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.accept.ledger_rows import runs_of
from veltrix.pipeline.accept.receipts import StartedRun
from veltrix.store.tables import events

ROWS_MAX = 100_000


class EventRow(msgspec.Struct, kw_only=True):
    """An accepted event without its payload: a line of a list."""

    event: Id
    source: str
    id: str
    type: str
    subject: str | None
    accepted_at: datetime
    unrouted: bool


class EventStory(EventRow, kw_only=True, omit_defaults=True):
    """An event as it was sent, with the runs it started.

    `data` is the JSON value; content that is not JSON is in `data_base64`. `redacted`: both, and
    `extensions`, are left out for who may not see payloads.
    """

    runs: list[StartedRun]
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    traceparent: str | None = None
    extensions: msgspec.Raw | None = None
    data: msgspec.Raw | None = None
    data_base64: str | None = None
    redacted: bool = False


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events; None leaves a condition out. `since` <= acceptance < `until`."""

    source: str | None = None
    type: str | None = None
    subject: str | None = None
    id: str | None = None
    unrouted: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


class EventPage(msgspec.Struct):
    """Events, newest first. `next` goes on from here, None: there are no more. It may be short."""

    items: list[EventRow]
    next: str | None


_COLUMNS = [
    {"event": "id", "id": "sender_id"}.get(name, name) for name in EventRow.__struct_fields__
]


def find(tx: Connection, event_id: str) -> EventStory | None:
    """The event of this id of ours, or None if there is none."""
    c = events.c
    row = tx.execute(
        select(
            *(c[name] for name in _COLUMNS),
            c.time,
            c.datacontenttype,
            c.dataschema,
            c.traceparent,
            cast(c.extensions, Text),
            cast(c.data, Text),
            c.data_binary,
        ).where(c.id == event_id)
    ).one_or_none()
    if row is None:
        return None
    count = len(_COLUMNS)
    time, content_type, schema, traceparent, extensions, data, binary = row[count:]
    return EventStory(
        **msgspec.structs.asdict(_event_row(row[:count])),
        runs=runs_of(tx, [event_id]).get(event_id, []),
        time=time,
        datacontenttype=content_type,
        dataschema=schema,
        traceparent=traceparent,
        extensions=_raw(extensions),
        data=_raw(data),
        data_base64=None if binary is None else b64encode(binary).decode(),
    )


def find_by_identity(tx: Connection, source: str, sender_id: str) -> EventStory | None:
    """The event with this id of its sender's, or None if there is none."""
    known = ledger_rows.known(tx, [(source, sender_id)]).get((source, sender_id))
    return None if known is None else find(tx, known.event_id)


def redact(event: EventStory) -> None:
    """Take out what the payload said."""
    event.data = event.data_base64 = event.extensions = None
    event.redacted = True


def row_of(event: EventRow) -> EventRow:
    """The line of a list that the event is."""
    return EventRow(**{name: getattr(event, name) for name in EventRow.__struct_fields__})


def page(
    tx: Connection,
    wanted: EventFilter,
    *,
    cursor: str | None = None,
    limit: int = 50,
    rows_max: int = ROWS_MAX,
) -> EventPage:
    """The newest `limit` events that `wanted` describes, below `cursor` (an event of ours)."""
    bounds = _bounds(wanted, cursor)
    looked_at = _newest(events, bounds, rows_max).subquery("looked_at")
    is_plain = wanted == EventFilter(since=wanted.since, until=wanted.until)
    is_indexed = wanted.unrouted is True and wanted.type is not None
    asked = (
        _newest(events, [*bounds, *_conditions(events, wanted)], limit)
        if is_plain or is_indexed
        else _newest(looked_at, _conditions(looked_at, wanted), limit)
    )
    rows = [_event_row(row) for row in tx.execute(asked)]
    if len(rows) == limit:
        return EventPage(rows, rows[-1].event)
    if is_plain or is_indexed:
        return EventPage(rows, None)
    last = select(events.c.id).where(*bounds).order_by(events.c.id.desc())
    return EventPage(rows, tx.execute(last.offset(rows_max - 1).limit(1)).scalar_one_or_none())


def _newest(
    table: Table | Subquery, conditions: Sequence[ColumnElement[bool]], limit: int
) -> Select[tuple[object, ...]]:
    return (
        select(*(table.c[name] for name in _COLUMNS))
        .where(*conditions)
        .order_by(table.c.id.desc())
        .limit(limit)
    )


def _bounds(wanted: EventFilter, cursor: str | None) -> list[ColumnElement[bool]]:
    """Bounds of the primary key: ids begin with the time of acceptance."""
    bounds: list[ColumnElement[bool]] = []
    if cursor is not None:
        bounds.append(events.c.id < cursor)
    if wanted.since is not None:
        bounds.append(events.c.id >= first_id_at(wanted.since))
    if wanted.until is not None:
        bounds.append(events.c.id < first_id_at(wanted.until))
    if wanted.source != CANARY_SOURCE:
        bounds.append(events.c.account_id != CANARY_ACCOUNT)
    return bounds


def _conditions(table: Table | Subquery, wanted: EventFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        table.c["sender_id" if name == "id" else name] == value
        for name in ("source", "type", "subject", "id")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.unrouted is not None:
        # As a literal, so that the planner sees that the partial index covers the question.
        is_it = "unrouted" if wanted.unrouted else "not unrouted"
        conditions.append(literal_column(is_it, Boolean))
    return conditions


def _event_row(row: Sequence[object]) -> EventRow:
    return msgspec.convert(dict(zip(EventRow.__struct_fields__, row, strict=True)), EventRow)


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
