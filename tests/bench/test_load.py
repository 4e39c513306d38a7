"""The load is sent when it is due, in modes the api takes."""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from bench.load import due_times, open_loop, request_of

SLOW_S = 0.05
NEVER = Event()


@contextmanager
def answering(statuses: Sequence[int]) -> Iterator[str]:
    """The URL of a server that answers one request after the other, each after a while."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                asked = b""
                for status in statuses:
                    while b"}}" not in asked:  # the end of an event
                        asked += connection.recv(65_536)
                    asked = asked.partition(b"}}")[2].removeprefix(b"]")
                    NEVER.wait(SLOW_S)
                    head = f"HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\n".encode()
                    connection.sendall(head)
                    connection.sendall(b"{}")

        thread = Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_a_schedule_says_when_each_request_goes() -> None:
    assert due_times([(2.0, 2.0), (4.0, 0.5)]) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.25]
    assert due_times([(10.0, 2.0)], size=10) == [0.0, 1.0]
    assert due_times([]) == []


def test_one_event_is_sent_as_itself_and_more_as_a_batch() -> None:
    head, body = request_of(7, 1).split(b"\r\n\r\n")
    assert b"application/cloudevents+json" in head
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["id"] == "7"

    head, body = request_of(7, 2, "bench.two").split(b"\r\n\r\n")
    assert b"application/cloudevents-batch+json" in head
    assert [(e["id"], e["type"]) for e in json.loads(body)] == [
        ("7", "bench.two"),
        ("8", "bench.two"),
    ]


def test_a_request_is_measured_from_its_turn_however_late_it_is_sent() -> None:
    with answering([202, 503, 202]) as url:
        sent = open_loop([url], schedule=[(1_000.0, 0.003)], first=7, connections=1)

    assert [(one.number, one.events, bool(one.answered)) for one in sent] == [
        (7, 1, True),
        (8, 1, False),
        (9, 1, True),
    ]
    assert sent[2].due - sent[0].due == pytest.approx(0.002, abs=1e-4)
    assert sent[2].answered - sent[2].due > 2.9 * SLOW_S, "those before it took their time"


def test_a_closed_connection_ends_the_load() -> None:
    with answering([202]) as url, pytest.raises(ConnectionError):
        open_loop([url], schedule=[(1_000.0, 0.002)], first=0, connections=1)
