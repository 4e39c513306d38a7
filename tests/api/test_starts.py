"""`POST /v1/workflows/{name}/runs`: one start per key, checked against the workflow's schema."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import Engine, text

from tests.api.conftest import Api, ApiOf
from tests.support.accepting import subscribe, subscription
from veltrix import Event
from veltrix.access import answers
from veltrix.access.keys import create
from veltrix.authoring.encoding import Codec
from veltrix.store.transactions import transaction


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def test_a_start_is_an_event_and_a_run(api: Api, engine: Engine) -> None:
    answer = api.start("fulfil", b'{"input": {"order": 17, "x": -0}}')

    assert answer.status == 202
    run_id = answer.body["runs"][0]["id"]
    assert answer.headers["location"] == f"/v1/runs/{run_id}"
    assert answer.body["source"] == "/veltrix/starts/fulfil"
    found = "select source, sender_id, type, data::text, unrouted from events"
    assert rows(engine, found) == [
        (answer.body["source"], answer.body["id"], "veltrix.start", '{"order": 17, "x": -0}', False)
    ]
    assert rows(engine, "select id::text, workflow, created_by from runs") == [
        (run_id, "fulfil", "local")
    ]


def test_a_start_may_wait(api: Api, engine: Engine) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    bodies: list[dict[str, Any]] = [
        {"delay_s": 3_600},
        {"start_at": tomorrow.isoformat()},
        {"start_at": "2000-01-01T00:00:00Z"},
    ]
    assert [api.start("report", body).status for body in bodies] == [202, 202, 202]
    sql = "select state, round(extract(epoch from due_at - now()) / 60) from runs order by due_at"

    assert rows(engine, sql) == [("queued", 0), ("waiting", 60), ("waiting", 24 * 60)]


def test_a_list_of_inputs_gets_an_item_each(api: Api, engine: Engine) -> None:
    inputs = [{"order": 1}, {"order": "x"}, {"order": 3}]
    answer = api.start("fulfil", {"inputs": inputs}, **{"idempotency-key": "k"})

    assert answer.status == 207
    items = answer.body["items"]
    assert [item["status"] for item in items] == [202, 400, 202]
    assert items[1]["index"] == 1
    assert items[1]["errors"] == [{"at": "/order", "message": "'x' is not of type 'integer'"}]
    assert [item["id"] for item in items if item["status"] == 202] == ["k/0", "k/2"]
    assert rows(engine, "select count(*) from runs") == [(2,)]
    assert api.start("fulfil", {"inputs": [{}, 5]}).status == 400


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (b"nope", "invalid-body"),
        (b'{"input": "\\ud800"}', "invalid-body"),
        (b'{"input": 1e400}', "invalid-body"),
        (b'{"input": ' + b"[" * 1_000 + b"]" * 1_000 + b"}", "invalid-body"),
        (b"[]", "invalid-body"),
        (b'{"input": {}}', "invalid-input"),
        (b"{}", "invalid-input"),
        (b'{"input": {"order": 1}, "inputs": []}', "invalid-request"),
        (b'{"input": {"order": 1}, "other": 1}', "invalid-body"),
        (b'{"input": {"order": 1}, "delay_s": -1}', "invalid-request"),
        (b'{"input": {"order": 1}, "delay_s": 1e300}', "invalid-request"),
        (b'{"input": {"order": 1}, "start_at": "soon"}', "invalid-request"),
        (b'{"input": {"order": 1}, "start_at": "0000-01-01T00:00:00Z"}', "invalid-request"),
        (
            b'{"input": {"order": 1}, "start_at": "2100-01-01T00:00:00Z", "delay_s": 1}',
            "invalid-request",
        ),
    ],
)
def test_what_cannot_be_started_is_a_400(api: Api, engine: Engine, body: bytes, slug: str) -> None:
    answer = api.start("fulfil", body)

    assert answer.status == 400
    assert answer.body["type"] == f"urn:veltrix:problem:{slug}"
    assert rows(engine, "select count(*) from events") == [(0,)]


class Order(msgspec.Struct):
    """What a workflow declares of its input."""

    id: UUID
    placed_at: datetime
    price: Decimal


def test_a_text_that_its_type_cannot_be_made_of_is_a_400_with_each_place(
    engine: Engine, api: Api
) -> None:
    async def take(event: Event[Order]) -> None:
        """A workflow."""

    subscribe(engine, subscription("take", input_schema=Codec(take).input_schema()))
    good = {"id": str(UUID(int=1)), "placed_at": "2026-01-31T12:00:00Z", "price": "1.10"}

    bad = api.start("take", {"input": {"id": "x", "placed_at": "notadate", "price": "abc"}})

    assert bad.status == 400
    assert {error["at"] for error in bad.body["errors"]} == {"/id", "/placed_at", "/price"}
    assert api.start("take", {"input": good}).status == 202
    assert api.start("take", {"input": good | {"price": 1.10}}).status == 202


def test_an_unknown_workflow_is_not_found(api: Api) -> None:
    assert api.start("nobody", {"input": 1}).status == 404


def test_an_input_over_its_limit_is_refused(api: Api) -> None:
    assert api.start("report", {"input": "x" * 1024 * 1024}).status == 413
    assert api.start("report", {"inputs": [1] * 1_001}).status == 413


def test_a_key_starts_once_and_replays_its_answer(api: Api, engine: Engine) -> None:
    key = {"idempotency-key": "till-4711"}
    first = api.start("fulfil", {"input": {"order": 1}}, **key)
    again = api.start("fulfil", {"input": {"order": 1}}, **key)
    other = api.start("fulfil", {"input": {"order": 2}}, **key)
    elsewhere = api.start("report", {"input": {"order": 1}}, **key)

    assert first.body["id"] == "till-4711"
    assert (again.status, again.text) == (202, first.text)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (other.status, elsewhere.status) == (422, 422)
    assert rows(engine, "select count(*) from runs") == [(1,)]


def test_a_refused_start_frees_its_key(api: Api) -> None:
    key = {"idempotency-key": "k"}

    assert api.start("fulfil", {"input": 1}, **key).status == 400
    assert api.start("fulfil", {"input": {"order": 1}}, **key).status == 202


def test_a_key_that_still_runs_is_a_409(api: Api, engine: Engine) -> None:
    key = {"idempotency-key": "k"}
    first = api.start("report", {"input": 1}, **key)
    with transaction(engine) as tx:
        tx.execute(text("update answers set status = null, body = null"))

    assert api.start("report", {"input": 1}, **key).status == 409
    with transaction(engine) as tx:
        tx.execute(text("update answers set asked_at = now() - interval '1 hour'"))
    abandoned = api.start("report", {"input": 1}, **key)
    assert abandoned.status == 202
    assert abandoned.body["event"] == first.body["event"]
    assert abandoned.body["duplicate"] is True


def test_of_many_equal_calls_at_once_one_starts(api: Api, engine: Engine) -> None:
    barrier = threading.Barrier(8)

    def call(_: int) -> int:
        barrier.wait()
        return api.start("report", {"input": 1}, **{"idempotency-key": "k"}).status

    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(call, range(8)))

    assert statuses <= {202, 409}
    assert 202 in statuses
    assert rows(engine, "select count(*) from runs") == [(1,)]


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9"])
def test_a_key_that_cannot_be_kept_is_refused(api: Api, key: str) -> None:
    assert api.start("report", {"input": 1}, **{"idempotency-key": key}).status == 400


def test_old_answers_can_be_forgotten(api: Api, engine: Engine) -> None:
    api.start("report", {"input": 1}, **{"idempotency-key": "k"})
    with transaction(engine) as tx:
        assert answers.forget(tx, 3_600) == 0
        tx.execute(text("update answers set asked_at = now() - interval '1 day'"))
        assert answers.forget(tx, 3_600) == 1


def test_workflows_are_listed_as_registered(api: Api, engine: Engine) -> None:
    listed = api.get("/v1/workflows").body["workflows"]

    assert [row["name"] for row in listed] == ["fulfil", "report"]
    assert listed[0]["types"] == ["shop.order.placed"]
    assert listed[0]["queue"] == "orders"
    assert listed[0]["code_version"] == "v1"
    assert listed[0]["input_schema"]["required"] == ["order"]
    assert listed[1]["input_schema"] is None


def test_a_schema_reaches_for_nothing_outside(api: Api, engine: Engine) -> None:
    remote = {"$ref": "http://127.0.0.1:1/schema.json"}
    subscribe(engine, subscription("remote", input_schema=remote))
    api.services.catalog._read_at = None

    assert api.start("remote", {"input": 1}).status == 202


def test_a_key_is_its_authors_and_its_calls(api_of: ApiOf, engine: Engine) -> None:
    """Two authors under one key, a list under `k` and starts under `k/0`: a run each."""
    subscribe(engine, subscription("report", queue="reports"))
    tokens = [f"{name}-0123456789abcdef0123456789abcdef" for name in ("one", "two")]
    with transaction(engine) as tx:
        for token in tokens:
            create(tx, token.partition("-")[0], ["events:write"], "tests", token)
    api = api_of(require_keys=True)

    def start(token: str, key: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {token}", "idempotency-key": key}
        return api.start("report", body, **headers)

    for token in tokens:
        for key, body in (
            ("k", {"inputs": [10, 20]}),
            ("k/0", {"input": 10}),
            ("k/1", {"input": 20}),
            ("k/1/", {"input": 20}),
            ("k/1", {"input": 20}),
            ("one:k/0", {"input": 10}),
        ):
            assert start(token, key, body).status == 202, (token, key)

    assert rows(engine, "select count(*) from runs") == [(12,)]
    assert start(tokens[0], "k/0", {"input": 11}).status == 422


def test_without_keys_a_key_with_a_colon_is_one_of_its_own(api: Api, engine: Engine) -> None:
    for key in ("local:k", "k", ":k", "local:k"):
        assert api.start("report", {"input": 1}, **{"idempotency-key": key}).status == 202

    assert rows(engine, "select count(*) from runs") == [(3,)]


def test_a_start_without_an_input_is_told_that_one_is_taken(api: Api) -> None:
    answer = api.start("fulfil", b"{}")

    assert answer.body["detail"] == "the workflow 'fulfil' takes an input: send it as `input`"
