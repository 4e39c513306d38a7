"""What a socket may do to an api: each request is whole, none lasts, none is at another's cost."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.api.conftest import Api, ApiOf
from tests.support.wait import until
from veltrix.access.keys import create
from veltrix.api.gate import ConnectionLimits
from veltrix.store.transactions import transaction

WAITED = Event()  # never set: its wait is a pause between packets
BINARY = {
    "content-type": "application/json",
    "ce-specversion": "1.0",
    "ce-source": "/shop",
    "ce-type": "shop.order.placed",
}
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
OFFERS: list[dict[str, str]] = [
    H2C,
    {"connection": "upgrade", "upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    {"Connection": "Upgrade", "UPGRADE": "TLS/1.0"},
    {"CONNECTION": "keep-alive, uPGRADE", "uPgRaDe": "foo/2"},
]


def head(path: str, headers: dict[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def request(
    path: str, body: bytes, headers: dict[str, str], *, is_chunked: bool = False
) -> tuple[bytes, bytes]:
    """Head and body."""
    if is_chunked:
        middle = len(body) // 2
        pieces = [body[:middle], body[middle:]]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces if one) + b"0\r\n\r\n"
        return head(path, headers | {"Transfer-Encoding": "chunked"}), sent
    return head(path, headers | {"Content-Length": str(len(body))}), body


class Line:
    """A raw connection."""

    def __init__(self, api: Api) -> None:
        self.socket = socket.create_connection(("127.0.0.1", api.port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self, *parts: bytes) -> None:
        """Each in a packet of its own."""
        for part in parts:
            self.socket.sendall(part)
            if len(parts) > 1:
                WAITED.wait(0.02)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer, whole."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        top, _, self._read = self._read.partition(b"\r\n\r\n")
        status, *lines = top.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return int(status.split()[1]), headers, body

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        assert data, f"closed after {self._read!r}"
        self._read += data

    def is_closed(self) -> bool:
        """By the other side, politely or not."""
        try:
            return self.socket.recv(65_536) == b""
        except ConnectionError:
            return True


@contextmanager
def line(api: Api) -> Iterator[Line]:
    one = Line(api)
    with closing(one.socket):
        yield one


def data_of(api: Api, id_: str) -> Any:
    answer = api.get(f"/v1/events?source=/shop&id={id_}")
    assert answer.status == 200, answer.text
    return answer.body["data"]


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: next(reversed(offer.values())))
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("is_split", [False, True], ids=["one_packet", "packets"])
def test_an_offer_to_upgrade_takes_nothing_of_a_request(
    api: Api, offer: dict[str, str], is_chunked: bool, is_split: bool
) -> None:
    with line(api) as one:
        for number in range(2):
            parts = request(
                "/v1/events",
                b'{"order":5}',
                BINARY | offer | {"ce-id": f"u{number}"},
                is_chunked=is_chunked,
            )
            one.send(*parts) if is_split else one.send(b"".join(parts))
            status, _, body = one.answer()
            assert status == 202, body
            assert data_of(api, f"u{number}") == {"order": 5}


def test_an_offer_takes_nothing_of_a_start_either(api: Api) -> None:
    with line(api) as one:
        json_type = {"content-type": "application/json"}
        one.send(*request("/v1/workflows/fulfil/runs", b'{"input":{"order":1}}', H2C | json_type))
        status, _, body = one.answer()

    assert status == 202, body


def test_an_offer_behind_another_request_is_refused_and_not_lost(api: Api) -> None:
    first = b"".join(request("/v1/events", b'{"order":1}', BINARY | {"ce-id": "p1"}))
    second = b"".join(request("/v1/events", b'{"order":2}', BINARY | H2C | {"ce-id": "p2"}))
    with line(api) as one:
        one.send(first + second)

        assert one.answer()[0] == 202
        assert one.is_closed()
    assert api.get("/v1/events?source=/shop&id=p2").status == 404


def test_requests_in_one_packet_are_answered_in_order(api: Api) -> None:
    with line(api) as one:
        one.send(
            b"".join(
                b"".join(request("/v1/events", b'{"order":%d}' % n, BINARY | {"ce-id": f"o{n}"}))
                for n in range(5)
            )
        )
        answers = [one.answer() for _ in range(5)]

    assert [status for status, _, _ in answers] == [202] * 5
    assert [data_of(api, f"o{n}") for n in range(5)] == [{"order": n} for n in range(5)]


def test_a_request_may_come_byte_by_byte(api: Api) -> None:
    whole = b"".join(request("/v1/events", b'{"order":1}', BINARY | H2C | {"ce-id": "slow"}))
    with line(api) as one:
        for byte in whole:
            one.socket.sendall(bytes([byte]))
        assert one.answer()[0] == 202
    assert data_of(api, "slow") == {"order": 1}


@pytest.mark.parametrize("name", ["ce-id", "ce-source", "ce-type", "ce-specversion", "ce-time"])
def test_white_space_around_a_value_is_no_part_of_it(api: Api, name: str) -> None:
    plain = BINARY | {"ce-id": "w", "ce-time": "2026-01-31T12:00:00Z"}
    spaced = plain | {name: f" \t{plain[name]}\t  "}
    for headers, is_duplicate in ((plain, False), (spaced, True)):
        with line(api) as one:
            one.send(*request("/v1/events", b"{}", headers))
            status, _, body = one.answer()
        assert status == 202, body
        assert json.loads(body)["duplicate"] is is_duplicate


def test_a_trailer_is_no_header(api: Api) -> None:
    top = head("/v1/events", BINARY | {"ce-id": "t", "Transfer-Encoding": "chunked"})
    with line(api) as one:
        one.send(top + b"2\r\n{}\r\n0\r\nce-id: other\r\nce-subject: sneaked\r\n\r\n")
        assert one.answer()[0] == 202
    assert "subject" not in api.get("/v1/events?source=/shop&id=t").body


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Host", "Idempotency-Key"])
@pytest.mark.parametrize("path", ["/v1/events", "/v1/workflows/fulfil/runs"])
def test_a_header_that_is_there_twice_is_refused_everywhere(api: Api, name: str, path: str) -> None:
    top = head(path, BINARY | {"ce-id": "d", "Content-Length": "2"})
    twice = f"{name}: x\r\n{name}: y\r\n\r\n".encode()
    with line(api) as one:
        one.send(top[:-2] + twice + b"{}")
        status, headers, body = one.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert f"{name.lower()} is there twice" in json.loads(body)["detail"]
        assert one.is_closed()


def test_a_head_has_an_end(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(head_bytes_max=4_096))
    with line(api) as one:
        one.send(head("/livez", {"x": "y" * 3_900}, "GET"))
        assert one.answer()[0] == 200
        one.send(b"GET /livez HTTP/1.1\r\nx: " + b"y" * 100_000)
        status, headers, body = one.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert "4,096 bytes" in json.loads(body)["detail"]
        assert one.is_closed()


def test_who_says_nothing_or_half_of_it_is_closed_in_time(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(head_s=1.0, body_s=1.0))
    whole = b"".join(request("/v1/events", b'{"order":1}', BINARY | {"ce-id": "h"}))
    with line(api) as silent, line(api) as half_head, line(api) as half_body, line(api) as after:
        half_head.send(whole[:30])
        half_body.send(whole[:-3])
        after.send(whole)
        assert after.answer()[0] == 202
        after.send(whole[:30])

        assert silent.is_closed()
        for one in (half_head, half_body, after):
            status, headers, body = one.answer()
            assert (status, headers["connection"]) == (408, "close"), body
            assert one.is_closed()
    assert api.get("/livez").status == 200


def test_a_body_at_the_pace_has_the_time_it_takes(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(body_s=0.6, body_bytes_per_s=1_000))
    body = b'{"text":"' + b"x" * 3_000 + b'"}'
    top, rest = request("/v1/events", body, BINARY | {"ce-id": "pace"})
    with line(api) as one:
        one.send(top)
        for at in range(0, len(rest), 300):
            one.send(rest[at : at + 300])
            WAITED.wait(0.15)
        assert one.answer()[0] == 202


def test_where_there_is_no_room_the_silent_go_and_who_asks_is_answered(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(connections_max=40))
    silent = [Line(api) for _ in range(120)]
    try:
        assert all(api.get("/livez").status == 200 for _ in range(20))
        with line(api) as one:
            one.send(*request("/v1/events", b"{}", BINARY | {"ce-id": "room"}))
            assert one.answer()[0] == 202
        closed = sum(_has_ended(one.socket) for one in silent)
        assert closed >= 80
    finally:
        for one in silent:
            one.socket.close()


def test_where_there_is_no_room_the_idle_go_and_who_asks_is_answered(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(connections_max=40))
    idle = [Line(api) for _ in range(40)]
    try:
        for one in idle:
            one.send(head("/livez", {}, "GET"))
            assert one.answer()[0] == 200
        assert all(api.get("/livez").status == 200 for _ in range(20))
        assert not _has_ended(idle[-1].socket), "who was answered last stays"
        idle[-1].socket.setblocking(True)
        idle[-1].send(head("/livez", {}, "GET"))
        assert idle[-1].answer()[0] == 200
    finally:
        for one in idle:
            one.socket.close()


def _has_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("length", ["99999999", "20000000"])
def test_a_body_that_was_refused_is_no_next_request(api: Api, length: str) -> None:
    headers = BINARY | {"ce-id": "e", "Content-Length": length, "Expect": "100-continue"}
    with line(api) as one:
        one.send(head("/v1/events", headers))
        status, told, _ = one.answer()
        assert (status, told["connection"]) == (413, "close")
        one.send(*request("/v1/events", b"{}", BINARY | {"ce-id": "next"}))
        assert one.is_closed()


def test_who_expects_to_be_told_to_go_on_is(api: Api) -> None:
    headers = BINARY | {"ce-id": "c", "Expect": "100-continue"}
    with line(api) as one:
        top, body = request("/v1/events", b'{"order":1}', headers)
        one.send(top)
        assert one.answer()[0] == 100
        one.send(body)
        assert one.answer()[0] == 202


def test_a_client_that_sends_too_much_reads_why(api: Api) -> None:
    headers = BINARY | {"ce-id": "much", "Content-Length": "3000000"}
    with line(api) as one:
        one.send(head("/v1/events", headers))
        one.socket.sendall(b"x" * 3_000_000)
        status, told, _ = one.answer()

    assert (status, told["connection"]) == (413, "close")


@pytest.mark.parametrize(
    "opening",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"hello\r\n\r\n"],
    ids=["tls", "http2", "text"],
)
def test_another_protocol_is_told_so_at_once(api: Api, opening: bytes) -> None:
    with line(api) as one:
        one.send(opening)
        assert one.answer()[0] == 400
        assert one.is_closed()


def test_a_bad_chunk_ends_its_request_and_nobody_elses(api: Api) -> None:
    top = head("/v1/events", BINARY | {"ce-id": "bad", "Transfer-Encoding": "chunked"})
    with line(api) as one:
        one.send(top, b"zz\r\n{}\r\n")
        assert one.answer()[0] == 400
        assert one.is_closed()
    assert api.get("/v1/events?source=/shop&id=bad").status == 404
    until(lambda: api.get("/livez").status == 200)


def test_connect_is_refused(api: Api) -> None:
    with line(api) as one:
        one.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert one.answer()[0] == 400
        assert one.is_closed()


def test_head_and_options_say_what_is_there(api_of: ApiOf) -> None:
    api = api_of(webhook_origins="eventgrid.azure.net")

    live = api.request("HEAD", "/livez")
    assert (live.status, live.text) == (200, "")
    assert api.request("OPTIONS", "/v1/events").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    refused = api.request("DELETE", "/v1/events")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert api.request("OPTIONS", "/nowhere").status == 404

    def ask(origin: str) -> str | None:
        headers = {"WebHook-Request-Origin": origin, "WebHook-Request-Rate": "100"}
        answer = api.request("OPTIONS", "/v1/events", headers=headers)
        assert answer.status == 200
        return answer.headers.get("webhook-allowed-origin")

    assert ask("eventgrid.azure.net") == "eventgrid.azure.net"
    assert ask("evil.example") is None


def test_who_holds_back_the_end_of_bodies_keeps_nobody_else_from_sending(
    engine: Engine, api_of: ApiOf
) -> None:
    tokens = [f"{name}-0123456789abcdef0123456789abcdef" for name in ("one", "two")]
    with transaction(engine) as tx:
        for token in tokens:
            create(tx, token.partition("-")[0], ["events:write"], "tests", token)
    api = api_of(require_keys=True, accept_waiting_bytes_max=2 * 1024 * 1024)
    by = [BINARY | {"Authorization": f"Bearer {token}"} for token in tokens]
    held = [Line(api) for _ in range(5)]
    try:
        for number, one in enumerate(held):
            length = {"ce-id": f"h{number}", "Content-Length": "300000"}
            one.send(head("/v1/events", by[0] | length) + b" " * 299_000)
        told = [one for one in held if _says(one, 503)]
        assert len(told) >= 1, "no more than half of what may be held"
        with line(api) as other:
            other.send(*request("/v1/events", b'{"order":1}', by[1] | {"ce-id": "other"}))
            assert other.answer()[0] == 202
    finally:
        for one in held:
            one.socket.close()


def _says(one: Line, status: int) -> bool:
    one.socket.settimeout(0.5)
    try:
        return one.answer()[0] == status
    except TimeoutError:
        return False


def test_a_head_behind_another_request_may_be_cut_anywhere(api: Api) -> None:
    """In one packet the first request and a part of the second, in the next the rest."""
    second = b"".join(request("/v1/events", b'{"order":2}', BINARY | {"ce-note": "hello"}))
    for number, cut in enumerate(range(1, len(second), 7)):
        first = b"".join(request("/v1/events", b'{"order":1}', BINARY | {"ce-id": f"f{number}"}))
        piped = second.replace(b"ce-note: hello", b"ce-note: hello\r\nce-id: s%d" % number)
        with line(api) as one:
            one.send(first + piped[:cut], piped[cut:])
            assert [one.answer()[0], one.answer()[0]] == [202, 202], cut
        assert data_of(api, f"s{number}") == {"order": 2}, cut
        told = api.get(f"/v1/events?source=/shop&id=s{number}").text
        assert '"note":"hello"' in told.replace('": "', '":"')


def test_half_a_head_behind_another_request_has_its_time_and_its_size(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(head_s=1.0, head_bytes_max=4_096))
    first = b"".join(request("/v1/events", b"{}", BINARY | {"ce-id": "first"}))
    with line(api) as late, line(api) as long:
        late.send(first + b"GET /livez HT")
        assert late.answer()[0] == 202
        long.send(first + b"GET /livez HTTP/1.1\r\nx: y", b"z" * 100_000)
        assert long.answer()[0] == 202
        assert long.answer()[0] == 431
        assert late.answer()[0] == 408
        assert late.is_closed()


def test_an_answer_is_not_lost_to_what_is_wrong_behind_it(api: Api) -> None:
    good = b"".join(request("/v1/events", b"{}", BINARY | {"ce-id": "good"}))
    chunked = BINARY | {"ce-id": "piped", "Transfer-Encoding": "chunked"}
    for bad in (head("/v1/events", chunked) + b"zz\r\n", b"nonsense\r\n\r\n"):
        with line(api) as one:
            one.send(good + bad)
            assert one.answer()[0] == 202
            assert one.is_closed()


def test_who_sends_no_more_still_reads_his_answer(api: Api) -> None:
    with line(api) as one:
        one.send(b"".join(request("/v1/events", b"{}", BINARY | {"ce-id": "half"})))
        one.socket.shutdown(socket.SHUT_WR)
        assert one.answer()[0] == 202
        assert one.is_closed()


@pytest.mark.parametrize("together", [0, 1, 10_000, 60_000, 70_000])
def test_trailers_have_an_end(api: Api, together: int) -> None:
    """However much of them comes in the packet of the head."""
    top = head("/v1/events", BINARY | {"ce-id": "long", "Transfer-Encoding": "chunked"})
    begun = top + b"2\r\n{}\r\n0\r\nx: " + b"y" * together
    with line(api) as one:
        one.send(begun, b"y" * (70_000 - together))
        assert one.answer()[0] == 431
        assert one.is_closed()


def test_a_long_train_of_requests_is_no_long_head(api_of: ApiOf) -> None:
    """More bytes than a head may have, cut so that a head is always begun and never whole."""
    api = api_of(limits=ConnectionLimits(head_bytes_max=4_096))
    count, cut = 400, 1_021
    train = head("/livez", {}, method="GET") * count
    with line(api) as one:
        one.send(*(train[begun : begun + cut] for begun in range(0, len(train), cut)))
        assert [one.answer()[0] for _ in range(count)] == [200] * count


def test_a_body_may_come_in_chunks_of_one_byte(api: Api) -> None:
    body = b'{"order":' + b" " * 50_000 + b"1}"
    top = head("/v1/events", BINARY | {"ce-id": "tiny", "Transfer-Encoding": "chunked"})
    with line(api) as one:
        one.send(top + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert one.answer()[0] == 202
    assert data_of(api, "tiny") == {"order": 1}


@pytest.mark.parametrize("opening", ["refused", "half"])
def test_who_keeps_us_waiting_makes_room(api_of: ApiOf, opening: str) -> None:
    api = api_of(limits=ConnectionLimits(connections_max=20))
    path, length = ("/nowhere", "1") if opening == "refused" else ("/v1/events", "9")
    held = [Line(api) for _ in range(20)]
    try:
        for one in held:
            one.send(head(path, BINARY | {"ce-id": "held", "Content-Length": length}))
        assert all(api.get("/livez").status == 200 for _ in range(10))
    finally:
        for one in held:
            one.socket.close()


def test_who_does_not_read_his_answers_is_closed(api_of: ApiOf) -> None:
    api = api_of(limits=ConnectionLimits(connections_max=10, write_s=1.0))
    held: list[socket.socket] = []
    try:
        for _ in range(10):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            one.connect(("127.0.0.1", api.port))
            one.sendall(head("/static-offline-docs/swagger-ui-bundle.js", {}, "GET") * 12)
            held.append(one)
        until(lambda: _livez(api), 15, "room for who reads")
    finally:
        for one in held:
            one.close()


def _livez(api: Api) -> bool:
    try:
        return api.get("/livez").status == 200
    except (OSError, HTTPException):
        return False


def test_a_line_end_after_an_answer_keeps_no_connection(
    api_of: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veltrix.processes.api.KEEP_ALIVE_S", 1)
    api = api_of()
    with line(api) as one:
        one.send(head("/livez", {}, "GET"))
        assert one.answer()[0] == 200
        one.send(b"\r\n")
        one.socket.settimeout(5)
        assert one.is_closed()


def test_a_head_of_what_goes_on_for_ever_ends(api: Api) -> None:
    with line(api) as one:
        for _ in range(3):
            one.send(head("/console/live", {"Accept": "text/event-stream"}, "HEAD"))
            status, headers, _ = one.answer()
            assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        one.send(head("/livez", {}, "GET"))
        assert one.answer()[0] == 200


def test_a_client_that_sends_far_too_much_reads_why(api: Api) -> None:
    headers = BINARY | {"ce-id": "far", "Content-Length": "20000000"}
    with line(api) as one:
        one.send(head("/v1/events", headers))
        one.socket.sendall(b"x" * 20_000_000)
        assert one.answer()[0] == 413


def test_who_leaves_a_stream_is_let_go_and_that_is_no_error(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser that is closed says that it sends no more, and looks at figures no longer."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as looking:
        looking.sendall(b"GET /console/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert looking.recv(65_536).startswith(b"HTTP/1.1 200")
        looking.shutdown(socket.SHUT_WR)
        while looking.recv(65_536):
            pass

    assert [record.getMessage() for record in caplog.records] == []
