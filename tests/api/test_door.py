"""One rule says who comes in, for every path there is and every one that is to come."""

import re
from collections.abc import Iterable, Iterator
from time import process_time

import pytest
from sqlalchemy import Engine
from starlette.routing import BaseRoute, Mount, Route

from tests.api.conftest import Api, ApiOf
from veltrix.access import keys
from veltrix.api.connection import HEADERS_MAX
from veltrix.api.door import PARAMETERS_MAX
from veltrix.api.looks import Looks
from veltrix.console.rendering import BASE
from veltrix.store.transactions import make_engine, transaction

SCRAPER, ADMIN = "m" * 43, "a" * 43
OPEN = {"/livez", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json"}


def calls(api: Api) -> Iterator[tuple[str, str]]:
    """A method and a path for every route, and for what is no route."""
    yield from [
        ("GET", "/nothing"),
        ("POST", "/v1/nothing"),
        ("GET", "/livez/"),
        ("GET", "//livez"),
    ]
    for route in flat(api.app.routes):
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/x"
            continue
        assert isinstance(route, Route), route
        path = re.sub(r"{[^}]*}", "x", route.path)
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, path


def flat(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, and in place of a router that was included its own."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else flat(included.routes)


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith(("/static-offline-docs/", f"{BASE}/"))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_with_keys_nothing_is_answered_without_one_but_what_tells_nothing(
    engine: Engine, api_of: ApiOf
) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "scraper", ["metrics:read"], "tests", SCRAPER)
    api = api_of(require_keys=True)
    asked = list(calls(api))
    assert len(asked) > 35

    for method, path in asked:
        for headers in ({}, bearer("x" * 43)):
            status = api.request(method, path, headers=headers).status
            assert (status == 401) != is_open(path), (method, path, status)
        if path.startswith("/v1/") and "nothing" not in path:
            status = api.request(method, path, headers=bearer(SCRAPER)).status
            assert status == 403, (method, path, "asks for no scope")
    assert api.get("/metrics", **bearer(SCRAPER)).status == 200


def test_without_keys_no_other_name_nor_what_was_forwarded_is_answered(api: Api) -> None:
    for method, path in calls(api):
        for headers in (
            {"Host": "rebound.example"},
            {"X-Forwarded-For": "203.0.113.9"},
            {"x-real-ip": "203.0.113.9"},
        ):
            assert api.request(method, path, headers=headers).status == 403, (method, path)
        page = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
        status = api.request(method, path, headers=page).status
        assert (status == 403) != is_open(path), (method, path)
    assert api.request("OPTIONS", "/v1/events", headers={"Host": "rebound.example"}).status == 403


@pytest.mark.parametrize(
    "host",
    ["[::1", "a/b", "evil@127.0.0.1", "127.0.0.1/x", "a b", "a:b", "[zz]", "[%]:80", "[1.2.3.4]"],
)
def test_what_is_no_host_is_answered_by_nothing(engine: Engine, api_of: ApiOf, host: str) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "till", ["events:write"], "tests", "t" * 43)
    guarded, local = api_of(require_keys=True), api_of()

    assert guarded.get("/v1/runs", Host=host, **bearer("t" * 43)).status == 400
    assert local.get("/v1/runs", Host=host).status == 403


@pytest.mark.parametrize("path", ["/livez", "/v1/runs", f"{BASE}/", f"{BASE}/sign-in"])
def test_no_cookie_takes_longer_to_read_than_it_is(api_of: ApiOf, path: str) -> None:
    """Undoing the quotes of one took seconds, in which an api answered nobody; without a key."""
    api = api_of(require_keys=True)
    began = process_time()

    api.get(path, Cookie=f'a="{chr(92) * 60_000}"; veltrix_session="{chr(92) * 2_000}"')

    assert process_time() - began < 1.0


def test_no_head_is_taken_apart_into_thousands(api_of: ApiOf) -> None:
    """A query of 32,000 parameters took an api 25 ms, of anybody and of /livez too."""
    api = api_of(require_keys=True)

    for path in ("/livez", f"{BASE}/sign-in", "/v1/runs"):
        assert api.get(f"{path}?{'&'.join(['a=1'] * (PARAMETERS_MAX + 1))}").status == 400
        assert api.get(f"{path}?{'&'.join(['a=1'] * PARAMETERS_MAX)}").status != 400
    many = {f"x-{number}": "1" for number in range(HEADERS_MAX)}
    assert api.get("/livez", **many).status == 400
    few = dict(list(many.items())[: HEADERS_MAX - 10])
    assert api.get("/livez", **few).status == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/metrics", "/v1/runs", "/nothing"])
def test_no_answer_is_shown_in_a_frame_or_taken_for_something_else(api: Api, path: str) -> None:
    headers = api.get(path).headers

    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"


def test_metrics_are_for_a_scope_or_an_address(engine: Engine, api_of: ApiOf) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "root", ["admin"], "tests", ADMIN)
        keys.create(tx, "till", ["events:write"], "tests", "t" * 43)
    closed = api_of(require_keys=True, metrics_addresses="10.0.0.0/8")
    named = api_of(require_keys=True, metrics_addresses="::1, 127.0.0.0/8")

    assert closed.get("/metrics").status == 401
    assert closed.get("/metrics", **bearer("t" * 43)).status == 403
    assert closed.get("/metrics", **bearer(ADMIN)).status == 200
    assert named.get("/metrics").status == 200
    assert named.get("/v1/runs").status == 401, "and nothing else"
    for header in ("X-Forwarded-For", "Via", "X-Forwarded-Port"):
        assert named.get("/metrics", **{header: "127.0.0.1"}).status == 401


def test_readiness_tells_no_stranger_why_the_database_is_away(api_of: ApiOf) -> None:
    away = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    told = {}
    for is_guarded in (False, True):
        api = api_of(require_keys=is_guarded)
        api.app.state.looks.close()
        api.app.state.looks = Looks(make_engine(away, application="tests"))
        answer = api.get("/readyz")
        told[is_guarded] = (answer.status, "error" in answer.body["checks"])

    assert told == {False: (503, True), True: (503, False)}
