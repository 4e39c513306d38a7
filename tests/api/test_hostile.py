"""What somebody tries who should not: payloads read through errors, pages of other sites, sizes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.api.test_replays import failed
from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.served import Answer, Client, served
from veltrix.access import keys
from veltrix.access.audit import REQUEST_BYTES_MAX, AuditFilter, entry, page
from veltrix.store.transactions import transaction
from veltrix.web.auth import check_local
from veltrix.web.problems import Problem

WHY = {"reason": "to be looked at"}
SECRET, TOKEN = "4111-1111", "b" * 43
# The error of a failed `test` has the value that is there.
READING = [{"op": "test", "path": "/card", "value": 0}]

Call = Callable[[str, str, Any], Answer]


def editor_without_payloads(api: Client) -> Call:
    def call(method: str, path: str, body: Any = None) -> Answer:
        headers = {"Authorization": f"Bearer {TOKEN}", "If-Match": "*"}
        return api.call(method, path, None if body is None else json.dumps(body).encode(), headers)

    return call


def test_a_patch_reads_no_payload_to_who_may_not_see_one(engine: Engine, database_url: str) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    (run,) = failed(engine, 1, data=json.dumps({"card": SECRET}))
    with transaction(engine) as tx:
        keys.create(tx, "blind", ["runs:read", "runs:replay", "runs:edit"], "test", TOKEN)
    with served(engine, database_url, require_keys=True) as api:
        call = editor_without_payloads(api)
        answers = [
            call("POST", f"/v1/runs/{run}/edit", {"patch": READING, **WHY}),
            call("POST", "/v1/replays", {"group": "f", "patch": READING, **WHY}),
            call("POST", "/v1/replays/preview", {"group": "f", "patch": READING}),
        ]
        whole = call("POST", f"/v1/runs/{run}/edit", {"data": {"card": "new"}, **WHY})
        refused = call("GET", "/v1/audit?action=api.call", None).body["items"]

    assert [answer.status for answer in answers] == [403, 403, 403]
    assert SECRET not in str([answer.body for answer in answers])
    assert [row["author"] for row in refused] == ["blind"] * 3
    assert whole.status == 201, "a payload of his own he may send"


@pytest.mark.parametrize("number", ["1e999", "1e9999999999999999999", "-1e400"])
def test_a_number_that_nothing_can_hold_is_a_bad_patch(
    engine: Engine, database_url: str, number: str
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    (run,) = failed(engine, 1)
    patch = f'[{{"op":"add","path":"/a","value":{number}}}]'
    body = f'{{"all":true,"reason":"x","patch":{patch}}}'.encode()
    edit = f'{{"reason":"x","patch":{patch}}}'.encode()
    with served(engine, database_url) as api:
        plan = api.call("POST", "/v1/replays", body)
        edited = api.call("POST", f"/v1/runs/{run}/edit", edit, {"If-Match": "*"})

    assert {plan.status, edited.status} == {400}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy"},
        {"Origin": "http://127.0.0.1:9"},
    ],
)
def test_without_keys_no_page_of_another_site_is_answered(
    engine: Engine, database_url: str, headers: dict[str, str]
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    failed(engine, 1)
    with served(engine, database_url) as api:
        every = json.dumps({"all": True, **WHY}).encode()
        event = json.dumps({"specversion": "1.0", "id": "1", "source": "/x", "type": "y"}).encode()
        answers = [
            api.call("POST", "/v1/runs/archive", every, headers),
            api.call("POST", "/v1/events", event, headers | {"Content-Type": EVENT}),
            api.call("GET", "/v1/runs", None, headers),
            api.call("GET", "/v1/audit", None, headers),
        ]

        assert [answer.status for answer in answers] == [403] * 4
        assert api.get("/v1/audit").body["items"] == []
    with transaction(engine) as tx:
        assert tx.execute(text("select count(*) from events")).scalar_one() == 1


EVENT = "application/cloudevents+json"


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", None])
def test_programs_of_this_machine_are_answered(host: str | None) -> None:
    check_local(host, None, None)
    with pytest.raises(Problem):
        check_local(host, "http://localhost.evil.example", None)
    with pytest.raises(Problem):  # a page that another program of this machine serves
        check_local(host, "http://127.0.0.1:9999", None)
    if host is not None:
        check_local(host, f"http://{host}", "same-origin")


def test_what_was_asked_with_a_payload_is_whole_in_its_entry_only(
    engine: Engine, database_url: str
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    (run,) = failed(engine, 1)
    large = {"data": {"text": "x" * REQUEST_BYTES_MAX}, **WHY}
    with served(engine, database_url) as api:
        body = json.dumps(large).encode()
        assert api.call("POST", f"/v1/runs/{run}/edit", body, {"If-Match": "*"}).status == 201
        (listed,) = api.get("/v1/audit?action=run.edit").body["items"]
        whole = api.get(f"/v1/audit/{listed['id']}").body

    assert (listed["request"], listed["redacted"]) == (None, False)
    assert len(json.dumps(whole["request"])) > REQUEST_BYTES_MAX
    with transaction(engine) as tx:
        (row,) = page(tx, AuditFilter(action="run.edit")).items
        assert row.request is None
        found = entry(tx, row.id)
    assert found is not None
    assert found.request is not None


@pytest.mark.parametrize("path", ["/v1/runs/archive", "/v1/replays"])
def test_times_that_leave_nothing_out_are_everything(
    engine: Engine, database_url: str, path: str
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    failed(engine, 2)
    with served(engine, database_url) as api:
        for times in (
            {"since": "1970-01-01T00:00:00Z"},
            {"until": "2999-01-01T00:00:00Z"},
            {"since": "1970-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z"},
        ):
            refused = api.post(path, {"filter": times, **WHY})
            assert (refused.status, refused.body["detail"].count("all: true")) == (400, 1)
        done = api.post(path, {"filter": times, "all": True, **WHY})

    assert done.status in {200, 201}


def test_times_that_leave_one_out_are_a_choice(engine: Engine, database_url: str) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    first, second = failed(engine, 1), failed(engine, 1)
    with transaction(engine) as tx:
        query = "select started_at from runs where id = :id"
        at = tx.execute(text(query), {"id": max(first + second)}).scalar_one()
    with served(engine, database_url) as api:
        done = api.post("/v1/replays", {"filter": {"since": at.isoformat()}, **WHY})

    assert (done.status, done.body["count"]) == (201, 1)
