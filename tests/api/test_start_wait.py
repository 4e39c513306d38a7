"""`wait_s` on a start: the outcome if it comes in time, and never less than the receipt."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.api.conftest import Answer, Api, ApiOf
from tests.support.accepting import subscribe, subscription
from tests.support.settled import settle
from tests.support.wait import until
from veltrix.access import keys
from veltrix.store.transactions import transaction
from veltrix.telemetry import waiting_requests

START = "/v1/workflows/fulfil/runs"


@pytest.fixture
def api(engine: Engine, api_of: ApiOf) -> Api:
    subscribe(engine, subscription("fulfil"))
    return api_of(wait_s_max=20)


@pytest.fixture
def asked(api: Api) -> Iterator[Callable[..., "Future[Answer]"]]:
    """Ask in a thread."""
    with ThreadPoolExecutor(4) as pool:

        def ask(path: str, body: Any, to: Api = api, **headers: str) -> "Future[Answer]":
            return pool.submit(to.request, "POST", path, body, headers)

        yield ask


def run_ids(engine: Engine) -> list[str]:
    with transaction(engine) as tx:
        return list(tx.execute(text("select id::text from runs order by id")).scalars())


def waiting() -> int:
    return int(waiting_requests._value.get())


def started(engine: Engine, count: int = 1) -> list[str]:
    """The runs, once so many are started and waited for."""
    until(lambda: len(run_ids(engine)) == count and waiting() >= 1, what="a start that waits")
    return run_ids(engine)


def test_a_run_that_is_settled_in_time_is_told_and_again_to_who_asks_again(
    api: Api, engine: Engine, asked: Callable[..., "Future[Answer]"]
) -> None:
    key = {"idempotency-key": "k"}
    first = asked(f"{START}?wait_s=15", {"input": 1}, **key)
    ids = started(engine)
    second = asked(f"{START}?wait_s=10.5", {"input": 1}, **key)
    until(lambda: waiting() == 2, what="the second to wait")
    settle(engine, ids, "succeeded", outcome='{"payment": "p-7"}')

    for answer in (first.result(), second.result()):
        assert answer.status == 200
        assert answer.body == api.get(f"/v1/runs/{ids[0]}").body
        assert (answer.body["state"], answer.body["outcome"]) == ("succeeded", {"payment": "p-7"})
        assert answer.headers["location"] == f"/v1/runs/{ids[0]}"
        assert answer.headers["etag"] == api.get(f"/v1/runs/{ids[0]}").headers["etag"]
    assert second.result().headers["idempotency-replayed"] == "true"
    without = api.request("POST", START, {"input": 1}, key)
    assert (without.status, without.body["runs"][0]["id"]) == (202, ids[0])
    assert api.request("POST", f"{START}?wait_s=1", {"input": 2}, key).status == 422
    assert run_ids(engine) == ids


def test_a_run_that_is_not_settled_in_time_has_its_receipt(api: Api, engine: Engine) -> None:
    plain = api.request("POST", START, {"input": 1})
    answer = api.request("POST", f"{START}?wait_s=0.1", {"input": 1, "delay_s": 60})

    assert (plain.status, answer.status) == (202, 202)
    assert answer.body.keys() == plain.body.keys()
    assert answer.headers["location"] == f"/v1/runs/{answer.body['runs'][0]['id']}"
    assert "etag" not in answer.headers


def test_what_is_refused_starts_nothing(api: Api, engine: Engine) -> None:
    for path, body, status in (
        (f"{START}?wait_s=1", {"inputs": [1, 2]}, 400),
        (f"{START}?wait_s=1", {"inputs": []}, 400),
        (f"{START}?wait_s=21", {"input": 1}, 400),
        (f"{START}?wait_s=-1", {"input": 1}, 400),
        (f"{START}?wait_s=nan", {"input": 1}, 400),
        (f"{START}?wait_s=", {"input": 1}, 400),
        (f"{START}?wait_s=1&wait_s=1", {"input": 1}, 400),
        (f"{START}?wait=1", {"input": 1}, 400),
        ("/v1/workflows/nobody/runs?wait_s=1", {"input": 1}, 404),
    ):
        assert api.request("POST", path, body).status == status, path
    assert run_ids(engine) == []
    assert waiting() == 0


def test_a_list_that_was_started_is_not_waited_for_under_its_key(api: Api, engine: Engine) -> None:
    key, body = {"idempotency-key": "k"}, {"inputs": [1, 2]}
    assert api.request("POST", START, body, key).status == 202
    assert api.request("POST", f"{START}?wait_s=5", body, key).status == 400
    assert len(run_ids(engine)) == 2


def test_where_too_many_wait_nothing_is_started(
    api_of: ApiOf, engine: Engine, asked: Callable[..., "Future[Answer]"]
) -> None:
    full = api_of(wait_requests_max=1)
    first = asked(f"{START}?wait_s=15", {"input": 1}, full)
    ids = started(engine)
    for path in (f"{START}?wait_s=5", f"{START}?wait_s=0.01"):
        refused = full.request("POST", path, {"input": 2})
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert full.get(f"/v1/runs/{ids[0]}?wait_s=5").status == 429
    settle(engine, ids, "failed", reason="error")

    assert (first.result().status, first.result().body["state"]) == (200, "failed")
    assert run_ids(engine) == ids


def test_who_goes_away_is_not_waited_with_and_the_run_goes_on(api: Api, engine: Engine) -> None:
    body = json.dumps({"input": 1})
    for number, head in enumerate(
        (f"POST {START}?wait_s=20", "GET /v1/runs/{run_id}?wait_s=20"), start=1
    ):
        path = head.format(run_id=(run_ids(engine) or [""])[0])
        sent = body if number == 1 else ""
        with socket.create_connection(("127.0.0.1", api.port)) as connection:
            connection.sendall(
                f"{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(sent)}\r\n\r\n{sent}".encode()
            )
            started(engine)
            if number == 1:  # it may have closed one half only, and has its answer then
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1_000).startswith(b"HTTP/1.1 202 ")
        until(lambda: waiting() == 0, 5, "the waiting to end")

    (run_id,) = run_ids(engine)
    settle(engine, [run_id], "succeeded")
    assert api.get(f"/v1/runs/{run_id}").body["state"] == "succeeded"


def test_an_api_that_ends_waits_no_longer_and_gives_the_receipt(
    api: Api, engine: Engine, asked: Callable[..., "Future[Answer]"]
) -> None:
    start = asked(f"{START}?wait_s=20", {"input": 1})
    ids = started(engine)
    read = asked(f"{START}?wait_s=20", {"input": 2})
    until(lambda: waiting() == 2, what="both to wait")

    api.app.state.is_leaving = True  # as on SIGTERM

    assert start.result(5).status == read.result(5).status == 202
    assert start.result().body["runs"][0]["id"] == ids[0]


def test_who_may_not_read_runs_starts_them_and_does_not_wait(api_of: ApiOf, engine: Engine) -> None:
    subscribe(engine, subscription("fulfil"))
    with transaction(engine) as tx:
        keys.create(tx, "till", ["events:write"], "tests", "t" * 43)
        keys.create(tx, "blind", ["events:write", "runs:read"], "tests", "b" * 43)
    guarded = api_of(require_keys=True)
    till, blind = ({"authorization": f"Bearer {token * 43}"} for token in "tb")

    refused = guarded.request("POST", f"{START}?wait_s=1", {"input": 1}, till)
    assert (refused.status, run_ids(engine)) == (403, [])
    assert guarded.request("POST", START, {"input": 1}, till).status == 202
    settle(engine, run_ids(engine), "succeeded", outcome='"secret"')
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(guarded.request, "POST", f"{START}?wait_s=15", {"input": 1}, blind)
        new = set(started(engine, 2)) - {run_ids(engine)[0]}
        settle(engine, list(new), "succeeded", outcome='"secret"')
    told = answer.result().body
    assert (told["state"], told["outcome"], told["redacted"]) == ("succeeded", None, True)
