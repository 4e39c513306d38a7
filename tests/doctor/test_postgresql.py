"""Each rule of PostgreSQL sees its fault on a real server, and is silent without it.

On recorded facts: a clock that differs (another test of the run sets clocks wrong with faketime;
here the machine's own is given), rows that are dead by the hundred thousand.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from tests.doctor.conftest import held_against, unaccepted
from tests.support.pooler import pgbouncer
from tests.support.roles import make_roles
from tests.support.services import Services
from tests.support.wait import until
from veltrix.dev.servers.ports import free_port
from veltrix.dev.servers.postgres import Postgres
from veltrix.doctor.examine import Examination, Reader, examine
from veltrix.doctor.facts import postgres as facts_of
from veltrix.doctor.facts.postgres import (
    LiveDatabase,
    LongTransaction,
    ServerSetting,
    StoredSize,
    TableState,
    look_at_database,
    read_database,
)
from veltrix.doctor.facts.session import RENEWED_S, LookingSession
from veltrix.doctor.rules import history, postgresql
from veltrix.operations.history.days import make_ahead_once
from veltrix.settings.fields import Settings
from veltrix.store.schema import downgrade, head, upgrade
from veltrix.store.transactions import make_engine

Look = Callable[..., Examination]
# Of the run's server, which is started without fsync.
OF_TESTS = {"fsync = off", "full_page_writes = off"}


def look_at(url: str, unix_s: Callable[[], float] | None = None) -> Examination:
    settings = Settings.model_validate({"database_url": url})
    given = {} if unix_s is None else {"unix_s": unix_s}
    readers: dict[type, Reader] = {LiveDatabase: lambda: read_database(settings, **given)}
    return held_against(postgresql.rules, readers)


def found_of(found: Examination, id_: str) -> list[str]:
    return [one.found for one in found.findings if one.id == id_ and one.found not in OF_TESTS]


def plain(url: str) -> psycopg.Connection[Any]:
    """A connection that sets nothing of ours."""
    text = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(text, autocommit=True)


def run_sql(url: str, statement: sql.SQL | sql.Composed) -> None:
    with plain(url) as connection:
        connection.execute(statement)


def said(text: str, **names: str) -> sql.Composed:
    parts = {key: sql.Identifier(value) for key, value in names.items()}
    return sql.SQL(text).format(**parts)


def test_a_durable_server_with_our_schema_has_no_fault(own_postgres: Postgres) -> None:
    url = own_postgres.create_database("shop")
    upgrade(url)

    assert look_at(url).findings == []


def test_a_server_without_fsync_is_seen(database_url: str) -> None:
    found = look_at(database_url)

    assert {one.found for one in found.findings} == OF_TESTS
    assert {one.origin for one in found.findings} == {"command line"}
    assert {one.severity.value for one in found.findings} == {"loss"}
    assert "ALTER SYSTEM SET fsync = on;" in {one.cure for one in found.findings}


def test_a_role_and_a_database_that_commit_unsafely_are_seen(database_url: str) -> None:
    app = make_roles(database_url).app
    name, database = make_url(app).username or "", make_url(app).database or ""
    assert found_of(look_at(app), "D08") == []

    run_sql(database_url, said("alter role {r} set synchronous_commit = off", r=name))
    run_sql(database_url, said("alter database {d} set synchronous_commit = local", d=database))

    found = [one for one in look_at(app).findings if one.found not in OF_TESTS]
    assert {(one.found, one.origin) for one in found} == {
        ("synchronous_commit=off", f"set for role {name}"),
        ("synchronous_commit=local", f"set for database {database}"),
    }
    assert f"ALTER role {name} RESET synchronous_commit;" in {one.cure for one in found}


def test_the_cure_of_a_role_that_commits_unsafely_cures(database_url: str) -> None:
    app = make_roles(database_url).app
    name = make_url(app).username or ""
    run_sql(database_url, said("alter role {r} set synchronous_commit = off", r=name))
    (one,) = (one for one in look_at(app).findings if one.found not in OF_TESTS)

    run_sql(database_url, sql.SQL(one.cure))

    assert found_of(look_at(app), "D08") == []


def test_an_unlogged_table_is_seen(database_url: str) -> None:
    run_sql(database_url, said("alter table runs_open set unlogged"))

    assert found_of(look_at(database_url), "D08") == ["table 'runs_open' is unlogged"]


def test_a_pooler_by_transaction_is_seen_and_one_by_session_is_not(database_url: str) -> None:
    with pgbouncer(database_url, "session") as url:
        assert "D18" not in unaccepted(look_at(url))
    with pgbouncer(database_url, "transaction") as url:
        settings = Settings.model_validate({"database_url": url})
        readers: dict[type, Reader] = {LiveDatabase: lambda: read_database(settings)}
        found = examine(postgresql.rules, readers)

    assert unaccepted(found) == {"D18"}
    assert {one.reason for one in found.not_checked} == {
        "a pooler that pools by transaction is between; see D18"
    }


def test_read_only_sessions_are_seen(database_url: str) -> None:
    database = make_url(database_url).database or ""
    assert "D19" not in unaccepted(look_at(database_url))

    statement = "alter database {d} set default_transaction_read_only = on"
    run_sql(database_url, said(statement, d=database))

    assert found_of(look_at(database_url), "D19") == ["sessions are read-only"]


def test_who_keeps_a_session_sees_what_new_ones_get(database_url: str) -> None:
    database = make_url(database_url).database or ""
    now = [0.0]
    with closing(
        LookingSession(Settings.model_validate({"database_url": database_url}), lambda: now[0])
    ) as session:

        def found() -> list[str]:
            readers: dict[type, Reader] = {LiveDatabase: lambda: look_at_database(session)}
            return found_of(held_against(postgresql.rules, readers), "D19")

        assert found() == []
        statement = "alter database {d} set default_transaction_read_only = on"
        run_sql(database_url, said(statement, d=database))
        assert found() == ["new sessions are read-only: default_transaction_read_only=on"]
        now[0] += RENEWED_S + 1
        assert found() == ["sessions are read-only"], "it is a new one itself"


def test_a_stand_by_is_seen_and_that_nobody_waits_for_it(
    own_postgres: Postgres, services: Services
) -> None:
    url = own_postgres.create_database("shop")
    upgrade(url)
    standby = Postgres(services.folder("standby"), copied_from=own_postgres)
    standby.start()
    try:
        assert found_of(look_at(standby.url_of("shop")), "D19") == ["the server is a stand-by"]
        until(lambda: "D25" in unaccepted(look_at(url)))  # it follows soon after it answers
        found = [one for one in look_at(url).findings if one.id == "D25"]
        assert [one.severity.value for one in found] == ["loss"]

        for statement in found[0].cure.split(";")[:-1]:
            run_sql(url, sql.SQL(statement))

        until(lambda: "D25" not in unaccepted(look_at(url)))  # processes read the setting soon
    finally:
        standby.stop()


def test_a_role_with_few_sessions_is_seen(database_url: str) -> None:
    app = make_roles(database_url).app
    assert "D20" not in unaccepted(look_at(app))

    name = make_url(app).username or ""
    run_sql(database_url, said("alter role {r} connection limit 9", r=name))

    assert found_of(look_at(app), "D20") == ["1 of 9 sessions of the role are in use"]


def test_a_database_with_few_sessions_is_seen(database_url: str) -> None:
    app = make_roles(database_url).app
    assert "D20" not in unaccepted(look_at(app))

    name = make_url(database_url).database or ""
    run_sql(database_url, said("alter database {d} connection limit 9", d=name))

    found = [one for one in look_at(app).findings if one.id == "D20"]
    assert "sessions of the database" in found[0].found


def test_a_schema_behind_this_code_is_seen(database_url: str, empty_url: str) -> None:
    assert "D21" not in unaccepted(look_at(database_url))
    assert found_of(look_at(empty_url), "D21") == ["the schema is at nothing"]

    downgrade(database_url, "-1")

    (found,) = found_of(look_at(database_url), "D21")
    assert found.startswith("the schema is at 0")


@contextmanager
def idle_in_transaction(engine: Engine) -> Iterator[int]:
    with engine.connect() as connection:
        yield int(connection.exec_driver_sql("select pg_backend_pid()").scalar_one())


def test_a_long_transaction_is_seen(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idle_in_transaction(engine) as pid:
        assert "D23" not in unaccepted(look_at(database_url))

        monkeypatch.setattr(facts_of, "LONG_TRANSACTION_S", 0.0)

        (found,) = found_of(look_at(database_url), "D23")
    assert found.startswith(f"session {pid} of postgres (tests) has been idle in transaction")


def test_a_table_without_autovacuum_is_seen(database_url: str) -> None:
    assert "D24" not in unaccepted(look_at(database_url))

    run_sql(database_url, said("alter table runs_open set (autovacuum_enabled = off)"))

    off = "autovacuum_enabled of table 'runs_open' is off"
    assert found_of(look_at(database_url), "D24") == [off]


def days_of(url: str) -> list[str]:
    """What the rule of days says."""
    settings = Settings.model_validate({"database_url": url})
    readers: dict[type, Reader] = {LiveDatabase: lambda: read_database(settings)}
    return found_of(held_against(history.rules, readers), "D30")


def test_a_day_that_was_not_made_is_seen(database_url: str) -> None:
    assert days_of(database_url) == ["2 days are there from today on"]
    engine = make_engine(database_url, application="tests")

    make_ahead_once(engine)
    assert days_of(database_url) == []

    late = (
        "insert into journal (run_id, generation, position, kind, name, attempts)"
        " values ('ffffffff-0000-7000-8000-000000000000', 0, '1', 'step', 's', 1)"
    )
    run_sql(database_url, said(late))
    assert days_of(database_url) == ["table 'journal' has rows of days that it does not have"]


def test_a_split_that_was_never_finished_is_seen(database_url: str) -> None:
    downgrade(database_url, "0016")
    upgrade(database_url, head())
    check = "alter table events add constraint events_before check (id is not null)"
    run_sql(database_url, said(check))

    assert days_of(database_url) == [
        "the split of table 'events' was not finished, and soon it refuses all rows"
    ]


def counted(url: str, column: str) -> int:
    """What statistics say of the table of counts; a session tells them when it ends, or later."""
    with plain(url) as connection:
        (found,) = connection.execute(
            said("select {c} from pg_stat_user_tables where relname = 'counter_deltas'", c=column)
        ).fetchone() or (0,)
    return int(found)


@pytest.fixture
def swollen(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its table of counts was large once: a row is left here and there, and the rest is vacuumed.

    What is large is smaller here than on a server that works.
    """
    monkeypatch.setattr(postgresql, "BLOAT_BYTES_MIN", 200_000)
    run_sql(
        database_url,
        said(
            "insert into counter_deltas (account_id, minute)"
            " select 1, n from generate_series(1, 20000) n"
        ),
    )
    until(lambda: counted(database_url, "n_tup_ins") == 20_000)
    run_sql(database_url, said("vacuum analyze counter_deltas"))
    assert found_of(look_at(database_url), "D24") == []
    run_sql(database_url, said("delete from counter_deltas where minute % 500 <> 0"))
    until(lambda: counted(database_url, "n_tup_del") == 19_960)
    run_sql(database_url, said("vacuum analyze counter_deltas"))
    return database_url


