"""`/v1/failures` and actions on many runs over HTTP: what is told, to whom, and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, read_runs
from tests.support.served import Client, served
from tests.support.settled import hold, settle
from veltrix.access import keys
from veltrix.domain.dead_letters import DeadLetter
from veltrix.domain.failure_groups import UNGROUPED
from veltrix.operations.books.books import balance
from veltrix.operations.failures.triage import check_groups, fold_groups_once
from veltrix.pipeline.relay.dead_letters import bury
from veltrix.store.transactions import transaction

GROUP = "a" * 16
UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    with served(engine, database_url) as client:
        yield client


def fail(engine: Engine, runs: int = 1, **changes: Any) -> list[str]:
    ids = add_runs(engine, runs, **changes)
    outcome = f'{{"type": "Declined", "message": "{HOSTILE}"}}'
    settle(
        engine,
        ids,
        "failed",
        reason="error",
        outcome=outcome,
        fingerprint=GROUP,
        failed_step="charge",
        code_version="1",
    )
    fold_groups_once(engine)
    return ids


def states(engine: Engine, ids: list[str]) -> list[str]:
    return [row[0] for row in read_runs(engine, ids, "state")]


def test_a_group_is_listed_told_and_its_runs_are_found_by_its_id(
    engine: Engine, api: Client
) -> None:
    ids = fail(engine, 3)

    (listed,) = api.get("/v1/failures").body["items"]
    told = api.get(f"/v1/failures/{GROUP}").body

    assert (listed["id"], listed["count"], listed["message"]) == (GROUP, 3, HOSTILE)
    assert told["message"] == HOSTILE
    assert [run["id"] for run in told["runs"]] == ids[::-1]
    found = api.get(f"/v1/runs?state=failed&fingerprint={GROUP}").body["items"]
    assert [run["id"] for run in found] == ids[::-1]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("kind=run&state=open&state=regressed&workflow=fulfil", 1),
        ("kind=poison", 0),
        ("state=ignored", 0),
        ("workflow=report", 0),
        ("since=2099-01-01T00:00:00Z", 0),
        ("order=count", 1),
        ("order=first_seen&empty=true", 1),
    ],
)
def test_filters_of_groups(engine: Engine, api: Client, query: str, count: int) -> None:
    fail(engine)

    assert len(api.get(f"/v1/failures?{query}").body["items"]) == count


def test_groups_come_in_pages_in_every_order(engine: Engine, api: Client) -> None:
    for number in range(5):
        ids = add_runs(engine, number + 1)
        settle(engine, ids, "failed", reason="error", fingerprint=f"{number:016}")
    fold_groups_once(engine)

    for order in ("last_seen", "first_seen", "count"):
        seen: list[str] = []
        cursor = ""
        while True:
            found = api.get(f"/v1/failures?order={order}&limit=2{cursor}").body
            seen += [row["id"] for row in found["items"]]
            if found["next"] is None:
                break
            cursor = f"&cursor={found['next']}"
        assert seen == [f"{number:016}" for number in (4, 3, 2, 1, 0)], order


def test_people_decide_about_a_group(engine: Engine, api: Client) -> None:
    fail(engine)
    path, key = f"/v1/failures/{GROUP}", {"Idempotency-Key": "k"}
    asked = {"version": "2", "reason": "mended"}

    first, again = (api.post(f"{path}/resolve", asked, key) for _ in range(2))
    late = api.post(f"{path}/resolve", {"reason": "me too"})

    assert (first.status, first.body) == (200, {"id": GROUP, "state": "resolved"})
    assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")
    assert (late.status, late.body["state"], late.body["by"]) == (409, "resolved", "local")
    assert api.post(f"{path}/reopen", {"reason": "no"}).body["state"] == "open"
    assert api.post(f"{path}/ignore", {"reason": "tests"}).body["state"] == "ignored"
    assert api.post(f"{path}/notes", {"text": HOSTILE}).status == 200
    told = api.get(path).body
    assert (told["state"], told["notes"][0]["text"]) == ("ignored", HOSTILE)
    audit = api.get("/v1/audit?target=group").body["items"]
    assert [row["is_refused"] for row in audit] == [False, False, False, True, False]
    whole = api.get(f"/v1/audit/{audit[0]['id']}").body
    assert (whole["action"], whole["run_ids"]) == ("group.note", [])
    assert api.get("/v1/audit/999999").status == 404


def test_what_never_came_to_code_is_mended_in_no_version(engine: Engine, api: Client) -> None:
    bury(engine, [DeadLetter(queue="orders", reason="rejected")])
    fold_groups_once(engine)
    (letter,) = api.get("/v1/failures").body["items"]
    path = f"/v1/failures/{letter['id']}"

    refused = api.post(f"{path}/resolve", {"version": "2", "reason": "mended"})

    problem = "urn:veltrix:problem:no-version"
    assert (refused.status, refused.body["type"]) == (422, problem)
    assert refused.body["kind"] == "dead_letter"
    assert "of kind dead_letter, which comes to no code" in refused.body["detail"]
    assert api.get(path).body["state"] == "open"
    (audited,) = api.get("/v1/audit?target=group").body["items"]
    assert (audited["action"], audited["is_refused"]) == ("group.resolve", True)
    assert api.post(f"{path}/resolve", {"reason": "mended"}).body["state"] == "resolved"


def test_the_group_of_runs_without_a_fingerprint_has_runs(engine: Engine, api: Client) -> None:
    fail(engine, 2)
    settle(engine, add_runs(engine, 1), "succeeded")
    add_runs(engine, 1)
    bare = add_runs(engine, 3)
    settle(engine, bare, "failed", reason="error")
    fold_groups_once(engine)
    chosen = f"fingerprint={UNGROUPED}"

    def found(query: str) -> list[str]:
        return [run["id"] for run in api.get(f"/v1/runs?{query}").body["items"]]

    for query in ("", "&state=failed", "&workflow=fulfil", "&archived=false"):
        assert found(chosen + query) == bare[::-1], query
    assert found(f"{chosen}&state=succeeded") == found(f"{chosen}&archived=true") == []
    assert [run["id"] for run in api.get(f"/v1/failures/{UNGROUPED}").body["runs"]] == bare[::-1]
    asked = {"filter": {"fingerprint": UNGROUPED}, "reason": "paid by hand"}
    assert api.post("/v1/runs/archive", asked).body["runs"] == 3
    assert found(f"{chosen}&archived=true") == bare[::-1]
    assert check_groups(engine) == []


@pytest.mark.parametrize("verb", ["resolve", "ignore", "reopen", "notes"])
@pytest.mark.parametrize(
    ("body", "status"),
    [({"reason": "r"}, 404), ({"text": "t"}, 404), ({}, 400), (b"no", 400), ({"reason": ""}, 400)],
)
def test_what_cannot_be_decided_is_a_problem(
    api: Client, verb: str, body: Any, status: int
) -> None:
    wanted = "text" if verb == "notes" else "reason"
    expected = status if isinstance(body, dict) and wanted in body else 400

    answer = api.post(f"/v1/failures/{'f' * 16}/{verb}", body)

    assert (answer.status, answer.headers["content-type"]) == (
        expected,
        "application/problem+json",
    )


def test_many_open_runs_are_cancelled_by_a_filter(engine: Engine, api: Client) -> None:
    queued, running = add_runs(engine, 3), add_runs(engine, 2)
    hold(engine, running)
    other = add_runs(engine, 1, workflow="report")
    settle(engine, done := add_runs(engine, 1), "succeeded")

    answer = api.post(
        "/v1/runs/cancel", {"filter": {"workflow": "fulfil"}, "reason": "the shop is closed"}
    )

    assert (answer.status, answer.body) == (200, {"runs": 3, "requested": 2})
    assert states(engine, queued) == ["cancelled"] * 3
    assert states(engine, [*running, *other, *done]) == [
        *["running"] * 2,
        "queued",
        "succeeded",
    ]
    (row,) = api.get("/v1/audit?action=run.cancel").body["items"]
    assert (row["runs"], row["reason"], row["author"]) == (5, "the shop is closed", "local")
    whole = api.get(f"/v1/audit/{row['id']}").body
    assert whole["run_ids"] == sorted(queued + running)
    assert balance(engine).unaccounted == 0


def test_archived_runs_are_in_no_list_and_in_the_books(engine: Engine, api: Client) -> None:
    ids = fail(engine, 4)
    asked = {"ids": ids[:3], "reason": "paid by hand"}

    answer = api.post("/v1/runs/archive", asked)

    assert (answer.status, answer.body["runs"]) == (200, 3)
    assert [run["id"] for run in api.get("/v1/runs?state=failed").body["items"]] == ids[3:]
    assert [run["id"] for run in api.get("/v1/runs").body["items"]] == ids[3:]
    put_away = api.get(f"/v1/runs?archived=true&fingerprint={GROUP}").body["items"]
    assert {run["id"] for run in put_away} == set(ids[:3])
    assert balance(engine).runs.failed == 4
    fold_groups_once(engine)
    told = api.get(f"/v1/failures/{GROUP}").body
    assert (told["count"], told["archived"], len(told["runs"])) == (1, 3, 1)
    restored = api.post("/v1/runs/restore", {"filter": {"fingerprint": GROUP}, "reason": "no"})
    assert restored.body["runs"] == 3
    assert check_groups(engine) == []
    assert len(api.get("/v1/runs?state=failed").body["items"]) == 4
    actions = api.get(f"/v1/runs/{ids[0]}").body["actions"]
    assert [action["action"] for action in actions] == ["archive", "restore"]


def test_nothing_moves_if_one_of_them_cannot(engine: Engine, api: Client) -> None:
    failed, queued = fail(engine, 2), add_runs(engine, 2)
    calls: list[tuple[str, dict[str, Any], int, str, list[str]]] = [
        ("cancel", {"ids": [*queued, failed[0]]}, 409, "wrong-state", [failed[0]]),
        ("cancel", {"ids": [*queued, UNKNOWN, "x"]}, 404, "not-found", [UNKNOWN, "x"]),
        ("archive", {"ids": [failed[0], queued[0]]}, 409, "wrong-state", [queued[0]]),
        ("restore", {"ids": failed}, 409, "wrong-state", failed),
        ("cancel", {"ids": []}, 409, "empty-set", []),
        ("archive", {"filter": {"workflow": "nobody"}}, 409, "empty-set", []),
        ("archive", {"filter": {"state": "queued"}, "all": True}, 409, "empty-set", []),
        ("cancel", {}, 400, "needs-all", []),
        ("cancel", {"filter": {}}, 400, "needs-all", []),
        ("archive", {"filter": {"state": "failed"}}, 400, "needs-all", []),
        ("cancel", {"ids": queued, "all": True}, 400, "invalid-request", []),
        ("cancel", {"ids": queued, "filter": {}}, 400, "invalid-request", []),
        ("cancel", {"filter": {"what": 1}}, 400, "invalid-body", []),
        ("cancel", {"filter": {"event": "x"}}, 400, "invalid-request", []),
        ("cancel", {"ids": [UNKNOWN] * 1_001}, 400, "invalid-body", []),
    ]

    for action, body, status, slug, named in calls:
        answer = api.post(f"/v1/runs/{action}", body | {"reason": "r"})

        assert (answer.status, answer.body["type"]) == (status, f"urn:veltrix:problem:{slug}"), body
        assert [run["id"] for run in answer.body.get("runs", [])] == named, body
    assert states(engine, queued) == ["queued"] * 2
    assert states(engine, failed) == ["failed"] * 2
    refused = api.get("/v1/audit?refused=true").body["items"]
    assert len(refused) == 10
    assert api.get("/v1/audit?refused=false").body["items"] == []


def test_everything_is_taken_only_when_it_is_said(engine: Engine, api: Client) -> None:
    ids = add_runs(engine, 4)

    answer = api.post("/v1/runs/cancel", {"all": True, "reason": "the end of the shop"})

    assert answer.body == {"runs": 4, "requested": 0}
    assert states(engine, ids) == ["cancelled"] * 4


def token_of(name: str) -> str:
    return f"{name}-{'k' * 40}"


def test_without_the_scope_payloads_are_redacted_and_refusals_are_audited(
    engine: Engine, database_url: str
) -> None:
    scopes = {
        "blind": ["runs:read"],
        "seeing": ["runs:read", "payloads:read"],
        "till": ["events:write"],
    }
    with transaction(engine) as tx:
        for name, allowed in scopes.items():
            keys.create(tx, name, allowed, "tests", token_of(name))
    (run_id,) = fail(engine, data='{"card": "4711"}')
    with transaction(engine) as tx:
        tx.exec_driver_sql(
            "insert into failed_attempts (run_id, generation, position, step, attempt, type,"
            " message, traceback, fingerprint, arguments)"
            """ values (%(id)s, 0, '1', 'charge', 1, 'Declined', '', '', '', '[["0815"],{}]')""",
            {"id": run_id},
        )

    with served(engine, database_url, require_keys=True) as api:

        def by(name: str, method: str, path: str, body: Any = None) -> Any:
            headers = {"Authorization": f"Bearer {token_of(name)}"}
            return api.call(method, path, body, headers)

        blind, seeing = (by(n, "GET", f"/v1/runs/{run_id}").body for n in ("blind", "seeing"))
        assert (blind["redacted"], blind["outcome"]) == (True, None)
        assert [a["arguments"] for a in seeing["failed_attempts"]] == [[["0815"], {}]]
        assert "0815" not in str(blind)
        assert (seeing["redacted"], seeing["outcome"]["message"]) == (False, HOSTILE)
        event = f"/v1/events?source=/tests&id={seeing['cloudevent']['id']}"
        assert by("seeing", "GET", event).body["data"] == {"card": "4711"}
        hidden = by("blind", "GET", event).body
        assert hidden["redacted"] is True
        assert "4711" not in str(hidden)
        group = by("blind", "GET", f"/v1/failures/{GROUP}").body
        assert (group["message"], group["redacted"]) == (None, True)

        refused = [
            by("till", "GET", f"/v1/runs/{run_id}"),
            by("till", "GET", event),
            by("blind", "POST", "/v1/runs/cancel", {"all": True, "reason": "r"}),
            by("blind", "POST", f"/v1/failures/{GROUP}/resolve", {"reason": "r"}),
            by("blind", "POST", "/v1/events", {}),
            by("till", "GET", "/v1/audit"),
        ]
        assert {answer.status for answer in refused} == {403}
        api.get("/v1/runs")  # nobody's
        rows = by("seeing", "GET", "/v1/audit?action=api.call").body["items"]
        assert [(row["author"], row["target_id"]) for row in rows[::-1]] == [
            ("till", f"GET /v1/runs/{run_id}"),
            ("till", "GET /v1/events"),
            ("blind", "POST /v1/runs/cancel"),
            ("blind", f"POST /v1/failures/{GROUP}/resolve"),
            ("blind", "POST /v1/events"),
            ("till", "GET /v1/audit"),
        ]
        assert all(row["is_refused"] and row["request"]["method"] for row in rows)
        redacted = by("blind", "GET", "/v1/audit").body["items"]
        assert {(row["redacted"], row["request"]) for row in redacted} == {(True, None)}
