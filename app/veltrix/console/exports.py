"""Lists as files: CSV for spreadsheets, JSON for programs.

A spreadsheet takes a cell for a formula that begins with one of a few characters, whoever sent the
text. Such a cell gets an apostrophe before it, which spreadsheets hide and take as "this is text".
"""

import csv
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import StringIO
from threading import BoundedSemaphore
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from veltrix.domain.states import RunState
from veltrix.web.problems import unavailable

ROWS_MAX = 10_000
LOOK_S_MAX = 2.0  # pages of a search for something rare are short, and each takes its time
EXPORTS_MAX = 2  # at once, of an api: each has one of the few connections that all readers share
_PAGE_ROWS = 200
_FORMULA = (*"=+-@|%\t\r\n", *"\uff1d\uff0b\uff0d\uff20")  # the last four: their full-width forms

_AFTER_SEPARATOR = re.compile(rf"(?<=.)([;\t] *)([{re.escape(''.join(_FORMULA))}])", re.DOTALL)


class Page(Protocol):
    """What the reads give: items, and where to go on."""

    @property
    def items(self) -> Sequence[msgspec.Struct]: ...
    @property
    def next(self) -> str | None: ...


_room = BoundedSemaphore(EXPORTS_MAX)


def exported(
    name: str,
    suffix: str,
    find: Callable[[str | None, int], Page],
    cursor: str | None,
    look_s_max: float = LOOK_S_MAX,
) -> Response:
    """Up to 10,000 rows from `cursor` on, as a file; `X-Next-Cursor` says where it goes on.

    `find(cursor, limit)` gives a page; after `look_s_max` none is asked for any more: what is rare
    is in several files. No such header: these are all. Raises Problem 503 while others are made.
    """
    items: list[msgspec.Struct] = []
    with _one_of_few():
        ends_at = time.monotonic() + look_s_max
        while True:
            page = find(cursor, min(_PAGE_ROWS, ROWS_MAX - len(items)))
            items += page.items
            cursor = page.next
            if cursor is None or len(items) >= ROWS_MAX or time.monotonic() > ends_at:
                return as_file(name, suffix, items, cursor)


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _room.acquire(blocking=False):
        raise unavailable(
            f"{EXPORTS_MAX} files are being made by this api; ask for yours again in a few seconds"
        )
    try:
        yield
    finally:
        _room.release()


def as_file(
    name: str, suffix: str, items: Sequence[msgspec.Struct], next_: str | None = None
) -> Response:
    """These rows as a file to be saved."""
    headers = {"Content-Disposition": f'attachment; filename="veltrix-{name}.{suffix}"'}
    if next_ is not None:
        headers["X-Next-Cursor"] = next_
    if suffix == "json":
        body = msgspec.json.encode({"items": items, "next": next_})
        return Response(body, media_type="application/json", headers=headers)
    return Response(
        csv_of(items).encode("utf-8", "replace"),
        media_type="text/csv; charset=utf-8",
        headers=headers,
    )


def csv_of(items: Sequence[msgspec.Struct]) -> str:
    """Rows under the names of their fields; every cell is text to a spreadsheet."""
    out = StringIO()
    writer = csv.writer(out)
    if items:
        writer.writerow(items[0].__struct_fields__)
    for item in items:
        writer.writerow([cell(getattr(item, name)) for name in item.__struct_fields__])
    return out.getvalue()


def cell(value: Any) -> str:
    """A value as the text of a cell that is no formula."""
    match value:
        case None:
            return ""
        case bool() | int() | float():
            return str(value)
        case datetime():
            return value.isoformat()
        case RunState():
            return value.value
        case str():
            return guarded(value)
        case _:
            return guarded(msgspec.json.encode(value).decode())


def guarded(text: str) -> str:
    """The text, with an apostrophe before what a spreadsheet would take for a formula.

    That may be in the middle: some split cells at semicolons or tabs too, whatever the quotes say.
    """
    split = _AFTER_SEPARATOR.sub(r"\1'\2", text)
    return f"'{split}" if text.lstrip(" ").startswith(_FORMULA) else split
