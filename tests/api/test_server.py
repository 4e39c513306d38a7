"""The api as a process: it needs no broker, and a signal ends it without losing a request."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.api.test_events import event
from tests.support.wait import until
from veltrix.processes.api import LEAVE_S
from veltrix.store.transactions import transaction

SERVE = "from veltrix.settings.load import load_settings; from veltrix.processes.api import serve;"


@pytest.fixture
def start(database_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(**environment: str) -> subprocess.Popen[str]:
        given = {
            "VELTRIX_DATABASE_URL": database_url,
            "VELTRIX_BROKER_URL": "amqp://guest:guest@127.0.0.1:1/",
            "VELTRIX_API_PORT": "0",
            "VELTRIX_LOG_FORMAT": "json",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", f"{SERVE} serve(load_settings(env_file=None))"],
            env=os.environ | given | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said["event"] == "api.started":
            return int(said["port"])
    raise AssertionError("it ended before it started")


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"content-type": "application/cloudevents+json"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body and json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_without_a_broker_it_is_ready_and_accepts(
    start: Callable[..., subprocess.Popen[str]], engine: Engine
) -> None:
    port = port_of(start())

    until(lambda: call(port, "GET", "/readyz")[0] == 200, what="readiness")
    assert call(port, "POST", "/v1/events", event())[0] == 202
    with transaction(engine) as tx:
        assert tx.execute(text("select count(*) from events")).scalar_one() == 1


def test_a_signal_finishes_what_is_in_hand_and_exits_0(
    start: Callable[..., subprocess.Popen[str]], engine: Engine
) -> None:
    process = start()
    port = port_of(process)
    statuses: list[int] = []

    def send(first: int) -> None:
        for i in range(first, 100_000, 4):
            try:
                statuses.append(call(port, "POST", "/v1/events", event(str(i)))[0])
            except OSError:
                return

    senders = [Thread(target=send, args=(first,)) for first in range(4)]
    for sender in senders:
        sender.start()
    until(lambda: len(statuses) > 50, what="some answers")
    process.send_signal(signal.SIGINT)

    assert process.wait(15) == 0
    for sender in senders:
        sender.join()
    taken = statuses.count(202)
    with transaction(engine) as tx:
        stored = tx.execute(text("select count(*) from events")).scalar_one()
    assert set(statuses) <= {202, 503}
    assert stored == taken


def test_after_sigterm_it_is_not_ready_and_takes_events_until_a_balancer_knows(
    start: Callable[..., subprocess.Popen[str]], engine: Engine
) -> None:
    process = start()
    port = port_of(process)
    until(lambda: call(port, "GET", "/readyz")[0] == 200, what="readiness")

    signalled_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    until(lambda: call(port, "GET", "/readyz")[0] == 503, 1.0, "it to say that it leaves")
    answers: list[tuple[float, int]] = []
    with suppress(OSError):  # the end: nobody listens any more
        for i in range(100_000):
            status = call(port, "POST", "/v1/events", event(str(i)))[0]
            answers.append((time.monotonic() - signalled_at, status))

    assert process.wait(15) == 0
    assert {status for _, status in answers} == {202}
    assert answers[-1][0] > 2.0, "haproxy.cfg needs two seconds to notice"
    assert answers[-1][0] < LEAVE_S + 1.0
    with transaction(engine) as tx:
        stored = tx.execute(text("select count(*) from events")).scalar_one()
    assert stored == len(answers)


def test_while_it_leaves_no_client_keeps_its_connection(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start()
    port = port_of(process)
    connection = HTTPConnection("127.0.0.1", port, timeout=10)

    def is_closed() -> bool:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        response.read()
        return response.will_close

    assert not is_closed()
    process.send_signal(signal.SIGTERM)

    until(is_closed, 2.0, "an answer that closes the connection")


def test_a_second_signal_does_not_wait_for_balancers(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    for second in (signal.SIGTERM, signal.SIGINT):
        process = start()
        port = port_of(process)
        process.send_signal(signal.SIGTERM)
        until(lambda port=port: call(port, "GET", "/readyz")[0] == 503, 1.0)  # type: ignore[misc]

        process.send_signal(second)

        assert process.wait(LEAVE_S - 1.0) == 0


def test_an_open_server_without_keys_does_not_start(
    start: Callable[..., subprocess.Popen[str]], database_url: str
) -> None:
    process = start(VELTRIX_API_HOST="0.0.0.0")  # noqa: S104

    assert process.wait(15) != 0
    assert process.stderr is not None
    assert "there is no API key" in process.stderr.read()


def test_a_port_in_use_is_said_in_one_sentence(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    port = port_of(start())
    second = start(VELTRIX_API_PORT=str(port))

    assert second.wait(15) != 0
    assert second.stderr is not None
    assert f"cannot listen on 127.0.0.1:{port}" in second.stderr.read()
