"""`/v1/replays` and edits over HTTP: answers, refusals, scopes, keys and audit rows."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.due_runs import add_runs, read_runs
from tests.support.served import Answer, Client, served
from tests.support.settled import settle
from veltrix.access import keys
from veltrix.domain.ids import EventIds
from veltrix.operations.replays.mover import Mover
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
SCHEMA = {"type": "object", "properties": {"cents": {"type": "integer"}}}
PATCH = [{"op": "replace", "path": "/cents", "value": 100}]
WHY = {"reason": "payments are back"}


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    subscribe(engine, subscription("fulfil", PLACED, input_schema=SCHEMA))
    with served(engine, database_url) as client:
        yield client


def failed(engine: Engine, count: int, data: str = '{"cents": "100"}') -> list[str]:
    ids = add_runs(engine, count, data=data)
    settle(engine, ids, "failed", reason="error", fingerprint="f", failed_step="charge")
    return ids


def work(engine: Engine) -> None:
    executor = Mover(engine, Settings(), EventIds(Random(1).getrandbits))
    for _ in range(3):
        executor.once()


def planned(api: Client, **asked: Any) -> Any:
    answer = api.post("/v1/replays", {"group": "f", **WHY} | asked)
    assert answer.status == 201, answer.body
    return answer.body


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer
    return answer.status, answer.body["type"].rpartition(":")[2]


def test_a_replay_is_planned_started_and_told_run_by_run(engine: Engine, api: Client) -> None:
    ids = failed(engine, 3)

    answer = api.post("/v1/replays", {"group": "f", "rate": 1000, **WHY})
    plan = answer.body
    assert (answer.status, answer.headers["location"]) == (201, f"/v1/replays/{plan['id']}")
    assert (plan["state"], plan["count"], plan["by_workflow"]) == ("planned", 3, {"fulfil": 3})
    assert (plan["from"], plan["rate"], plan["stop_share"]) == ("failed_step", 1000, 0.2)
    assert plan["by_error"][0]["count"] == 3
    assert plan["warnings"][0]["step"] == "charge"
    assert plan["asked"]["group"] == "f"
    assert read_runs(engine, ids, "state")[0].state == "failed"

    path = f"/v1/replays/{plan['id']}"
    assert api.post(f"{path}/start", WHY).body["state"] == "running"
    work(engine)
    settle(engine, ids[:1], "succeeded")
    work(engine)
    told = api.get(path).body
    assert (told["replayed"], told["succeeded"], told["planned"]) == (3, 1, 3)
    first = api.get(f"{path}/runs?limit=2").body
    rest = api.get(f"{path}/runs?limit=2&cursor={first['next']}").body
    assert [run["run"] for run in first["items"] + rest["items"]] == ids
    assert [run["state"] for run in first["items"]] == ["succeeded", "replayed"]
    assert len(api.get(f"{path}/runs?state=replayed").body["items"]) == 2


def test_pause_resume_and_abort_answer_the_state_and_refuse_what_makes_no_sense(
    engine: Engine, api: Client
) -> None:
    failed(engine, 2)
    path = f"/v1/replays/{planned(api, rate=0.5)['id']}"

    states = [
        api.post(f"{path}/{verb}", WHY).body["state"]
        for verb in ("start", "pause", "resume", "abort")
    ]

    assert states == ["running", "paused", "running", "aborted"]
    assert problem(api.post(f"{path}/start", WHY)) == (409, "wrong-state")
    assert api.post(f"{path}/start", WHY).body["state"] == "aborted"
    assert problem(api.post(f"{path}/jump", WHY)) == (400, "invalid-request")
    assert problem(api.post(f"{path}/pause", {})) == (400, "invalid-body")
    assert problem(api.post(f"/v1/replays/{UNKNOWN}/start", WHY)) == (404, "not-found")
    assert problem(api.post("/v1/replays/x/start", WHY)) == (404, "not-found")
    assert problem(api.get("/v1/replays/x")) == (404, "not-found")
    assert problem(api.get(f"/v1/replays/{UNKNOWN}/runs")) == (404, "not-found")


def test_history_is_told_in_pages(engine: Engine, api: Client) -> None:
    failed(engine, 1)
    made = [planned(api)["id"] for _ in range(3)][::-1]

    first = api.get("/v1/replays?limit=2").body
    rest = api.get(f"/v1/replays?limit=2&cursor={first['next']}").body

    assert [one["id"] for one in first["items"] + rest["items"]] == made
    assert rest["next"] is None
    assert api.get("/v1/replays?state=done").body["items"] == []
    assert problem(api.get("/v1/replays?cursor=x"))[0] == 400


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, (400, "needs-all")),
        ({"filter": {}}, (400, "needs-all")),
        ({"ids": []}, (409, "empty-set")),
        ({"ids": ["x"]}, (400, "invalid-options")),
        ({"ids": [UNKNOWN]}, (404, "not-found")),
        ({"group": "nothing"}, (409, "empty-set")),
        ({"group": "a\x00b"}, (400, "invalid-request")),
        ({"group": "f", "ids": [UNKNOWN]}, (400, "invalid-options")),
        ({"group": "f", "all": True}, (400, "invalid-options")),
        ({"group": "f", "rate": 0}, (400, "invalid-options")),
        ({"group": "f", "rate": -1}, (400, "invalid-options")),
        ({"group": "f", "canary": -1}, (400, "invalid-options")),
        ({"group": "f", "stop_share": 2}, (400, "invalid-options")),
        ({"group": "f", "from": "middle"}, (400, "invalid-body")),
        ({"group": "f", "patch": PATCH, "from": "failed_step"}, (400, "invalid-options")),
        ({"group": "f", "patch": [{"op": "x"}]}, (400, "invalid-patch")),
        ({"group": "f", "patch": [{"op": "remove", "path": "/no"}]}, (400, "edit-refused")),
        ({"group": "f", "reason": ""}, (400, "invalid-body")),
        ({"group": "f", "colour": "red"}, (400, "invalid-body")),
    ],
)
def test_what_cannot_be_planned_is_a_problem_and_nothing_moves(
    engine: Engine, api: Client, asked: dict[str, Any], wanted: tuple[int, str]
) -> None:
    ids = failed(engine, 1)

    assert problem(api.post("/v1/replays", WHY | asked)) == wanted

    assert api.get("/v1/replays").body["items"] == []
    assert tuple(read_runs(engine, ids, "state, generation")[0]) == ("failed", 0)


def test_runs_that_are_not_failed_are_named(engine: Engine, api: Client) -> None:
    ids = failed(engine, 1) + add_runs(engine, 1)

    answer = api.post("/v1/replays", {"ids": ids, **WHY})

    assert problem(answer) == (409, "wrong-state")
    assert answer.body["runs"] == [{"id": ids[1], "state": "queued"}]


def test_everything_and_filters(engine: Engine, api: Client) -> None:
    failed(engine, 2)

    assert planned(api, group=None, all=True)["count"] == 2
    assert planned(api, group=None, filter={"workflow": "fulfil"})["count"] == 2
    old = {"since": "2020-01-01T00:00:00Z"}
    assert planned(api, group=None, filter=old, all=True)["count"] == 2
    assert planned(api, group=None, filter=old | {"queue": "orders"})["count"] == 2
    assert planned(api, group=None, filter={"key": None}, all=True, stop_share=None)["count"] == 2
    late = {"filter": {"since": "2999-01-01T00:00:00Z"}, **WHY}
    assert problem(api.post("/v1/replays", late)) == (409, "empty-set")


def test_the_same_key_plans_once(engine: Engine, api: Client) -> None:
    failed(engine, 1)
    key = {"Idempotency-Key": "k1"}
    asked = {"group": "f", **WHY}

    first, second = (api.post("/v1/replays", asked, key) for _ in range(2))
    other = api.post("/v1/replays", asked | {"canary": 1}, key)

    assert first.status == second.status == 201
    assert first.body == second.body
    assert problem(other) == (422, "idempotency-key-reused")
    assert len(api.get("/v1/replays").body["items"]) == 1


def edit(api: Client, run_id: str, body: dict[str, Any], tag: str | None = None) -> Answer:
    headers = {} if tag is None else {"If-Match": tag}
    return api.post(f"/v1/runs/{run_id}/edit", WHY | body, headers)


def test_a_run_is_edited_by_who_saw_it_as_it_is(engine: Engine, api: Client) -> None:
    (origin,) = failed(engine, 1)
    tag = api.get(f"/v1/runs/{origin}").headers["etag"]

    assert problem(edit(api, origin, {"data": {"cents": 100}})) == (428, "precondition-required")
    made = edit(api, origin, {"data": {"cents": 100}}, tag)
    late = edit(api, origin, {"data": {"cents": 200}}, tag)

    assert (made.status, made.headers["location"]) == (201, f"/v1/runs/{made.body['id']}")
    assert problem(late) == (412, "precondition-failed")
    old, new = (api.get(f"/v1/runs/{id_}") for id_ in (origin, made.body["id"]))
    assert (old.body["state"], old.body["edited_as"]) == ("failed", [made.body["id"]])
    assert (new.body["state"], new.body["origin_run_id"]) == ("queued", origin)
    assert old.headers["etag"] != tag
    kept = api.get(f"/v1/runs/{made.body['id']}/edit").body
    assert (kept["origin"], kept["patch"]) == (origin, PATCH)
    assert problem(api.get(f"/v1/runs/{origin}/edit")) == (404, "not-found")
    assert api.get(f"/v1/replays/{made.body['replay']}").body["is_edit"]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, (400, "invalid-body")),
        ({"data": {}, "patch": PATCH}, (400, "invalid-body")),
        ({"data": {"cents": "x"}}, (400, "edit-refused")),
        ({"patch": [{"op": "remove", "path": "/no"}]}, (400, "edit-refused")),
        ({"patch": []}, (400, "invalid-patch")),
        ({"data": "x" * 1024 * 1024}, (400, "edit-refused")),
        ({"data": "x" * 1024 * 1200}, (413, "too-large")),
    ],
)
def test_an_edit_that_does_not_fit_is_a_problem_and_makes_nothing(
    engine: Engine, api: Client, body: dict[str, Any], wanted: tuple[int, str]
) -> None:
    (origin,) = failed(engine, 1)

    assert problem(edit(api, origin, body, "*")) == wanted

    with transaction(engine) as tx:
        assert tx.execute(text("select count(*) from runs")).scalar_one() == 1
    assert problem(edit(api, UNKNOWN, {"data": {}}, "*")) == (404, "not-found")
    assert problem(edit(api, "x", {"data": {}}, "*")) == (404, "not-found")


def test_a_patch_is_looked_at_before_it_is_planned(engine: Engine, api: Client) -> None:
    failed(engine, 3)

    shown = api.post("/v1/replays/preview", {"group": "f", "patch": PATCH, "limit": 2})
    plan = planned(api, patch=PATCH)

    assert shown.status == 200
    assert shown.body["count"] == 3
    assert [(i["before"], i["after"]) for i in shown.body["items"]] == [
        ({"cents": "100"}, {"cents": 100})
    ] * 2
    assert (plan["is_edit"], plan["from"], plan["patch"]) == (True, "beginning", PATCH)
    assert problem(api.post("/v1/replays/preview", {"group": "f"})) == (400, "invalid-patch")
    nothing = {"group": "nothing", "patch": PATCH}
    assert problem(api.post("/v1/replays/preview", nothing)) == (409, "empty-set")


def test_each_right_is_asked_for(engine: Engine, database_url: str) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    (run,) = failed(engine, 1)
    tokens = {}
    with transaction(engine) as tx:
        for name, scopes in {
            "reader": ["runs:read"],
            "operator": ["runs:read", "runs:replay"],
            "editor": ["runs:read", "runs:replay", "runs:edit", "payloads:read"],
        }.items():
            tokens[name] = f"{name}-{'k' * 40}"
            keys.create(tx, name, scopes, "test", tokens[name])
    asked = json.dumps({"group": "f", "patch": PATCH, **WHY}).encode()
    plain = json.dumps({"group": "f", **WHY}).encode()
    with served(engine, database_url, require_keys=True) as api:

        def post(name: str, path: str, body: bytes) -> int:
            headers = {"Authorization": f"Bearer {tokens[name]}", "If-Match": "*"}
            return api.call("POST", path, body, headers).status

        assert post("reader", "/v1/replays", plain) == 403
        assert post("operator", "/v1/replays", plain) == 201
        assert post("operator", "/v1/replays", asked) == 403
        assert post("operator", "/v1/replays/preview", b'{"group": "f"}') == 403
        edit_ = json.dumps({"data": {}, **WHY}).encode()
        assert post("operator", f"/v1/runs/{run}/edit", edit_) == 403
        assert post("editor", "/v1/replays", asked) == 201
        for name, seen in (("operator", False), ("editor", True)):
            headers = {"Authorization": f"Bearer {tokens[name]}"}
            first = api.call("GET", "/v1/replays", None, headers).body["items"][0]["id"]
            told = api.call("GET", f"/v1/replays/{first}", None, headers).body
            assert ("patch" in told) == seen
