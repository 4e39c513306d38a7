"""One connection of an api: what it may take in bytes and time, and whose bytes are whose.

uvicorn's protocol over llhttp, with what both leave open closed: an offer to upgrade takes nothing
of its request, heads end, and in time, bodies come at a pace, trailers are no headers, white space
around a value is no part of it, and a body that was not read ends the connection, politely.
"""

import asyncio
import re
import urllib.parse
from collections import deque
from typing import Any, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from veltrix.api.cycle import WRITTEN_BYTES, Cycle, give_up
from veltrix.api.gate import Gate, Guest
from veltrix.api.unread import UnreadAnswers, queued_bytes
from veltrix.web.problems import MEDIA_TYPE, Problem

_END = b"\r\n\r\n"
_OFFER = re.compile(rb"(?<=\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
# What a request has at most once. Of any other header each line counts.
_ONCE = frozenset(
    {
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"expect",
        b"host",
        b"idempotency-key",
        b"if-match",
        b"origin",
        b"sec-fetch-site",
        b"webhook-request-origin",
    }
)
HEADERS_MAX = 256  # each is an object; an event in headers has a hundred extensions
_NEVER = float("inf")
_CHUNKED = 9  # times: what a body may take in chunks of one byte


class ApiConnection(HttpToolsProtocol):
    """See the module. Its `gate` counts it, and closes it when it is over its time."""

    def __init__(self, gate: Gate, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = gate
        self.greeting: Guest | None = None  # who it was until TLS was agreed on
        self.deadline = _NEVER  # in the loop's time: closed then, if nothing moves it
        self._head = bytearray()  # of the next request, as far as it has come
        self._is_in_head = False  # the parser has some of one: it came behind a whole request
        self._is_in_message = False  # after its head
        self._extra = 0  # bytes of the message, or of that head, that are no body
        self._bodied = 0  # bytes of body in what is being parsed
        self._is_from_before = False  # all of that is of the message that it began with
        self.unread = UnreadAnswers(gate.limits.write_s)
        self._is_ending = False
        self._queued = 0  # bytes that the kernel had for the client then, at the last look
        self._running: Cycle | None = None  # being answered
        self._is_lingering = False  # answered, and only read to its end
        self._is_deaf = False  # what comes is no request, or one too many
        self._left = 0  # bytes that are read then
        self._once: set[bytes] = set()
        self._refusal: Problem | None = None

    # ---- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let in, or closed at once."""
        super().connection_made(cast(asyncio.Transport, transport))
        self.deadline = self.loop.time() + self.gate.limits.head_s
        if self.greeting is not None:
            self.gate.leave(self.greeting)
        # As without TLS, which would keep half a MiB of an answer before it says so.
        self.transport.set_write_buffer_limits(WRITTEN_BYTES)
        self.gate.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, whoever ended it: nobody waits for any of its answers."""
        self.gate.leave(self)
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                give_up(cycle)
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that sends no more may still read its answer; not over TLS, as loops have it."""
        cycle: RequestResponseCycle | None = self.cycle
        if self.scheme == "https":
            return None
        if self._is_lingering or cycle is None or cycle.response_complete or cycle.more_body:
            return None
        cycle.keep_alive = False
        self._is_deaf = True
        for asked in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if asked is not None:
                cast(Cycle, asked).hear_no_more()
        return True

    def data_received(self, data: bytes) -> None:
        """Heads go to the parser whole, bodies as they come."""
        if self._is_lingering:
            self._left -= len(data)
            self.deadline += len(data) / self.gate.limits.body_bytes_per_s
            if self._left < 0:
                self.transport.close()
            return
        if self._is_deaf:
            return
        if not (self._is_in_message or self._is_in_head):
            whole = self._take_head(data)
            if whole is None:
                return
            data = whole
        self._bodied, self._is_from_before = 0, True
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(
                self._refusal
                or Problem(
                    "bad-request",
                    "the request is not HTTP/1.1: look at the client, or at the proxy",
                )
            )
            return
        self._count(len(data))

    def _count(self, size: int) -> None:
        """Trailers, extensions of chunks, and heads that came in pieces have an end as well."""
        if not (self._is_in_message or self._is_in_head):
            return
        # Of a packet that ended one message and began another nobody says how much is whose.
        self._extra += size - (_CHUNKED * self._bodied) if self._is_from_before else 0
        if self._extra > self.gate.limits.head_bytes_max:
            self._refuse(
                Problem(
                    "head-too-large",
                    "the request has more trailers or chunk extensions than allowed",
                )
            )
        elif self._is_in_head and self.deadline == _NEVER:
            self.deadline = self.loop.time() + self.gate.limits.head_s

    def _take_head(self, data: bytes) -> bytes | None:
        """What there is, if the head is whole; None: it is not yet, or was refused."""
        head = self._head
        if not head:
            data = data.lstrip(b"\r\n")
            if not data:
                return None
            self._unset_keepalive_if_required()
            self.deadline = self.loop.time() + self.gate.limits.head_s
            if not 65 <= data[0] <= 90:  # no method begins like this: another protocol
                self._refuse(
                    Problem(
                        "bad-request",
                        "the request is not HTTP/1.1: look at the client, or at the proxy",
                    )
                )
                return None
        most = self.gate.limits.head_bytes_max
        begun = max(0, len(head) - len(_END) + 1)
        if head:
            head += data
        end = (head or data).find(_END, begun)
        if end < 0 or end > most:
            if max(len(head or data), end) > most:
                self._refuse(Problem("head-too-large", f"the head has more than {most:,} bytes"))
            elif not head:
                head += data
            return None
        if head:  # copied once: it may have come byte by byte
            data = bytes(head)
            head.clear()
        # llhttp takes a request that offers to upgrade for one without a body.
        if b"pgrade" in data[:end].lower():
            top = _OFFER.sub(b"x-upgrade", data[:end])
            data, end = top + data[end:], len(top)
        self._extra = -(end + len(_END))
        return data

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._once.clear()
        self._is_in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the head it is a trailer, and no header."""
        if self._is_in_message:
            return
        if len(self.headers) >= HEADERS_MAX:
            self._refuse_within(f"a head has at most {HEADERS_MAX} headers")
        name, value = name.lower(), value.strip(b" \t")
        if name in _ONCE:
            if name in self._once:
                self._refuse_within(f"the header {name.decode('latin-1')} is there twice")
            self._once.add(name)
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def _refuse_within(self, detail: str) -> None:
        """From within the parser, which stops there."""
        self._refusal = Problem("bad-request", detail)
        raise ValueError(detail)

    def on_headers_complete(self) -> None:
        """The head is whole: its request goes to the application, or waits for the one before."""
        if self.parser.should_upgrade():  # CONNECT, or an offer in the middle of what was piped
            self._refuse_within(
                "the request asks for another protocol (Upgrade, CONNECT): this api speaks HTTP/1.1"
            )
        self._is_in_head, self._is_in_message = False, True
        limits = self.gate.limits
        self.deadline = self.loop.time() + limits.body_s
        self.gate.heard(self)
        scope, http_version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before: RequestResponseCycle | None = self.cycle
        self.cycle = Cycle(
            self,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of it: whoever sends at the pace has all the time that takes."""
        self._bodied += len(body)
        self.deadline += len(body) / self.gate.limits.body_bytes_per_s
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of the request is here."""
        self._is_in_message = self._is_from_before = False
        self._extra = 0
        self.deadline = _NEVER  # it is for us now
        self.gate.whole(self)
        if not self.parser.should_keep_alive():  # a trailer may say so
            self.cycle.keep_alive = False
        super().on_message_complete()

    # ---- the end

    def _refuse(self, problem: Problem) -> None:
        """Answer in place of the application, and read no further request."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.more_body and not cycle.response_started:
                give_up(cycle)  # its body is what is wrong: nobody waits for it any more
                self.pipeline = deque(one for one in self.pipeline if one[0] is not cycle)
            before = self.pipeline[0][0] if self.pipeline else self._running
            if before is not None and before is not cycle and not before.response_complete:
                cycle = before
            if not cycle.more_body or cycle.response_started:
                cycle.keep_alive = False  # it is being answered, and is the last
                self._is_deaf, self.deadline = True, _NEVER
                return
        body = msgspec.json.encode(problem.document())
        head = [STATUS_LINE[problem.status]]
        for name, value in self.server_state.default_headers:
            head += [name, b": ", value, b"\r\n"]
        head += [
            b"content-type: " + MEDIA_TYPE.encode(),
            b"\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        ]
        self.transport.write(b"".join(head))
        self.linger()

    def on_response_complete(self) -> None:
        """The next one, if there is one."""
        if self._is_lingering:
            self.server_state.total_requests += 1
        else:
            if not self.pipeline:
                self.gate.answered(self)
            super().on_response_complete()

    def linger(self) -> None:
        """Say no more, and read what is still sent, for a while: closed before, it would reset."""
        if self._is_lingering or self.transport.is_closing():
            return
        self._is_lingering = True
        self.gate.lingers(self)
        self._left = self.gate.limits.linger_bytes_max
        self.deadline = self.loop.time() + self.gate.limits.linger_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def is_over(self, now: float) -> bool:
        """Its time is over, and it is not we who keep it waiting."""
        if self.transport.is_closing():
            self._look_at_end(now)
        is_ours = self.flow.read_paused and not (self._is_lingering or self.transport.is_closing())
        return self.unread.is_over(self.transport, now) or (now >= self.deadline and not is_ours)

    def _look_at_end(self, now: float) -> None:
        """All is said: whoever goes on reading what the kernel has for him has time for it.

        Over TLS a loop only waits for the client's goodbye, which comes after the last byte.
        """
        queued = queued_bytes(self.transport)
        if not self._is_ending:
            self._is_ending = True
            self.deadline = min(self.deadline, now + self.unread.patience_s)
            if not self.transport.get_write_buffer_size():
                self.gate.lingers(self)
        elif queued < self._queued:
            self.deadline = now + self.unread.patience_s
        self._queued = queued

    def close_late(self) -> None:
        """Too slow: an answer if it began to ask, and the end."""
        is_asking = self._head or self._is_in_head or self._is_in_message
        if self._is_lingering or self.unread.is_waiting() or not is_asking:
            self.transport.abort()
        else:
            self._refuse(Problem("too-slow", "the request did not come in time"))

    def shutdown(self) -> None:
        """The api ends: what is being answered is, who has not asked whole is told, and soon."""
        cycle: RequestResponseCycle | None = self.cycle
        if self._is_lingering:
            self.transport.close()
        elif cycle is not None and not cycle.response_complete and cycle.more_body:
            self._refuse(Problem("unavailable", "this api is shutting down: try again"))
        else:
            super().shutdown()
        now, soon_s = self.loop.time(), self.gate.limits.linger_s
        self.unread.hurry(now, soon_s)
        if self._is_ending:
            self.deadline = min(self.deadline, now + soon_s)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cast(Cycle, cycle)
        if cycle.more_body:  # it may have waited for the one before
            self.deadline = max(self.deadline, self.loop.time() + self.gate.limits.body_s)
        super()._start_asgi_task(cycle, app)
