"""Sending a file of events: batches on one kept connection, each until the api has answered for it.

One batch is on its way at a time, so the place in the file is always known: everything before
`next_line` was taken or refused. Sending a line twice is harmless: its identity is known.
"""

import http.client
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from veltrix.commands.mistakes import CommandRefused
from veltrix.pipeline.accept.cloudevents import BATCH_TYPE, STRUCTURED_TYPE
from veltrix.tls import client_context

TIMEOUT_S = 60.0
BACKOFF_S, BACKOFF_S_MAX = 0.1, 5.0
READ_BYTES = 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024


class Line(NamedTuple):
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


class _Item(msgspec.Struct):
    status: int
    duplicate: bool = False
    detail: str = ""
    type: str | None = None
    id: str | None = None
    source: str | None = None


class _Batch(msgspec.Struct):
    items: list[_Item]


class Answer(NamedTuple):
    """What the api said to one request."""

    status: int
    body: bytes
    retry_after_s: float


class Wait(Protocol):
    """Pauses before the next attempt, told why; may raise to give up."""

    def __call__(self, pause_s: float, why: str) -> None: ...


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


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


def read_batches(fd: int, from_line: int, events_max: int) -> Iterator[list[Line]]:
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
        batch: list[Line] = []
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
            batch.append(Line(number, event, offset))
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


class Api:
    """`POST /v1/events` of one api, over a connection that is kept.

    Over https its certificate and name are checked by the CAs in `ca_file`, or the system's. Raises
    CommandRefused for a bad URL or file.
    """

    def __init__(self, url: str, key: str | None, ca_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CommandRefused(f"{url!r} is no address of an api; write https://host:8080")
        host = parts.netloc.rpartition("@")[2]
        self._connection = (
            http.client.HTTPConnection(host, timeout=TIMEOUT_S)
            if parts.scheme == "http"
            else http.client.HTTPSConnection(host, timeout=TIMEOUT_S, context=_context(ca_file))
        )
        self._path = f"{parts.path.rstrip('/')}/v1/events"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def post(self, content_type: str, body: bytes) -> Answer:
        """The answer. Raises OSError or HTTPException when the connection is lost."""
        try:
            self._connection.request(
                "POST", self._path, body, {**self._headers, "Content-Type": content_type}
            )
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        retry_after = response.headers.get("Retry-After", "")
        return Answer(response.status, text, float(retry_after) if retry_after.isdigit() else 0.0)

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return client_context(ca_file)
    except OSError as error:
        why = error.strerror or error
        raise CommandRefused(f"no CA can be read of {str(ca_file)!r}: {why}") from None


class Sender:
    """Sends lists of lines until each line was taken or refused; `sent` says how far it is."""

    def __init__(self, api: Api, refuse: Callable[[Refusal], None], wait: Wait) -> None:
        self._api, self._refuse, self._wait = api, refuse, wait
        self._refusals: list[Refusal] = []
        self.sent = Sent()

    def send(self, batch: list[Line]) -> None:
        """The api has answered for every line of the list.

        Raises CommandRefused when it takes none from this caller.
        """
        # What is no JSON could end the array early: such a line goes alone, for the api to judge.
        whole = [line for line in batch if _is_json(line.text)]
        if whole:
            self._send(whole)
        for line in batch:
            if not _is_json(line.text):
                self._send_alone(line)
        for refusal in sorted(self._refusals, key=lambda refusal: refusal.line):
            self._refuse(refusal)
        self._refusals.clear()
        self.sent.next_line = batch[-1].number + 1
        self.sent.offset = batch[-1].end

    def _send(self, lines: list[Line]) -> None:
        """In one request; again what the database kept from being taken; halves if too large."""
        backoff_s = BACKOFF_S
        while lines:
            answer = self._post(BATCH_TYPE, b"[" + b",".join(line.text for line in lines) + b"]")
            items = _items_of(answer)
            if items is None or len(items) != len(lines):
                if len(lines) == 1:
                    self._send_alone(lines[0])
                    return
                self._send(lines[: len(lines) // 2])
                lines = lines[len(lines) // 2 :]
                continue
            later = []
            for line, item in zip(lines, items, strict=True):
                if item.status == 503:
                    later.append(line)
                else:
                    self._count(line, item)
            lines = later
            if lines:
                self._wait(
                    max(backoff_s, answer.retry_after_s), "the api cannot reach its database"
                )
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    def _send_alone(self, line: Line) -> None:
        answer = self._post(STRUCTURED_TYPE, line.text)
        item = _item_of(answer)
        item.status = answer.status
        self._count(line, item)

    def _count(self, line: Line, item: _Item) -> None:
        self.sent.lines += 1
        if item.status == 202:
            self.sent.duplicates += item.duplicate
            self.sent.accepted += not item.duplicate
            return
        self.sent.refused += 1
        self._refusals.append(
            Refusal(line.number, item.status, item.detail, item.type, item.id, item.source)
        )

    def _post(self, content_type: str, body: bytes) -> Answer:
        """The api's answer, however long it is away or has no room."""
        backoff_s = BACKOFF_S
        while True:
            try:
                answer = self._api.post(content_type, body)
            except ssl.SSLCertVerificationError as error:
                raise CommandRefused(
                    f"the api's certificate is not believed: {error.verify_message}; --ca-file"
                    " names the CA that it is of, --url the name that it is for"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                pause_s, why = backoff_s, f"no connection ({type(error).__name__}: {error})"
            else:
                if answer.status not in {429, 503}:
                    _check_caller(answer)
                    return answer
                why = f"{answer.status} {_item_of(answer).detail}"
                pause_s = max(backoff_s, answer.retry_after_s)
            self._wait(pause_s, why)
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)


def _is_json(text: bytes) -> bool:
    try:
        _check_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _items_of(answer: Answer) -> list[_Item] | None:
    """The items of a batch's answer; None: the batch as a whole was not taken."""
    if answer.status not in {202, 207, 400}:
        return None
    try:
        return _decode_batch(answer.body).items
    except msgspec.MsgspecError:
        return None


def _item_of(answer: Answer) -> _Item:
    """A receipt or problem that stands alone; of another server's page the first characters."""
    try:
        return _decode_item(answer.body)
    except msgspec.ValidationError:
        try:
            return msgspec.convert(
                {**msgspec.json.decode(answer.body), "status": answer.status}, _Item
            )
        except (msgspec.MsgspecError, TypeError):
            pass
    except msgspec.DecodeError:
        pass
    return _Item(answer.status, detail=answer.body[:200].decode(errors="replace"))


def _check_caller(answer: Answer) -> None:
    """Raises CommandRefused for answers that every further line would get as well."""
    if answer.status in {202, 207, 400, 409, 413, 422}:
        return
    detail = _item_of(answer).detail
    cure = {
        401: "; give a key with VELTRIX_API_KEY or VELTRIX_API_KEY_FILE",
        403: "; the key needs the scope events:write",
        404: "; is --url the address of an api?",
    }.get(answer.status, "")
    raise CommandRefused(f"the api answers {answer.status}: {detail}{cure}")
