"""A webhook is told until it takes what it is told, and keeps nothing else from it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy import Engine

from tests.support.odd_server import odd_server
from veltrix.doctor.examine import examine
from veltrix.doctor.facts.canaries import ApiTrouble, CanaryWays
from veltrix.doctor.rules import canaries as rules
from veltrix.doctor.watch import look_rows, webhook
from veltrix.doctor.watch.webhook import Webhook
from veltrix.store.transactions import transaction


@pytest.fixture
def found(engine: Engine) -> list[str]:
    """Two findings of which nobody was told, by key, the older first."""
    ways = CanaryWays(
        troubles=[ApiTrouble(f"http://api-{number}", "no") for number in (1, 2)],
        late=[],
        lost=[],
        may_take_s=1.0,
    )
    seen = examine(rules.rules, {CanaryWays: lambda: ways}).findings
    with transaction(engine) as tx:
        look_rows.take(tx, "one", 60.0)
        look_rows.note(tx, "one", seen, [], held=1, took_ms=1)
        return [one.key for one, _ in look_rows.untold(tx, 10)]


@contextmanager
def hook(statuses: Callable[[str], int]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the ids that it was told; `statuses` says what it answers to each."""
    told: list[str] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            id_ = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"]
            told.append(id_)
            self.send_response(statuses(id_))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/secret", told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def left(engine: Engine) -> int:
    """How many findings it does not know of."""
    with transaction(engine) as tx:
        return len(look_rows.untold(tx, 10))


@pytest.mark.parametrize("status", [400, 410, 422])
def test_what_is_refused_for_itself_keeps_nothing_else_waiting(
    engine: Engine, found: list[str], status: int
) -> None:
    with hook(lambda id_: status if id_.startswith(found[0]) else 204) as (url, told):
        assert Webhook(engine, url, 0.0).tell(0.0) == 2

    assert [id_.partition("-appeared-")[0] for id_ in told] == found
    assert left(engine) == 0


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500, 503])
def test_what_may_be_taken_later_is_told_again_after_a_pause(
    engine: Engine, found: list[str], status: int
) -> None:
    answers = iter([status])
    with hook(lambda _: next(answers, 204)) as (url, told):
        one = Webhook(engine, url, 0.0)
        assert one.tell(0.0) == 0
        assert (one.tell(0.1), len(told)) == (0, 1), "not before the pause is over"
        assert one.tell(2 * webhook.PAUSE_S) == 2

    assert told[0] == told[1], "the same event"
    assert left(engine) == 0


def test_an_answer_without_an_end_has_one(
    engine: Engine, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 1.0)
    with odd_server(None) as url:
        one = Webhook(engine, url, 0.0)
        assert one.tell(0.0) == 0
    with hook(lambda _: 204) as (url, _):
        monkeypatch.setattr(one, "_url", url)
        assert one.tell(2 * webhook.PAUSE_S) == len(found), "by a connection of its own"
