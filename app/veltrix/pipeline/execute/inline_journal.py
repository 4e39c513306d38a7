"""The journal of a run that one hand began and ended: with the run, instead of rows of its own.

Rows are for what outlives a hand: a run that waits, fails or loses its worker goes on by them, and
no step begins before the one it follows is journalled. Of a run of one step, or of several at once,
that succeeded in one hand they are read by people alone; a second row, and a second index, were a
third of what a run wrote. `store.journal_of` reads both forms.
"""

from collections.abc import Sequence

import msgspec

from veltrix.pipeline.execute.journal_rows import JournalEntry, chars_of

CHARS_MAX, ENTRIES_MAX = 8_192, 32  # more goes into rows, which are read one by one
_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode


def may_be_inline(entries: Sequence[JournalEntry]) -> bool:
    """Whether this may be all of a run's journal.

    Pauses are rows: how long they took is asked. So are steps that failed for good.
    """
    is_plain = all(one.kind != "sleep" and one.error is None for one in entries)
    return is_plain and len(entries) <= ENTRIES_MAX and chars_of(entries) <= CHARS_MAX


def inline_of(entries: Sequence[JournalEntry], now: float) -> str:
    """The entries as `runs.steps` has them; `now` is of the clock by which they began."""
    return _encode([_one(entry, now) for entry in entries]).decode()


def _one(entry: JournalEntry, now: float) -> tuple[object, ...]:
    digest, began = entry.arguments_digest, entry.began
    return (
        entry.position,
        entry.kind,
        entry.name,
        None if digest is None else digest.hex(),
        _NULL if entry.output is None else msgspec.Raw(entry.output.encode()),
        entry.attempts,
        None if began is None else int((now - began) * 1000),
        entry.took_ms,
        entry.arguments,
    )
