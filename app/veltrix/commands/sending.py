"""Sending a file of events: batches on one kept connection, each until the api has answered for it.

One batch is on its way at a time, so the place in the file is always known: everything before
`next_line` was taken or refused. Sending a line twice is harmless: its identity is known.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from veltrix.client.events import EventPoster
from veltrix.commands.mistakes import CommandRefused

READ_BYTES = 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024


class FileLine(NamedTuple):
    """An event as it stands in the file; `end` is the offset behind it."""

    number: int
    text: bytes
    end: int


class Refusal(msgspec.Struct, frozen=True):
    """A line the api does not take, and why; sending it again changes nothing."""

    line: int
    status: int
    detail: str
    type: str | None = None
    id: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        name = f" (id {self.id!r} from {self.source!r})" if self.id else ""
        return f"line {self.line:,}: {self.status} {self.detail}{name}"


class Sent(msgspec.Struct):
    """How far it is. `next_line` is the first that the api has not answered for."""

    next_line: int = 1
    lines: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    offset: int = 0


_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
    b"BZh": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ": ("xz", "xz -dc"),
    b"PK\x03\x04": ("zip", "unzip -p"),
}
_NO_LINES = {
    begin: (f"a {name} file", f"send what is in it: {command} FILE | veltrix send -")
    for begin, (name, command) in _PACKED.items()
} | dict.fromkeys(
    (b"\xff\xfe", b"\xfe\xff"),
    ("text in UTF-16", "write it in UTF-8: iconv -f UTF-16 -t UTF-8 FILE | veltrix send -"),
)


def read_batches(fd: int, from_line: int, events_max: int) -> Iterator[list[FileLine]]:
    """The file's lines that are not empty, from `from_line` on, in lists of all that is there.

    A pipe's lines are passed on as they come: nothing waits for a list to fill. Raises
    CommandRefused for what is no file of lines, before anything of it is sent.
    """
    rest, number, offset, has_begun = b"", 0, 0, from_line > 1
    while True:
        piece = os.read(fd, READ_BYTES)
        if number == 0:
            _check_begin(rest + piece)
        *texts, rest = (rest + piece).split(b"\n") if piece else [rest, b""]
        if len(rest) > LINE_BYTES_MAX:
            raise CommandRefused(
                f"line {number + len(texts) + 1:,} is longer than any event may be"
            )
        batch: list[FileLine] = []
        batch_bytes = 0
        for text in texts:
            number += 1
            offset += len(text) + 1
            event = text.strip(b"\xef\xbb\xbf \t\r") if number == 1 else text.strip(b" \t\r")
            if number < from_line or not event:
                continue
            if not has_begun:
                _check_first_line(event)
            has_begun = True
            if batch and (len(batch) >= events_max or batch_bytes + len(event) > BATCH_BYTES_MAX):
                yield batch
                batch, batch_bytes = [], 0
            batch.append(FileLine(number, event, offset))
            batch_bytes += len(event)
        if batch:
            yield batch
        if not piece:
            return


def _check_begin(text: bytes) -> None:
    for begin, (kind, cure) in _NO_LINES.items():
        if text.startswith(begin):
            raise CommandRefused(f"this is {kind}, not NDJSON with an event a line; {cure}")


def _check_first_line(line: bytes) -> None:
    """A batch or an object written over several lines: each of its lines would be refused."""
    if line.startswith(b"["):
        raise CommandRefused(
            "this is a JSON array, not NDJSON with an event a line; write each event on a line of"
            " its own: jq -c '.[]' FILE | veltrix send -"
        )
    if line == b"{":
        raise CommandRefused(
            "this is JSON over several lines, not NDJSON with an event a line; write each event on"
            " a line of its own: jq -c . FILE | veltrix send -"
        )


class Sender:
    """Sends lists of lines until each line was taken or refused; `sent` says how far it is."""

    def __init__(self, poster: EventPoster, refuse: Callable[[Refusal], None]) -> None:
        self._poster, self._refuse = poster, refuse
        self.sent = Sent()

    def send(self, batch: list[FileLine]) -> None:
        """The api has answered for every line of the list.

        Raises ApiError when it takes none from this caller.
        """
        refusals: list[Refusal] = []
        for place, item in self._poster.post([line.text for line in batch]):
            self.sent.lines += 1
            if item.status == 202:
                self.sent.duplicates += item.duplicate
                self.sent.accepted += not item.duplicate
                continue
            self.sent.refused += 1
            number = batch[place].number
            told = (item.detail, item.type, item.id, item.source)
            refusals.append(Refusal(number, item.status, *told))
        for refusal in sorted(refusals, key=lambda refusal: refusal.line):
            self._refuse(refusal)
        self.sent.next_line = batch[-1].number + 1
        self.sent.offset = batch[-1].end
