"""Dead letters as people read them: many without what they hold, or one with it."""

from base64 import b64encode
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import Id
from veltrix.pipeline.relay.dead_letter_rows import StoredLetter, read


class LetterRow(msgspec.Struct, kw_only=True):
    """A dead letter without its headers and body: a line of a list.

    `run_ids` are the runs that it names, which it made due again. `seen_at`: when somebody said
    that he had looked at it. `redacted`: what it says of its content is left out.
    """

    id: int
    queue: str
    reason: str
    detail: str | None
    content_type: str | None
    body_bytes: int
    run_ids: list[Id]
    received_at: datetime
    seen_at: datetime | None
    seen_by: str | None
    redacted: bool = False


class LetterStory(LetterRow, kw_only=True):
    """A dead letter as it came. A body that is not UTF-8 is in `body_base64`."""

    headers: msgspec.Raw | None
    body: str | None
    body_base64: str | None


class LetterPage(msgspec.Struct):
    """Letters, oldest first. `next` goes on from here, None: there are no more."""

    items: list[LetterRow]
    next: str | None


_PAGE = """
select id, queue, reason, detail, content_type, octet_length(body), run_ids::text[], received_at,
    seen_at, seen_by
from dead_letters
where id > %(after)s and (not %(unseen_only)s or seen_at is null)
order by id limit %(limit)s
"""


def page(tx: Connection, *, after: int, limit: int, unseen_only: bool) -> LetterPage:
    """The first `limit` letters with an id above `after`."""
    asked = {"after": after, "limit": limit, "unseen_only": unseen_only}
    names = LetterRow.__struct_fields__[:-1]
    rows = [
        LetterRow(**dict(zip(names, row, strict=True))) for row in tx.exec_driver_sql(_PAGE, asked)
    ]
    return LetterPage(rows, str(rows[-1].id) if len(rows) == limit else None)


def find(tx: Connection, letter_id: int) -> LetterStory | None:
    """The letter of this id, or None if there is none."""
    letters = stories(tx, after=letter_id - 1, limit=1, unseen_only=False)
    return letters[0] if letters and letters[0].id == letter_id else None


def stories(tx: Connection, *, after: int, limit: int, unseen_only: bool) -> list[LetterStory]:
    """The first `limit` letters with an id above `after`, each with its headers and body."""
    return [_story(one) for one in read(tx, after=after, limit=limit, unseen_only=unseen_only)]


def _story(letter: StoredLetter) -> LetterStory:
    values: dict[str, Any] = msgspec.structs.asdict(letter)
    raw: bytes = values.pop("body")
    values |= {"body_bytes": len(raw), "headers": msgspec.Raw(values["headers"].encode())}
    try:
        values |= {"body": raw.decode(), "body_base64": None}
    except UnicodeDecodeError:
        values |= {"body": None, "body_base64": b64encode(raw).decode()}
    return LetterStory(**values)


def redact(letter: LetterRow) -> None:
    """Take out what the message said."""
    letter.detail, letter.redacted = None, True
    if isinstance(letter, LetterStory):
        letter.headers = letter.body = letter.body_base64 = None
