"""API keys: no query per request, a revoke within two seconds, and no open server by accident."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.api.conftest import Api, ApiOf
from tests.api.test_events import event
from tests.support.wait import until
from veltrix.access import keys
from veltrix.domain.local_names import is_loopback
from veltrix.processes.api import StartRefused, make_ring
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine, transaction

WRITER, READER, ADMIN = "w" * 43, "r" * 43, "a" * 43


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def guarded(engine: Engine, api_of: ApiOf) -> Api:
    with transaction(engine) as tx:
        keys.create(tx, "till", ["events:write"], "anna", WRITER)
        keys.create(tx, "viewer", ["runs:read"], "anna", READER)
        keys.create(tx, "root", ["admin"], "anna", ADMIN)
    return api_of(require_keys=True)


def test_a_request_without_a_valid_key_is_refused(guarded: Api) -> None:
    for headers in ({}, bearer("x" * 43), bearer("\xe9" * 43), {"authorization": "Basic eDp5"}):
        answer = guarded.post_event(event(), **headers)

        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.body["type"] == "urn:veltrix:problem:unauthorized"
        assert guarded.get("/v1/workflows", **headers).status == 401


def test_a_key_may_do_what_its_scopes_say(guarded: Api) -> None:
    calls: list[Callable[[str], int]] = [
        lambda token: guarded.post_event(event(), **bearer(token)).status,
        lambda token: guarded.start("nobody", {}, **bearer(token)).status,
        lambda token: guarded.get("/v1/workflows", **bearer(token)).status,
        lambda token: guarded.get("/v1/events?source=x&id=y", **bearer(token)).status,
    ]

    assert [call(WRITER) for call in calls] == [202, 404, 403, 403]
    assert [call(READER) for call in calls] == [403, 403, 200, 404]
    assert [call(ADMIN) for call in calls] == [202, 404, 200, 404]


def test_health_and_documentation_need_no_key(guarded: Api) -> None:
    until(lambda: guarded.get("/readyz").status == 200, what="the writer's connection")
    for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
        assert guarded.get(path).status == 200, path


def test_a_revoked_key_is_refused_within_two_seconds(guarded: Api, engine: Engine) -> None:
    assert guarded.post_event(event(), **bearer(WRITER)).status == 202
    with transaction(engine) as tx:
        assert keys.revoke(tx, "till")

    until(
        lambda: guarded.post_event(event(), **bearer(WRITER)).status == 401,
        deadline_s=10,
        what="the key to be refused",
    )


def test_a_new_key_is_taken_within_two_seconds(guarded: Api, engine: Engine) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "new", ["events:write"], "anna", "n" * 43)

    until(
        lambda: guarded.post_event(event(), **bearer("n" * 43)).status == 202,
        deadline_s=10,
        what="the key to be taken",
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.9.1", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")],  # noqa: S104
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def ring_of(engine: Engine, settings: Settings) -> int:
    return make_ring(settings, engine).refresh_once()


def test_a_server_others_can_reach_starts_with_a_key_only(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    given = {"database_url": database_url, "api_host": "0.0.0.0"}  # noqa: S104
    with pytest.raises(StartRefused, match="no API key"):
        ring_of(engine, Settings(**given))
    with pytest.raises(StartRefused, match="cannot be read"):
        ring_of(engine, Settings(**given, admin_key_file=file))
    file.write_text("short\n")
    with pytest.raises(StartRefused, match=re.escape(str(file))):
        ring_of(engine, Settings(**given, admin_key_file=file))
    file.write_text(ADMIN + "\n")

    assert ring_of(engine, Settings(**given, admin_key_file=file)) == 1
    assert ring_of(engine, Settings(**given)) == 1
    assert make_ring(Settings(**given), engine).author_of(f"Bearer {ADMIN}").name == "admin"


def test_a_server_others_can_reach_does_not_start_while_keys_cannot_be_read() -> None:
    away = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    settings = Settings(database_url=away, api_host="0.0.0.0")  # noqa: S104
    with pytest.raises(StartRefused, match="database"):
        make_ring(settings, make_engine(away, application="tests"))
