"""A key does what it is bound to, as often as it may, and until it ends: over every way in."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.api.conftest import Api, ApiOf
from tests.api.test_connection import BINARY, Line, head
from tests.api.test_replays import failed
from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.due_runs import add_runs
from tests.support.settled import settle
from tests.support.wait import until
from veltrix.access import keys, sessions
from veltrix.access.key_limits import KeyLimits
from veltrix.access.keys import KeyRefused
from veltrix.store.transactions import make_engine, transaction
from veltrix.web.auth import Author, KeyRing
from veltrix.web.problems import Problem
from veltrix.web.throttle import Throttle

BOUND, FREE = "b" * 43, "f" * 43
WHY = {"reason": "a test"}
GROUP = "0123456789abcdef"


def made(engine: Engine, limits: KeyLimits | None, token: str = BOUND, **given: Any) -> None:
    with transaction(engine) as tx:
        keys.create(tx, token[:4], ["admin"], "tests", token, limits, **given)


def by(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def event(source: str = "/shop/eu", type_: str = PLACED, id_: str = "1") -> dict[str, Any]:
    return {"specversion": "1.0", "id": id_, "source": source, "type": type_}


def refusals(engine: Engine) -> list[str]:
    with transaction(engine) as tx:
        found = tx.execute(text("select author from audit where is_refused order by id"))
        return [row.author for row in found]


def test_only_the_doctors_key_sends_canaries(engine: Engine, api_of: ApiOf) -> None:
    made(engine, None, FREE)
    with transaction(engine) as tx:
        keys.put_doctor(tx, "d" * 43)
    api = api_of(require_keys=True)
    canary = event("/veltrix/canary", type_="veltrix.canary.orders", id_="c")

    assert api.post_event(canary, **by(FREE)).status == 403
    both = api.post_batch([canary, event("/bank", id_="9")], **by(FREE))
    assert [item["status"] for item in both.body["items"]] == [403, 202]
    assert api.post_event(canary, **by("d" * 43)).status == 202
    assert api.post_event(event(), **by("d" * 43)).status == 403


def test_no_key_sends_events_of_anothers_sources_or_types(engine: Engine, api_of: ApiOf) -> None:
    made(engine, KeyLimits(sources=("/shop/*", "/till"), types=("shop.*",)))
    made(engine, None, FREE)
    api = api_of(require_keys=True)

    assert api.post_event(event(), **by(BOUND)).status == 202
    other = api.post_event(event("/bank"), **by(BOUND))
    assert (other.status, other.body["type"]) == (403, "urn:veltrix:problem:event-forbidden")
    assert "'/shop/*' or '/till'" in other.body["detail"]
    assert api.post_event(event(type_="bank.paid"), **by(BOUND)).status == 403
    assert api.post_event(event("/bank"), **by(FREE)).status == 202, "whose it is may"

    mixed = [event(id_="2"), event("/bank", id_="3"), {"id": "4"}, event("/till", id_="5")]
    batch = api.post_batch(mixed, **by(BOUND))
    assert batch.status == 207
    assert [item["status"] for item in batch.body["items"]] == [202, 403, 400, 202]
    assert batch.body["items"][1] | {"detail": ""} == {
        "type": "urn:veltrix:problem:event-forbidden",
        "title": "Forbidden",
        "status": 403,
        "detail": "",
        "index": 1,
        "id": "3",
        "source": "/bank",
    }
    assert api.start("fulfil", {}, **by(BOUND)).status == 403, "it is bound to no workflow"

    assert refusals(engine) == ["bbbb"] * 4
    counted = "select coalesce(sum(refused), 0)::int from counter_deltas"
    with transaction(engine) as tx:
        there = tx.exec_driver_sql("select count(*) from events").scalar_one()
    assert there == 4
    until(lambda: _number(engine, counted) == 4, what="the books' count of refusals")


def _number(engine: Engine, statement: str) -> Any:
    with transaction(engine) as tx:
        return tx.exec_driver_sql(statement).scalar_one()


def test_a_key_acts_on_its_own_workflows_only(engine: Engine, api_of: ApiOf) -> None:
    subscribe(engine, subscription("fulfil", PLACED), subscription("report", queue="reports"))
    made(engine, KeyLimits(workflows=("report*",)))
    (other,) = failed(engine, 1)
    own, opened = add_runs(engine, 2, workflow="report", queue="reports")
    settle(engine, [own], "failed", reason="error", fingerprint=GROUP)
    api = api_of(require_keys=True)

    def post(path: str, body: Any, **headers: str) -> int:
        return api.request("POST", path, body, by(BOUND) | headers).status

    plan = {"filter": {"workflow": "fulfil"}, **WHY}
    every = api.request("POST", "/v1/replays", {"ids": [own], **WHY}, by(BOUND))
    assert every.status == 201
    with transaction(engine) as tx:
        keys.create(tx, "free", ["admin"], "tests", FREE)
    until(lambda: api.get("/v1/runs", **by(FREE)).status == 200, what="the other key")
    theirs = api.request("POST", "/v1/replays", plan, by(FREE)).body["id"]
    group = api.get(f"/v1/runs/{other}", **by(BOUND)).body["fingerprint"]  # reading is not bound

    refused = [
        ("/v1/workflows/fulfil/runs", {}),
        (f"/v1/runs/{other}/replay", {"from": "beginning", **WHY}),
        (f"/v1/runs/{other}/cancel", WHY),
        (f"/v1/runs/{other}/edit", {"data": {}, **WHY}),
        ("/v1/runs/archive", {"ids": [own, other], **WHY}),
        ("/v1/runs/archive", {"all": True, **WHY}),
        ("/v1/runs/archive", {"filter": {"fingerprint": group}, **WHY}),
        ("/v1/runs/cancel", {"filter": {"queue": "reports"}, **WHY}),
        ("/v1/replays", plan),
        ("/v1/replays", {"group": group, **WHY}),
        ("/v1/replays", {"ids": [other], **WHY}),
        (f"/v1/replays/{theirs}/start", WHY),
        (f"/v1/failures/{group}/ignore", WHY),
        (f"/v1/failures/{group}/notes", {"text": "x"}),
        ("/v1/events", event()),
    ]
    kind = {"If-Match": "*", "content-type": "application/cloudevents+json"}
    assert [(path, post(path, body, **kind)) for path, body in refused] == [
        (path, 403) for path, _ in refused
    ]
    assert set(refusals(engine)) == {"bbbb"}
    assert post("/v1/workflows/report/runs", {}) == 202
    assert post(f"/v1/runs/{opened}/cancel", WHY) == 200
    assert post(f"/v1/replays/{every.body['id']}/abort", WHY) == 200
    assert post("/v1/runs/archive", {"filter": {"workflow": "report"}, **WHY}) == 200
    assert post("/v1/runs/cancel", {"ids": ["01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"], **WHY}) == 404


def test_a_rate_counts_calls_and_what_is_in_lists(engine: Engine, api_of: ApiOf) -> None:
    subscribe(engine, subscription("report", queue="reports"))
    made(engine, KeyLimits(rate=0.01, burst=10))
    made(engine, None, FREE)
    api = api_of(require_keys=True)
    events = [event(id_=str(number)) for number in range(11)]

    long = api.post_batch(events, **by(BOUND))  # one call
    assert (long.status, "at most 10" in long.body["detail"]) == (413, True)
    assert api.post_batch(events[:5], **by(BOUND)).status == 202  # five
    late = api.post_batch(events[5:10], **by(BOUND))  # one, and four that are not there
    assert (late.status, late.headers["retry-after"]) == (429, "200")  # until five are there
    assert api.start("report", {"inputs": [1, 2]}, **by(BOUND)).status == 202  # two
    assert api.get("/v1/runs", **by(BOUND)).status == 200  # the last
    spent = api.get("/v1/runs", **by(BOUND))
    assert (spent.status, spent.headers["retry-after"]) == (429, "100")
    assert api.post_event(event(), **by(BOUND)).status == 429
    assert api.get("/v1/runs", **by(FREE)).status == 200
    assert api.get("/readyz").status in {200, 503}
    assert _number(engine, "select count(*) from events") == 7


@pytest.mark.parametrize(("rate", "length"), [(1, 10), (0.001, 7), (3.7, 10), (1_000, 10)])
def test_who_waits_as_long_as_told_gets_a_list_through(rate: float, length: int) -> None:
    """Each try took the call that the wait before had brought: a slow key's list never came in."""
    now = 0.0
    throttle = Throttle(8, lambda: now)
    author = Author("slow", frozenset(), KeyLimits(rate=rate, burst=10))

    def tries() -> int:
        nonlocal now
        for number in range(1, 10):
            try:
                throttle.enter(author)
                throttle.leave(author)
                throttle.charge_list(author, length)
            except Problem as refused:
                now += int(refused.headers["Retry-After"])
            else:
                return number
        return 10

    assert [tries() for _ in range(3)] <= [1, 3, 3]


