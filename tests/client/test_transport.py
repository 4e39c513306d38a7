"""One way to an api: what is tried again, how often, and what is said when it is given up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from veltrix.client.errors import ApiAway, ApiMistake, ApiRefused, ApiStrange
from veltrix.client.events import EventPoster
from veltrix.client.transport import Again, Transport

PROBLEM = b'{"type":"urn:veltrix:problem:wrong-state","detail":"it is done","state":"done"}'
EVENTS = [b'{"id":"1"}', b'{"id":"2"}', b"no json"]
Said = tuple[int, dict[str, str], bytes]


class Standing(ThreadingHTTPServer):
    """What stands where an api should: says these things in turn, the last of them for ever."""

    daemon_threads = True

    def __init__(self, *said: Said) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.said, self.connections = list(said), 0
        self.heard: list[tuple[str, str, bytes]] = []


class _Answering(BaseHTTPRequestHandler):
    server: Standing
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.heard.append((self.command, self.path, body))
        said = self.server.said
        status, headers, text = said.pop(0) if len(said) > 1 else said[0]
        if status == 0:  # gone in the middle
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"content-length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer  # noqa: N815 - what http.server calls

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def standing(*said: Said) -> Iterator[tuple[Standing, str]]:
    with Standing(*said) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def asked(url: str, waits: list[Again], call: Callable[[Transport], Any], **changes: Any) -> Any:
    with Transport(url, "vx_key", wait=waits.append, **changes) as transport:
        return call(transport)


@pytest.mark.parametrize(
    "later",
    [
        (503, {"retry-after": "7"}, b"{}"),
        (429, {"retry-after": "7"}, b"{}"),
        (409, {"retry-after": "7"}, b'{"detail": "the first request still runs"}'),
    ],
)
def test_later_is_asked_again_after_the_pause_that_was_asked_for(later: Said) -> None:
    waits: list[Again] = []

    with standing(later, (200, {}, b"[]")) as (server, url):
        answer = asked(url, waits, lambda to: to.call("GET", "/v1/runs", params={"limit": 1}))

    assert (answer.status, answer.body) == (200, b"[]")
    assert [(again.attempt, again.pause_s) for again in waits] == [(2, 7.0)]
    assert waits[0].why.startswith(str(later[0]))
    assert server.heard == [("GET", "/v1/runs?limit=1", b"")] * 2
    assert server.connections == 1, "it is kept"


def test_a_lost_connection_and_a_proxy_without_an_api_are_asked_again() -> None:
    waits: list[Again] = []

    with standing((0, {}, b""), (502, {}, b"<html>"), (504, {}, b""), (200, {}, b"1")) as (_, url):
        answer = asked(url, waits, lambda to: to.call("POST", "/v1/x", body=b"{}"))

    assert answer.body == b"1"
    assert [again.pause_s for again in waits] == [0.1, 0.2, 0.4], "each time twice as long"
    assert "no connection" in waits[0].why


def test_it_is_given_up_after_so_many_attempts() -> None:
    waits: list[Again] = []

    with standing((503, {}, b'{"detail": "the database is away"}')) as (server, url):
        with pytest.raises(ApiAway, match=r"asked 3 times: 503 the database is away; is it the"):
            asked(url, waits, lambda to: to.call("GET", "/v1/runs"), attempts_max=3)
        assert len(server.heard) == 3

    assert [(again.attempt, again.attempts_max) for again in waits] == [(2, 3), (3, 3)]


def test_no_is_an_answer() -> None:
    with standing((409, {}, PROBLEM)) as (server, url):
        with pytest.raises(ApiRefused, match="answers 409: it is done") as refused:
            asked(url, [], lambda to: to.call("GET", "/v1/runs"))
        assert len(server.heard) == 1
    with standing((404, {}, b"<html>nothing here</html>")) as (_, url), pytest.raises(ApiStrange):
        asked(url, [], lambda to: to.call("GET", "/v1/runs"))

    assert (refused.value.slug, refused.value.members) == ("wrong-state", {"state": "done"})


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "nowhere"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ApiMistake, match="is no address of an api"):
        Transport(url)


@pytest.mark.parametrize("key", ["a\nb", "schl\u00fcssel"])
def test_what_can_be_no_key_is_said_at_once(key: str) -> None:
    with pytest.raises(ApiMistake, match="characters that no key has"):
        Transport("http://127.0.0.1:1", key)


def test_each_event_of_a_list_is_sent_until_it_is_answered_for() -> None:
    waits: list[Again] = []
    part = b'{"items":[{"status":202},{"status":503}]}'
    rest = b'{"items":[{"status":202,"duplicate":true}]}'
    bad = b'{"detail":"no JSON"}'

    with standing((207, {"retry-after": "3"}, part), (202, {}, rest), (400, {}, bad)) as (
        server,
        url,
    ):
        items = asked(url, waits, lambda to: dict(EventPoster(to, waits.append).post(EVENTS)))

    assert [(items[n].status, items[n].duplicate) for n in range(3)] == [
        (202, False),
        (202, True),
        (400, False),
    ]
    assert items[2].detail == "no JSON"
    assert [body for _, _, body in server.heard] == [
        b'[{"id":"1"},{"id":"2"}]',
        b'[{"id":"2"}]',
        b"no json",
    ]
    assert [again.pause_s for again in waits] == [3.0]


def test_a_list_that_is_too_large_goes_in_halves() -> None:
    waits: list[Again] = []
    one = b'{"items":[{"status":202}]}'

    with standing((413, {}, PROBLEM), (202, {}, one), (202, {}, one)) as (server, url):
        items = asked(url, waits, lambda to: dict(EventPoster(to, waits.append).post(EVENTS[:2])))

    assert [items[0].status, items[1].status] == [202, 202]
    assert [body for _, _, body in server.heard[1:]] == [b'[{"id":"1"}]', b'[{"id":"2"}]']