def test_a_table_and_an_index_that_are_far_too_large_are_seen(swollen: str) -> None:
    (table, index) = (one for one in look_at(swollen).findings if one.id == "D24")

    assert re.fullmatch(
        r"table 'counter_deltas' has \d MiB for 40 rows, and 0 MiB would do", table.found
    )
    assert index.found.startswith("index 'counter_deltas_pkey' of table 'counter_deltas' has ")
    assert table.severity.value == index.severity.value == "slow"


def test_the_cures_of_what_is_too_large_cure(swollen: str) -> None:
    for one in look_at(swollen).findings:
        if one.id == "D24":
            run_sql(swollen, sql.SQL(one.cure))

    assert found_of(look_at(swollen), "D24") == []


@pytest.mark.parametrize(("mib", "is_seen"), [(200, False), (900, False), (2_000, True)])
def test_recorded_sizes_of_a_table(mib: int, is_seen: bool) -> None:
    """A million and a half of runs."""
    size = StoredSize("runs", None, mib * 1024**2, 1_500_000, 300.0)

    assert ("D24" in recorded(sizes=[size])) is is_seen


def test_a_size_without_statistics_is_seen_where_no_row_is_so_wide() -> None:
    size = StoredSize("runs", None, 4 * 1024**3, 1_500_000, 0.0)

    assert "D24" not in recorded(sizes=[size])
    assert "D24" in recorded(sizes=[msgspec.structs.replace(size, rows=100_000)])