def test_a_body_is_as_large_as_its_key_may_send(engine: Engine, api_of: ApiOf) -> None:
    made(engine, KeyLimits(body_bytes_max=200))
    made(engine, None, FREE)
    api = api_of(require_keys=True)
    large = event() | {"data": "x" * 200}

    assert api.post_event(event(), **by(BOUND)).status == 202
    assert api.post_event(large, **by(BOUND)).status == 413
    assert api.start("report", {"input": "x" * 200}, **by(BOUND)).status == 413
    assert api.request("POST", "/v1/runs/cancel", {"reason": "x" * 200}, by(BOUND)).status == 413
    assert api.post_event(large | {"id": "2"}, **by(FREE)).status == 202


def test_so_many_calls_of_a_key_at_once_and_waiting_is_none(engine: Engine, api_of: ApiOf) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    made(engine, None)
    made(engine, None, FREE)
    (run,) = add_runs(engine, 1)
    api = api_of(require_keys=True, api_key_requests_max=2)
    lines = [Line(api) for _ in range(3)]
    try:
        for number, one in enumerate(lines[:2]):
            told = {"ce-id": str(number), "Content-Length": "9", "Authorization": f"Bearer {BOUND}"}
            one.send(head("/v1/events", BINARY | told) + b"12345678")
        refused = until(lambda: _refused(api), what="both to be there")
        assert refused.headers["retry-after"] == "1"
        assert api.get("/v1/runs", **by(FREE)).status == 200
        for one in lines[:2]:
            one.send(b"9")
            assert one.answer()[0] == 202
        waits = {"Authorization": f"Bearer {BOUND}"}
        for number, one in enumerate(lines, 1):
            one.send(head(f"/v1/runs/{run}?wait_s=20", waits, "GET"))
            until(partial(_are_waiting, api, number), what="one more to wait")
        assert api.get("/v1/runs", **by(BOUND)).status == 200
        settle(engine, [run], "succeeded")
        assert [one.answer()[0] for one in lines] == [200] * 3
    finally:
        for one in lines:
            one.socket.close()
    assert api.app.state.throttle._calls == {"bbbb": 0, "ffff": 0}


