"""`/v1/runs` over HTTP: pages, waiting for outcomes, replay and cancel."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.served import Client, served
from tests.support.settled import hold, settle
from tests.support.wait import until
from veltrix.access import keys
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Settlement
from veltrix.store.transactions import make_engine, open_autocommit, transaction
from veltrix.telemetry import waiting_requests

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
AGAIN = {"from": "failed_step", "reason": "payments are back"}


def token_of(name: str) -> str:
    """A key long enough to be one."""
    return f"{name}-{'k' * 40}"


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    with served(engine, database_url, wait_s_max=20) as client:
        yield client


def test_a_run_is_told_with_its_event_steps_and_outcome(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)
    settle(engine, ids, "succeeded", outcome='{"payment": "p-7"}')

    answer = api.get(f"/v1/runs/{ids[0]}")

    assert answer.status == 200
    told = answer.body
    assert (told["id"], told["state"], told["outcome"]) == (
        *(ids[0], "succeeded"),
        {"payment": "p-7"},
    )
    assert told["cloudevent"]["source"] == "/tests"
    assert told["settled_at"].endswith("Z")
    assert (told["steps"], told["failed_attempts"], told["actions"]) == ([], [], [])


@pytest.mark.parametrize("run_id", [UNKNOWN, "no-id", "%00", "%ED%A0%80"])
def test_an_unknown_run_is_not_found(api: Client, run_id: str) -> None:
    for answer in (
        api.get(f"/v1/runs/{run_id}"),
        api.get(f"/v1/runs/{run_id}?wait_s=5"),
        api.post(f"/v1/runs/{run_id}/replay", AGAIN),
        api.post(f"/v1/runs/{run_id}/cancel", {"reason": "no"}),
    ):
        assert (answer.status, answer.body["type"]) == (404, "urn:veltrix:problem:not-found")
        assert answer.headers["content-type"] == "application/problem+json"


def test_waiting_ends_with_the_outcome(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"/v1/runs/{ids[0]}?wait_s=15")
        settle(engine, ids, "succeeded", outcome="42")
        began = time.monotonic()
        answer = waiting.result()

    assert (answer.body["state"], answer.body["outcome"]) == ("succeeded", 42)
    assert time.monotonic() - began < 2


def test_when_the_time_is_over_the_run_is_told_as_it_is(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)

    answer = api.get(f"/v1/runs/{ids[0]}?wait_s=0.1")

    assert (answer.status, answer.body["state"], answer.body["outcome"]) == (200, "queued", None)


def test_waiting_longer_than_allowed_is_refused(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)

    for wait_s, status in (("21", 400), ("-1", 400), ("nan", 400), ("inf", 400), ("x", 400)):
        answer = api.get(f"/v1/runs/{ids[0]}?wait_s={wait_s}")
        assert answer.status == status, wait_s


def test_all_that_wait_are_looked_up_in_one_query(engine: Engine, database_url: str) -> None:
    ids = add_runs(engine, 20)
    looks: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "settled_at is not null" in statement:
            looks.append(statement)

    reads = make_engine(database_url, application="reads", connections_max=5)
    event.listen(reads, "before_cursor_execute", note)
    with served(reads, database_url) as api, ThreadPoolExecutor(20) as pool:
        began = time.monotonic()
        waiting = [pool.submit(api.get, f"/v1/runs/{id_}?wait_s=10") for id_ in ids]
        until(lambda: len(looks) > 5, what="some looks at the database")
        settle(engine, ids, "succeeded")
        answers = [one.result() for one in waiting]
        polls_max = (time.monotonic() - began) / 0.015 + 2

    assert {answer.body["state"] for answer in answers} == {"succeeded"}
    assert 0 < len(looks) <= polls_max
    reads.dispose()


def test_too_many_that_wait_are_told_to_come_back(engine: Engine, database_url: str) -> None:
    ids = add_runs(engine, 2)
    with served(engine, database_url, wait_requests_max=1) as api, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"/v1/runs/{ids[0]}?wait_s=10")
        until(lambda: waiting_requests._value.get() == 1, what="the first one to wait")
        refused = api.get(f"/v1/runs/{ids[1]}?wait_s=5")
        settle(engine, ids, "succeeded")
        answer = waiting.result()

    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert answer.body["state"] == "succeeded"


def test_pages_are_filtered_and_lead_to_the_next(engine: Engine, api: Client) -> None:
    ids = sorted(add_runs(engine, 3, workflow="a"), reverse=True)
    other = add_runs(engine, 1, workflow="b")
    settle(engine, other, "failed")

    first = api.get("/v1/runs?workflow=a&state=queued&limit=2").body
    second = api.get(f"/v1/runs?workflow=a&state=queued&limit=2&cursor={first['next']}").body

    assert [run["id"] for run in first["items"]] == ids[:2]
    assert [run["id"] for run in second["items"]] == ids[2:]
    assert second["next"] is None
    failed = api.get("/v1/runs?state=failed").body
    assert [run["id"] for run in failed["items"]] == other
    assert api.get("/v1/runs?since=2020-01-01T00:00:00Z&until=2020-01-02").body["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        "state=lost",
        "limit=0",
        "limit=201",
        "cursor=x",
        "event=x",
        "since=yesterday",
        "workflow=%00",
        "key=a%00b",
        "fingerprint=" + "f" * 1_001,
    ],
)
def test_a_question_that_makes_no_sense_is_a_400(api: Client, query: str) -> None:
    answer = api.get(f"/v1/runs?{query}")

    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("query", ["since=0001-01-01T00:00:00Z", "until=9999-12-31T23:59:59-14:00"])
def test_times_at_the_ends_of_the_calendar_are_no_errors(api: Client, query: str) -> None:
    assert api.get(f"/v1/runs?{query}").status in {200, 400}


def test_a_failed_run_is_replayed(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)
    settle(engine, ids, "failed")

    answer = api.post(f"/v1/runs/{ids[0]}/replay", AGAIN)

    replay = answer.body.pop("replay")
    assert (answer.status, answer.body) == (
        200,
        {"id": ids[0], "state": "queued", "generation": 1, "steps_kept": 0},
    )
    assert api.get(f"/v1/replays/{replay}").body["replayed"] == 1
    told = api.get(f"/v1/runs/{ids[0]}").body
    assert told["state"] == "queued"
    assert [(a["action"], a["author"], a["reason"]) for a in told["actions"]] == [
        ("replay.failed_step", "local", "payments are back")
    ]


def test_a_run_that_is_not_failed_is_not_replayed(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)

    answer = api.post(f"/v1/runs/{ids[0]}/replay", AGAIN)

    assert (answer.status, answer.body["state"]) == (409, "queued")
    assert answer.body["type"] == "urn:veltrix:problem:wrong-state"


def test_a_run_that_was_replayed_as_often_as_can_be_is_told_what_else_to_do(
    engine: Engine, api: Client
) -> None:
    ids = add_runs(engine, 1)
    settle(engine, ids, "failed")
    change_runs(engine, ids, "generation = 32767")

    answer = api.post(f"/v1/runs/{ids[0]}/replay", AGAIN)

    assert answer.status == 409
    assert answer.body["type"] == "urn:veltrix:problem:replayed-too-often"
    assert "edit it" in answer.body["detail"]


def test_the_same_key_replays_once_and_answers_the_same(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)
    settle(engine, ids, "failed")
    path, key = f"/v1/runs/{ids[0]}/replay", {"Idempotency-Key": "k1"}

    first = api.post(path, AGAIN, key)
    second = api.post(path, AGAIN, key)
    other = api.post(path, {"from": "beginning", "reason": "other"}, key)

    assert first.status == second.status == 200
    assert first.body == second.body
    assert other.status == 422
    assert read_runs(engine, ids, "generation")[0][0] == 1


def test_an_open_run_is_cancelled_and_a_running_one_is_asked_to_end(
    engine: Engine, api: Client
) -> None:
    queued, running, settled_ = (add_runs(engine, 1)[0] for _ in range(3))
    hold(engine, [running])
    settle(engine, [settled_], "succeeded")

    answers = [
        api.post(f"/v1/runs/{id_}/cancel", {"reason": "no"}) for id_ in (queued, running, settled_)
    ]

    assert [answer.status for answer in answers] == [200, 200, 409]
    assert [answer.body["state"] for answer in answers] == ["cancelled", "running", "succeeded"]
    assert api.get(f"/v1/runs/{running}").body["cancel_requested_at"] is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        {"from": "failed_step"},
        {"from": "middle", "reason": "r"},
        {"from": "beginning", "reason": ""},
        {"from": "beginning", "reason": "r" * 1_001},
        {"from": "beginning", "reason": "a\x00b"},
        b'{"from":"beginning","reason":"\\ud800"}',
        {"from": "beginning", "reason": "r", "more": 1},
    ],
)
def test_a_replay_that_makes_no_sense_is_a_400(engine: Engine, api: Client, body: Any) -> None:
    ids = add_runs(engine, 1)
    settle(engine, ids, "failed")

    assert api.post(f"/v1/runs/{ids[0]}/replay", body).status == 400
    assert read_runs(engine, ids, "state")[0][0] == "failed"


def test_an_empty_body_is_told_what_it_should_have(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 1)

    cancel = api.post(f"/v1/runs/{ids[0]}/cancel", b"")
    replay = api.post(f"/v1/runs/{ids[0]}/replay", b" ")

    assert (cancel.status, replay.status) == (400, 400)
    assert cancel.body["detail"] == 'the body is missing: send a JSON object with "reason"'
    assert replay.body["detail"].endswith('a JSON object with "from" and "reason"')


def test_a_story_has_begins_arguments_attempts_and_claims(engine: Engine, api: Client) -> None:
    (run_id,) = add_runs(engine, 1)
    token = hold(engine, [run_id])
    now = time.monotonic()
    step = JournalEntry(run_id, "1", "step", "charge", output="1", began=now - 2, took_ms=500)
    step.arguments = '[["dhl"],{"weight":2}]'
    tried = FailedAttempt(run_id, "", "", 1, "KeyError", "no", "", "f1", retry_delay_s=0.0)
    failed = FailedAttempt(run_id, "2", "quote", 1, "Slow", "no", "", "f2")
    failed.arguments = '[["ups… (and 5 bytes more)'
    with open_autocommit(engine) as tx:
        waits = Settlement(run_id=run_id, state="waiting", wait_s=60.0)
        journal_rows.write(tx, token, "worker", [step], [tried, failed], [waits], now)
    change_runs(engine, [run_id], "attempt = 5")

    told = api.get(f"/v1/runs/{run_id}").body

    assert (told["attempt"], told["claims"]) == (2, 5)
    assert api.get("/v1/runs").body["items"][0]["attempt"] == 2
    (recorded,) = told["steps"]
    began, at = (datetime.fromisoformat(recorded[name]) for name in ("began_at", "recorded_at"))
    assert abs((at - began).total_seconds() - 2) < 1.5
    assert recorded["took_ms"] == 500
    assert recorded["arguments"] == [["dhl"], {"weight": 2}]
    (long,) = (a for a in told["failed_attempts"] if a["position"] == "2")
    assert (long["arguments"], long["is_crash"]) == (None, False)
    assert long["arguments_cut"] == '[["ups… (and 5 bytes more)'


def test_a_body_beyond_its_limit_is_a_413(api: Client) -> None:
    assert api.post(f"/v1/runs/{UNKNOWN}/cancel", b" " * 20_000).status == 413


def test_a_key_may_do_only_what_its_scopes_allow(engine: Engine, database_url: str) -> None:
    with transaction(engine) as tx:
        for name, scope in (("reader", "runs:read"), ("operator", "runs:replay")):
            keys.create(tx, name, [scope], "tests", token_of(name))
    ids = add_runs(engine, 1)
    settle(engine, ids, "failed")
    path = f"/v1/runs/{ids[0]}"

    with served(engine, database_url, require_keys=True) as api:
        reads, acts = (
            {"Authorization": f"Bearer {key}"} for key in (token_of("reader"), token_of("operator"))
        )

        assert api.call("GET", path).status == 401
        assert api.call("GET", path, headers=acts).status == 403
        assert api.call("GET", path, headers=reads).status == 200
        assert api.post(path + "/replay", AGAIN, reads).status == 403
        assert api.post(path + "/cancel", {"reason": "r"}, reads).status == 403
        assert api.post(path + "/replay", AGAIN, acts).status == 200
        assert api.call("GET", path, headers=reads).body["actions"][0]["author"] == "operator"


def test_a_database_that_is_away_is_a_503(database_url: str) -> None:
    away = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", application="away")
    with served(away, database_url) as api:
        for answer in (
            api.get("/v1/runs"),
            api.get(f"/v1/runs/{UNKNOWN}?wait_s=1"),
            api.post(f"/v1/runs/{UNKNOWN}/replay", AGAIN),
            api.post(f"/v1/runs/{UNKNOWN}/cancel", {"reason": "r"}),
            api.get("/v1/balance"),
        ):
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
