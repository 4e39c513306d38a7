"""Texts as they are kept."""

import re
from datetime import UTC, datetime

_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store it: it has no NUL and no lone surrogate."""
    return _UNSTORABLE.search(text) is None


def moment_of(text: str) -> datetime:
    """The time that is written in ISO 8601, in UTC if it names no zone. Raises ValueError."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is beyond the first or the last year in UTC") from error


def storable_text(text: str, chars_max: int) -> str:
    """`text` without what PostgreSQL cannot store (NUL, lone surrogates), cut if long."""
    text = _UNSTORABLE.sub("\ufffd", text)
    if len(text) <= chars_max:
        return text
    half = (chars_max - 30) // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"


def size_text(count: int) -> str:
    """So many bytes, in the largest unit of which there is one."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000:
            return f"{size:.0f} {unit}"
        size /= 1_000
    return f"{size:,.1f} TB"