def test_clocks_that_differ_are_seen(database_url: str) -> None:
    now_s = datetime.now(UTC).timestamp()

    assert found_of(look_at(database_url, lambda: now_s), "D22") == []
    (found,) = found_of(look_at(database_url, lambda: now_s - 60), "D22")
    assert found.endswith("ahead of this machine")
    assert found.startswith("the database is 60.")


def recorded(**changes: Any) -> set[str]:
    facts = LiveDatabase(**changes)
    return unaccepted(examine(postgresql.rules, {LiveDatabase: lambda: facts}))


@pytest.mark.parametrize(("dead", "is_seen"), [(1_000, False), (900_000, True)])
def test_recorded_dead_rows(dead: int, is_seen: bool) -> None:
    table = TableState("runs", "p", "r", 500_000, dead, None, "true")

    assert ("D24" in recorded(tables={"runs": table})) is is_seen


@pytest.mark.parametrize(("used", "is_seen"), [(100, False), (195, True)])
def test_recorded_sessions_of_a_full_server(used: int, is_seen: bool) -> None:
    most = ServerSetting("max_connections", "200", "configuration file", "", False)

    assert ("D20" in recorded(used=used, settings={"max_connections": most})) is is_seen


def test_a_session_that_is_not_ours_would_be_seen() -> None:
    """Ours are asked at each connect, so no server shows it."""
    off = ServerSetting("synchronous_commit", "off", "session", "", False)

    assert "D08" in recorded(settings={"synchronous_commit": off})


def test_recorded_autovacuum_that_is_off() -> None:
    off = ServerSetting("autovacuum", "off", "configuration file", "", False)

    assert "D24" in recorded(settings={"autovacuum": off})
    assert "D23" in recorded(transactions=[LongTransaction(7, "", "shop", "active", 400.0)])


def test_a_database_that_is_away_is_one_sentence_without_its_password() -> None:
    url = f"postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/x"
    settings = Settings.model_validate({"database_url": url})
    found = examine(postgresql.rules, {LiveDatabase: lambda: read_database(settings)})

    (told,) = {one.reason for one in found.not_checked}
    assert "cannot be asked" in told
    assert "`veltrix config`" in told
    assert "secret" not in told


def test_a_password_that_is_wrong_is_one_sentence(database_url: str) -> None:
    url = make_url(database_url).set(password="secret").render_as_string(hide_password=False)
    settings = Settings.model_validate({"database_url": url})
    found = examine(postgresql.rules, {LiveDatabase: lambda: read_database(settings)})

    (told,) = {one.reason for one in found.not_checked}
    assert "password authentication failed" in told
    assert "secret" not in told
