"""Migrations make what tables.py says, undo it, and never wait behind a lock for ever."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

import veltrix.store.access_tables
import veltrix.store.doctor_tables
import veltrix.store.failure_tables
import veltrix.store.history.dropped_tables
import veltrix.store.history.retention_tables
import veltrix.store.replay_tables  # noqa: F401 - its tables join the metadata
from tests.support.wait import until
from veltrix.store import schema
from veltrix.store.tables import ADVISORY_LOCK, metadata

# Everything the catalog knows of our tables that can differ.
CATALOG = {
    "columns": """
        select c.relname, row_number() over (partition by c.oid order by a.attnum), a.attname,
            format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
            a.attidentity, l.collname
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        left join pg_collation l on l.oid = a.attcollation
        where a.attnum > 0 and not a.attisdropped""",
    "constraints": """
        select c.relname, k.conname, pg_get_constraintdef(k.oid)
        from pg_constraint k join pg_class c on c.oid = k.conrelid where true""",
    "indexes": """
        select c.relname, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
        from pg_index i join pg_class c on c.oid = i.indrelid where true""",
    "storage": """
        select c.relname, c.relkind, c.relpersistence, c.reloptions from pg_class c where true""",
}
OURS = """
    and c.relnamespace = 'public'::regnamespace and c.relname not like 'alembic_version%'
    order by 1, 2, 3"""


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def catalog_of(url: str) -> dict[str, list[Any]]:
    with connected(url) as connection:
        return {
            subject: [tuple(row) for row in connection.execute(text(query + OURS))]
            for subject, query in CATALOG.items()
        }


def is_at_head(url: str) -> bool:
    with connected(url) as connection:
        return schema.at_head(connection)


def test_up_down_and_up_again_ends_where_it_began(empty_url: str) -> None:
    assert not is_at_head(empty_url)

    schema.upgrade(empty_url)
    made = catalog_of(empty_url)
    assert is_at_head(empty_url)

    schema.downgrade(empty_url, "base")
    assert not is_at_head(empty_url)
    assert not any(catalog_of(empty_url).values())

    schema.upgrade(empty_url)
    assert is_at_head(empty_url)
    assert catalog_of(empty_url) == made


def test_an_upgrade_at_head_changes_nothing(empty_url: str) -> None:
    schema.upgrade(empty_url)
    schema.upgrade(empty_url)

    assert is_at_head(empty_url)


def test_migrations_make_exactly_what_the_tables_say(empty_url: str, database_url: str) -> None:
    with connected(database_url) as connection, connection.begin():
        connection.execute(text("drop schema public cascade"))
        connection.execute(text("create schema public"))
        metadata.create_all(connection)
    schema.upgrade(empty_url, schema.head())

    migrated, said = catalog_of(empty_url), catalog_of(database_url)
    for subject in CATALOG:
        assert migrated[subject] == said[subject], subject
    assert {row[0] for row in migrated["columns"]} >= set(metadata.tables)


def test_alembic_finds_nothing_to_generate(empty_url: str) -> None:
    schema.upgrade(empty_url, schema.head())

    with connected(empty_url) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_two_migrators_at_once_both_succeed_one_after_the_other(empty_url: str) -> None:
    code = "import sys; from veltrix.store import schema; schema.upgrade(sys.argv[1])"
    with connected(empty_url) as turn:
        turn.execute(text("select pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        migrators = [
            subprocess.Popen([sys.executable, "-c", code, empty_url], stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        waiting = text(
            "select count(*) = 2 from pg_locks where locktype = 'advisory' and not granted"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        until(lambda: turn.scalar(waiting), deadline_s=30, what="both migrators to wait")

    ends = [migrator.communicate(timeout=60)[1] for migrator in migrators]
    assert [migrator.returncode for migrator in migrators] == [0, 0], ends
    assert is_at_head(empty_url)


def test_a_migrator_whose_turn_never_comes_says_so(empty_url: str) -> None:
    with connected(empty_url) as turn:
        turn.execute(text("select pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})

        with pytest.raises(schema.SchemaBusy, match="another migrator"):
            schema.upgrade(empty_url, turn_timeout_s=0.2)

    assert not any(catalog_of(empty_url).values())


@pytest.mark.parametrize(
    ("lock_timeout_s", "statement_timeout_s", "says"),
    [
        (0.2, 60, "another session held a lock"),
        (5, 0.2, r"took longer than 0\.2 s"),
    ],
)
def test_an_upgrade_behind_a_lock_gives_up_and_leaves_nothing(
    empty_url: str, lock_timeout_s: float, statement_timeout_s: float, says: str
) -> None:
    with connected(empty_url) as other:
        other.execute(text("create table runs (id int)"))  # not committed

        with pytest.raises(schema.SchemaBusy, match=says):
            schema.upgrade(
                empty_url, lock_timeout_s=lock_timeout_s, statement_timeout_s=statement_timeout_s
            )
        other.rollback()

    assert not any(catalog_of(empty_url).values())
    schema.upgrade(empty_url)
    assert is_at_head(empty_url)


def test_a_downgrade_behind_a_reader_gives_up_and_changes_nothing(empty_url: str) -> None:
    schema.upgrade(empty_url)
    before = catalog_of(empty_url)
    with connected(empty_url) as reader:
        reader.execute(text("select count(*) from runs"))

        with pytest.raises(schema.SchemaBusy, match="another session held a lock"):
            schema.downgrade(empty_url, "base", lock_timeout_s=0.2)

    schema.upgrade(empty_url)  # what came before the one that gave up was undone whole
    assert catalog_of(empty_url) == before
    assert is_at_head(empty_url)


def test_old_code_accepts_the_schema_of_newer_code_while_a_deploy_is_under_way(
    empty_url: str,
) -> None:
    schema.upgrade(empty_url)
    with connected(empty_url) as connection, connection.begin():
        connection.execute(text("update alembic_version set version_num = '9999'"))

    assert is_at_head(empty_url)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'lost'",
        "due_at = null",
        "lease_token = id, state = 'waiting'",
        "state = 'running'",
        "state = 'succeeded'",
        "settled_at = now()",
    ],
)
def test_a_run_in_no_lawful_state_cannot_be_stored(database_url: str, change: str) -> None:
    with connected(database_url) as connection:
        connection.execute(
            text(
                "insert into runs (id, event_id, account_id, minute, payload_bytes, started_at,"
                " due_at, state, workflow, queue) values (gen_random_uuid(), gen_random_uuid(), 1,"
                " 1, 0, now(), now(), 'queued', 'w', 'q')"
            )
        )

        with pytest.raises(Exception, match="violates check constraint"):
            connection.execute(text(f"update runs set {change}"))
