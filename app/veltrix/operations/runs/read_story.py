"""A run with its whole story: its event, steps, failed attempts, actions and outcome."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import Id
from veltrix.operations.runs.read import RunRow, run_row
from veltrix.store.journal_of import JOURNAL_OF

ENTRIES_MAX = 1_000
OUTPUT_BYTES_MAX = 8 * 1024 * 1024


class EventIdentity(msgspec.Struct):
    """The event a run is for, as its producer identifies it. None: its row is gone."""

    source: str | None
    id: str | None
    type: str | None
    subject: str | None
    accepted_at: datetime | None


class Entry(msgspec.Struct):
    """A line of the journal: a step that finished or failed for good, a sleep, or a recorded value.

    `output` is None where the outputs before it are 8 MiB together already; `output_bytes` says so.
    `began_at` and `took_ms` are of its last attempt; None of what is no step, and of old entries.
    `arguments` are [positional, keywords]; where only the beginning of their text was kept, that is
    `arguments_cut`.
    """

    generation: int
    position: str
    kind: str
    name: str
    output: msgspec.Raw | None
    output_bytes: int
    error: msgspec.Raw | None
    attempts: int
    recorded_at: datetime
    began_at: datetime | None = None
    took_ms: int | None = None
    arguments: msgspec.Raw | None = None
    arguments_cut: str | None = None


class Attempt(msgspec.Struct):
    """An attempt that failed; `retry_delay_s` until the next, None if it was the last.

    `is_crash`: it ended with its worker's process. The rest as of an entry.
    """

    generation: int
    position: str
    step: str
    attempt: int
    type: str
    message: str | None
    traceback: str | None
    fingerprint: str
    worker_id: str | None
    retry_delay_s: float | None
    failed_at: datetime
    began_at: datetime | None = None
    took_ms: int | None = None
    arguments: msgspec.Raw | None = None
    arguments_cut: str | None = None
    is_crash: bool = False


class Action(msgspec.Struct):
    """What somebody did to the run, and why."""

    action: str
    generation: int
    author: str
    reason: str
    acted_at: datetime


class RunStory(RunRow, kw_only=True):
    """A run with all that is known of it: of every generation, the first 1,000 of each list.

    `edited_as`: the runs that edits of this one made.
    """

    cloudevent: EventIdentity
    outcome: msgspec.Raw | None
    steps: list[Entry]
    failed_attempts: list[Attempt]
    actions: list[Action]
    edited_as: list[Id]
    redacted: bool = False


_STORY = """
select e.source, e.sender_id, e.type, e.subject, e.accepted_at, r.outcome::text
from runs r left join events e on e.id = r.event_id
where r.id = %(id)s
"""

_ENTRIES = f"""
select generation, position, kind, name,
    case when sum(bytes) over (order by generation, recorded_at, position) <= %(bytes_max)s
         then output end,
    bytes, error, attempts, recorded_at, began_at, took_ms, arguments
from (
    select generation, position, kind, name, output::text,
        coalesce(octet_length(output::text), 0) as bytes, error::text, attempts, recorded_at,
        began_at, took_ms, arguments
    from {JOURNAL_OF} j where run_id = %(id)s
    order by generation, recorded_at, position limit %(max)s
) as entries
order by generation, recorded_at, position
"""  # noqa: S608 - put together from constants

_ATTEMPTS = """
select generation, position, step, attempt, type, message, traceback, fingerprint, worker_id,
    retry_delay_s, failed_at, began_at, took_ms, arguments, is_crash
from failed_attempts where run_id = %(id)s order by id limit %(max)s
"""

_ACTIONS = """
select action, generation, author, reason, acted_at
from actions where run_id = %(id)s order by id limit %(max)s
"""

_EDITED_AS = """
select run_id::text from edits where origin_run_id = %(id)s order by edited_at, run_id
limit %(max)s
"""


def story(tx: Connection, run_id: str) -> RunStory | None:
    """The run and its whole story, or None if there is no such run. Needs a snapshot."""
    row = run_row(tx, run_id)
    if row is None:
        return None
    *identity, outcome = tx.exec_driver_sql(_STORY, {"id": run_id}).one()
    keys = {"id": run_id, "max": ENTRIES_MAX, "bytes_max": OUTPUT_BYTES_MAX}
    return RunStory(
        **msgspec.structs.asdict(row),
        cloudevent=EventIdentity(*identity),
        outcome=_raw(outcome),
        steps=[_entry(*entry) for entry in tx.exec_driver_sql(_ENTRIES, keys)],
        failed_attempts=[_attempt(*attempt) for attempt in tx.exec_driver_sql(_ATTEMPTS, keys)],
        actions=[Action(*action) for action in tx.exec_driver_sql(_ACTIONS, keys)],
        edited_as=[row[0] for row in tx.exec_driver_sql(_EDITED_AS, keys)],
    )


def redact(run: RunStory) -> None:
    """Take out what payloads said: arguments, outputs, messages, tracebacks, and the outcome."""
    run.outcome, run.redacted = None, True
    for entry in run.steps:
        entry.output = entry.error = entry.arguments = entry.arguments_cut = None
    for attempt in run.failed_attempts:
        attempt.message = attempt.traceback = attempt.arguments = attempt.arguments_cut = None


def _entry(
    generation: int,
    position: str,
    kind: str,
    name: str,
    output: str | None,
    output_bytes: int,
    error: str | None,
    attempts: int,
    recorded_at: datetime,
    began_at: datetime | None,
    took_ms: int | None,
    arguments: str | None,
) -> Entry:
    return Entry(
        generation,
        position,
        kind,
        name,
        _raw(output),
        output_bytes,
        _raw(error),
        attempts,
        recorded_at,
        began_at,
        took_ms,
        *_arguments(arguments),
    )


def _attempt(*row: Any) -> Attempt:
    *before, arguments, is_crash = row
    found = Attempt(*before)
    found.arguments, found.arguments_cut = _arguments(arguments)
    found.is_crash = is_crash
    return found


def _arguments(text: str | None) -> tuple[msgspec.Raw | None, str | None]:
    """What was kept of a step's arguments: all, as JSON; or the beginning of their text."""
    if text is None or (text.startswith("[") and text.endswith("]")):
        return _raw(text), None
    return None, text


_call = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]])


def call_text(arguments: msgspec.Raw | None, cut: str | None) -> str:
    """What a step was called with, as its call is written; empty if that was not kept."""
    if arguments is None:
        return (cut or "").removeprefix("[[")
    positional, keywords = _call.decode(arguments)
    texts = [bytes(value).decode() for value in positional]
    return ", ".join(texts + [f"{k}={bytes(value).decode()}" for k, value in keywords.items()])


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
