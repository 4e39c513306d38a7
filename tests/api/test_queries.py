"""What a caller sends that nobody looks at is refused: parameters, cursors, fields of bodies."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, subscribe
from tests.support.served import Answer, Client, served
from tests.support.settled import settle
from veltrix.docs.openapi import document

ID = "01990000-0000-7000-8000-000000000000"
PLACES = {"audit_id": "1", "letter_id": "1"}


@pytest.fixture(scope="module")
def operations() -> list[tuple[str, str, dict[str, bool]]]:
    """(method, path, its parameters and whether they take many) of all under /v1."""
    found = []
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            queries = {
                one["name"]: "array" in str(one["schema"])
                for one in operation.get("parameters", [])
                if one.get("in") == "query"
            }
            named = path
            for part in path.split("/"):
                if part.startswith("{"):
                    named = named.replace(part, PLACES.get(part[1:-1], ID))
            if path.startswith("/v1/"):
                found.append((method.upper(), named, queries))
    return found


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    with served(engine, database_url) as client:
        yield client


def problem(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body["type"].removeprefix("urn:veltrix:problem:")


def test_no_call_takes_a_parameter_that_it_does_not_look_at(
    api: Client, operations: list[tuple[str, str, dict[str, bool]]]
) -> None:
    assert len(operations) > 30
    for method, path, queries in operations:
        for wrong in ("foo=1", "foo", "=x", "Limit=5&limit=5", "%00=%ff"):
            answer = api.call(method, f"{path}?{wrong}", b"{}")

            assert problem(answer) == (400, "unknown-parameter"), (method, path, wrong)
            assert all(name in answer.body["detail"] for name in queries)
        for name, is_many in queries.items():
            told = api.call(method, f"{path}?{name}=1&{name}=1", b"{}")

            assert (problem(told) == (400, "repeated-parameter")) != is_many, (path, name)


def test_a_typing_error_is_told_what_was_meant(api: Client) -> None:
    for query, meant in (
        ("stat=failed", "state"),
        ("status=failed", "state"),
        ("State=failed", "state"),
        ("worflow=x", "workflow"),
        ("sinc=2026-01-01", "since"),
        ("fingerprnt=x", "fingerprint"),
    ):
        detail = api.get(f"/v1/runs?{query}").body["detail"]

        assert f"did you mean {meant}?" in detail
        assert "workflow" in detail


def test_a_cursor_that_no_page_gave_is_refused(
    engine: Engine, api: Client, operations: list[tuple[str, str, dict[str, bool]]]
) -> None:
    lists = [path for _, path, queries in operations if "cursor" in queries]

    assert len(lists) == 9
    for path in lists:
        for cursor in ("eyJ", "", "%00", "x" * 5_000, "%ED%A0%80", "-1", "eyJhIjoxfQ=="):
            assert problem(api.get(f"{path}?cursor={cursor}"))[0] == 400, (path, cursor)


def test_every_page_leads_to_the_next(engine: Engine, api: Client) -> None:
    for number in range(3):
        ids = add_runs(engine, 1)
        settle(engine, ids, "failed", reason="error", fingerprint=f"{number:016x}")
    for path in ("/v1/runs", "/v1/events"):
        whole = api.get(path).body["items"]
        found, query = [], "limit=2"
        while True:
            page = api.get(f"{path}?{query}").body
            found += page["items"]
            if page["next"] is None:
                break
            query = f"limit=2&cursor={page['next']}"
        assert found == whole


def test_a_field_that_is_nowhere_is_told_which_there_are(api: Client) -> None:
    run, group = f"/v1/runs/{ID}", f"/v1/failures/{'a' * 16}"
    calls: list[tuple[str, Any, list[str]]] = [
        (f"{run}/edit", {"input": 1}, ["'input'", "reason, data and patch"]),
        (f"{run}/edit", {"dat": 1, "reason": "r"}, ["did you mean data?"]),
        (f"{run}/cancel", {"reson": "r"}, ["did you mean reason?"]),
        (f"{run}/replay", {"mode": "beginning"}, ["from and reason"]),
        ("/v1/runs/cancel", {"reason": "r", "filter": {"stat": "x"}}, ["$.filter", "mean state?"]),
        ("/v1/replays", {"reason": "r", "filter": {"x": 1}}, ["workflow, queue, key"]),
        (f"{group}/resolve", {"versoin": "1"}, ["did you mean version?"]),
    ]
    for path, body, told in calls:
        answer = api.call("POST", path, body, {"If-Match": "*"})

        assert problem(answer) == (400, "invalid-body")
        assert all(part in answer.body["detail"] for part in told), answer.body["detail"]


def test_a_body_that_is_none_is_told_in_words_what_to_send(api: Client) -> None:
    texts = [b"", b"  ", b"{", b'{"reason": ', b"nope", b"\xff", b'{"reason":"\\ud8"}']
    for body in (*texts, b"[]", b"5"):
        for path in (f"/v1/runs/{ID}/cancel", f"/v1/failures/{'a' * 16}/ignore"):
            answer = api.call("POST", path, body)

            assert problem(answer) == (400, "invalid-body")
            detail = answer.body["detail"]
            assert "byte 0" not in detail
            assert "truncated" not in detail
            assert '"reason"' in detail or body not in texts, detail


def test_a_start_is_told_which_fields_there_are(api: Client, engine: Engine) -> None:
    subscribe(engine)
    answer = api.call("POST", "/v1/workflows/fulfil/runs", json.dumps({"data": {}}).encode())

    assert problem(answer) == (400, "invalid-body")
    assert "input, inputs, start_at and delay_s" in answer.body["detail"]