def _refused(api: Api) -> Any:
    answer = api.get("/v1/runs", **by(BOUND))
    return answer if answer.status == 429 else None


def _are_waiting(api: Api, requests: int) -> bool:
    return bool(getattr(getattr(api.app.state, "outcomes", None), "_requests", 0) == requests)


def soon(engine: Engine, left_s: float) -> datetime:
    now: datetime = _number(engine, "select now()")
    return now + timedelta(seconds=left_s)


def test_a_key_ends_to_the_moment_and_so_do_its_sessions(
    engine: Engine, api_of: ApiOf, database_url: str
) -> None:
    made(engine, None, expires_at=soon(engine, 4.0))
    made(engine, None, FREE, expires_at=soon(engine, 3600))
    with transaction(engine) as tx:
        opened = sessions.make(tx, BOUND, "cookie", "csrf", 3600)
    assert opened is not None
    assert opened.expires_at <= datetime.now(UTC) + timedelta(seconds=60)
    api = api_of(require_keys=True)
    away = make_engine(database_url, application="ring")
    ring = KeyRing(away, is_required=True)
    assert ring.refresh_once() == 2
    assert api.get("/v1/runs", **by(BOUND)).status == 200

    until(lambda: api.get("/v1/runs", **by(BOUND)).status == 401, what="its end")
    ended = api.get("/v1/runs", **by(BOUND))
    assert "'bbbb' expired at 20" in ended.body["detail"]
    with pytest.raises(Problem, match="expired"):  # though it has read nothing since
        ring.author_of(f"Bearer {BOUND}")
    assert api.get("/v1/runs", **by(FREE)).status == 200
    assert ring.refresh_once() == 1
    with transaction(engine) as tx:
        assert sessions.find(tx, "cookie") is None
        assert sessions.make(tx, BOUND, "other", "csrf", 3600) is None
        with pytest.raises(KeyRefused, match="later than now"):
            keys.create(tx, "late", ["admin"], "tests", "l" * 43, None, soon(engine, -1))
    away.dispose()
