"""How an edited run came to be: by whom, why, and its payload before and after, as text."""

from collections.abc import Sequence
from datetime import datetime
from difflib import unified_diff

import msgspec
from sqlalchemy import Connection

from veltrix.console.rendering import pretty
from veltrix.domain.ids import event_id_of
from veltrix.operations.replays import edit_rows
from veltrix.operations.replays.patch import DIFF_BYTES_MAX, exact, text_of
from veltrix.operations.runs import read_events
from veltrix.operations.runs.read_events import EventStory

# Beyond it lines are not compared: the time grows with the square, and nobody reads it.
_LINES_MAX = 2_000


class Edit(msgspec.Struct, frozen=True):
    """The edit that made a run. `changes` are lines of both payloads, or of the patch that is kept.

    `is_patch`: it is the patch, since one of the payloads is gone, or too long to be compared.
    """

    origin: str
    origin_generation: int
    author: str
    reason: str
    edited_at: datetime
    changes: str
    is_patch: bool


def edit_of(tx: Connection, run_id: str, sent: EventStory | None) -> Edit | None:
    """How this run was made, whose event is `sent`; None: not by an edit."""
    kept = edit_rows.find(tx, run_id)
    if kept is None:
        return None
    before = read_events.find(tx, event_id_of(kept.origin))
    changes = None if before is None or sent is None else compared(before.data, sent.data)
    return Edit(
        kept.origin,
        kept.origin_generation,
        kept.author,
        kept.reason,
        kept.edited_at,
        pretty(kept.patch) if changes is None else changes,
        is_patch=changes is None,
    )


def compared(before: msgspec.Raw | None, after: msgspec.Raw | None) -> str | None:
    """What two payloads differ in, line by line; None: they are too long to be compared."""
    if len(before or b"") + len(after or b"") > DIFF_BYTES_MAX:
        return None
    old, new = _lines(before), _lines(after)
    if len(old) + len(new) > _LINES_MAX:
        return None
    lines = unified_diff(old, new, "before", "after", lineterm="")
    return "\n".join(lines) or "The payload is the same."


def _lines(data: msgspec.Raw | None) -> Sequence[str]:
    """Letters that one sender spells and another does not are written in one way."""
    return pretty(text_of(exact(bytes(data)))).split("\n") if data is not None else ()
