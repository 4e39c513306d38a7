"""`fetch` goes past SQLAlchemy; rows, errors and lost connections are as if it had not."""

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    PendingRollbackError,
)

from tests.support.wait import until
from veltrix.store.arrays import TextArray
from veltrix.store.errors import Answer, answer_of, is_away, is_bad_value, is_transient, sqlstate_of
from veltrix.store.transactions import Link, fetch, make_engine, open_autocommit, transaction

END = text("select pg_terminate_backend(pid) from pg_stat_activity where application_name = :name")
BACKEND = "select pg_backend_pid()"
EVERY_TYPE = (
    "select %(text)s::text, %(whole)s::int, %(big)s::bigint, %(real)s::float8, %(is_so)s::boolean,"
    " %(raw)s::bytea, null::text, '2026-11-26 08:00:00.123456+00'::timestamptz, '{\"a\": 1}'::json"
)
VALUES = {"text": "ä", "whole": 7, "big": 2**40, "real": 0.1, "is_so": True, "raw": b"\x00\xff"}


@pytest.fixture
def named(database_url: str) -> Engine:
    """An engine whose connection can be ended by its name."""
    return make_engine(database_url, application="fetching", is_hot=True)


def end_connections(engine: Engine) -> None:
    with transaction(engine) as tx:
        assert all(tx.execute(END, {"name": "fetching"}).scalars())


def as_it_was(tx: Connection, statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in tx.exec_driver_sql(statement, values)]


def read_only(engine: Engine, name: str, pauses: int) -> Callable[[float], object]:
    """A wait that makes the database writable again at its last."""
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == pauses:
            with open_autocommit(engine) as tx:
                tx.execute(text("set default_transaction_read_only = off"))
                tx.execute(text(f"alter database {name} reset default_transaction_read_only"))

    return wait


def test_rows_are_those_of_sqlalchemy(engine: Engine) -> None:
    with transaction(engine) as tx:
        assert fetch(tx, EVERY_TYPE, VALUES) == as_it_was(tx, EVERY_TYPE, VALUES)
        assert fetch(tx, "select 1 where false", {}) == []


def test_a_statement_has_one_cursor_as_long_as_its_connection_lives(engine: Engine) -> None:
    with open_autocommit(engine) as tx:
        first = [fetch(tx, EVERY_TYPE, VALUES) for _ in range(8)]
        cursors = {key: kept for key, kept in tx.info.items() if key == EVERY_TYPE}
        prepared = fetch(
            tx, "select count(*) from pg_prepared_statements where statement ~ 'bytea'", {}
        )

    with open_autocommit(engine) as tx:
        assert fetch(tx, EVERY_TYPE, VALUES) == first[0], "the same connection, of the pool"
        assert {key: kept for key, kept in tx.info.items() if key == EVERY_TYPE} == cursors
    assert prepared == [(1,)]


def test_in_a_transaction_it_is_part_of_it(engine: Engine) -> None:
    insert = "insert into accounts (source, type) values (%(source)s, 'x') returning source"
    with pytest.raises(ZeroDivisionError), transaction(engine) as tx:  # noqa: PT012 - rolled back
        assert fetch(tx, insert, {"source": "/gone"}) == [("/gone",)]
        raise ZeroDivisionError
    with transaction(engine) as tx:
        fetch(tx, insert, {"source": "/kept"})

    with transaction(engine) as tx:
        assert fetch(tx, "select source from accounts where type = 'x'", {}) == [("/kept",)]


@pytest.mark.parametrize(
    ("statement", "kind", "sqlstate"),
    [
        ("select cast(%(value)s as json)", DataError, "22P02"),
        ("insert into accounts (id, source, type) values (1, '/a', 'a'), (1, '/b', 'b')",
         IntegrityError, "23505"),
    ],
)  # fmt: skip
def test_a_refused_statement_is_the_error_of_sqlalchemy_and_the_connection_goes_on(
    engine: Engine, statement: Any, kind: type[Exception], sqlstate: str
) -> None:
    values = {"value": "{"} if "%(value)s" in statement else {}
    with open_autocommit(engine) as tx:
        with pytest.raises(kind) as caught:
            fetch(tx, statement, values)

        assert sqlstate_of(caught.value) == sqlstate
        assert is_bad_value(caught.value)
        assert not is_away(caught.value)
        assert not tx.invalidated
        assert fetch(tx, "select 1", {}) == [(1,)]


@pytest.mark.parametrize(
    ("sqlstate", "answer"),
    [
        ("42501", Answer.OUR_FAULT),
        ("42703", Answer.OUR_FAULT),
        ("P0001", Answer.OUR_FAULT),
        ("25006", Answer.CANNOT_SERVE),
        ("53100", Answer.CANNOT_SERVE),
        ("57P03", Answer.CANNOT_SERVE),
        ("58030", Answer.CANNOT_SERVE),
        ("XX002", Answer.CANNOT_SERVE),
    ],
)
def test_after_an_error_that_is_not_of_the_data_the_connection_is_given_up(
    database_url: str, sqlstate: str, answer: Answer
) -> None:
    ours = make_engine(database_url, application="fetching", is_writer=True)
    raising = f"do $$ begin raise exception 'no' using errcode = '{sqlstate}'; end $$"
    for execute in (as_it_was, fetch):
        with open_autocommit(ours) as tx:
            with pytest.raises(DBAPIError) as caught:
                execute(tx, raising, {})

            assert answer_of(caught.value) is answer
            assert caught.value.connection_invalidated
            assert tx.invalidated


def test_a_link_outlives_a_server_that_answers_and_refuses(
    engine: Engine, database: tuple[str, str]
) -> None:
    """A fail-over whose old name still leads to the old primary, now a stand-by."""
    name, url = database
    said: list[str | None] = []
    wait = read_only(engine, name, 3)
    made = make_engine(url, application="fetching", is_writer=True)
    link = Link(made, wait, say=said.append)
    insert = "insert into accounts (source, type) values ('/a', 'x') returning source"
    assert link.call(lambda tx: fetch(tx, "select 1", {})) == [(1,)]
    with open_autocommit(engine) as tx:
        tx.execute(text(f"alter database {name} set default_transaction_read_only = on"))
    end_connections(engine)

    assert link.call(lambda tx: fetch(tx, insert, {})) == [("/a",)]

    assert any("stand-by" in one for one in said if one), said
    assert said[-1] is None
    link.close()


class _GivenUp(Exception):
    """As the watch of a child does: it does not wait."""


def test_a_link_that_gave_up_says_so_until_it_works_again(engine: Engine, named: Engine) -> None:
    def give_up(_seconds: float) -> None:
        raise _GivenUp

    said: list[str | None] = []
    link = Link(named, give_up, say=said.append)
    link.call(lambda tx: fetch(tx, BACKEND, {}))
    end_connections(engine)

    with pytest.raises(_GivenUp):
        link.call(lambda tx: fetch(tx, BACKEND, {}))
    assert len(said) == 1
    link.call(lambda tx: fetch(tx, BACKEND, {}))
    link.call(lambda tx: fetch(tx, BACKEND, {}))

    link.close()
    assert said[1:] == [None]


def test_a_pool_keeps_no_connection_to_a_server_that_became_a_stand_by(
    engine: Engine, database: tuple[str, str]
) -> None:
    name, url = database
    pool = make_engine(url, application="pooled", connections_max=2, is_writer=True)
    with transaction(pool) as tx:
        (was,) = fetch(tx, BACKEND, {})
    read_only_again = "set session characteristics as transaction read only"  # as a demoted one is
    with open_autocommit(pool) as tx:
        tx.execute(text(read_only_again))

    with transaction(pool) as tx:
        (now,) = fetch(tx, BACKEND, {})
    with open_autocommit(engine) as tx:
        tx.execute(text(f"alter database {name} set default_transaction_read_only = on"))
    pool.dispose()

    assert was != now
    with pytest.raises(DBAPIError, match="stand-by") as caught, transaction(pool):
        pass
    assert is_away(caught.value)


def test_what_psycopg_itself_refuses_is_a_bad_value(engine: Engine) -> None:
    with open_autocommit(engine) as tx:
        for value in ("\x00", "\ud800"):
            with pytest.raises((DBAPIError, UnicodeError)) as caught:
                fetch(tx, "select %(value)s", {"value": value})

            assert is_bad_value(caught.value)
        assert fetch(tx, "select 1", {}) == [(1,)]


def test_a_connection_that_was_ended_is_away_and_never_replaced_by_one_that_does_not_commit(
    engine: Engine, named: Engine
) -> None:
    with open_autocommit(named) as tx:
        fetch(tx, BACKEND, {})
        end_connections(engine)

        with pytest.raises(OperationalError) as caught:
            fetch(tx, BACKEND, {})

        assert is_away(caught.value)
        assert caught.value.connection_invalidated
        assert tx.invalidated
        with pytest.raises(PendingRollbackError):  # a new one would not be in autocommit
            fetch(tx, BACKEND, {})


def test_a_transaction_whose_connection_was_ended_ends_with_its_error(
    engine: Engine, named: Engine
) -> None:
    with pytest.raises(OperationalError) as caught, transaction(named) as tx:  # noqa: PT012
        fetch(tx, BACKEND, {})
        end_connections(engine)
        fetch(tx, BACKEND, {})

    assert is_away(caught.value)
    with transaction(named) as tx:
        assert fetch(tx, "select 1", {}) == [(1,)]


def test_a_link_goes_on_with_another_connection(engine: Engine, named: Engine) -> None:
    pauses: list[float] = []
    returns: list[Connection] = []
    link = Link(named, pauses.append)
    first = link.call(lambda tx: fetch(tx, BACKEND, {}))

    end_connections(engine)
    second = link.call(lambda tx: fetch(tx, BACKEND, {}), on_return=returns.append)
    link.close()

    assert first != second
    assert len(pauses) == 1
    assert len(returns) == 1, "what may have been committed is looked for first"


def test_a_deadlock_is_run_again_by_a_link(engine: Engine, database_url: str) -> None:
    lock = "select 1 from accounts where id = %(id)s for update"
    both = "update accounts set type = type where id = any(%(id)s::int[]) returning id"
    blocked = text(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and datname = current_database()"
    )
    with transaction(engine) as tx:
        rows = "insert into accounts (id, source, type) values (1, '/a', 'x'), (2, '/b', 'x')"
        tx.exec_driver_sql(rows)
    link = Link(make_engine(database_url, application="fetching"), time.sleep)
    seen: list[list[tuple[Any, ...]]] = []
    tries: list[int] = []

    def update(tx: Connection) -> list[tuple[Any, ...]]:
        tries.append(1)
        return fetch(tx, both, {"id": TextArray(["1", "2"])})

    updater = Thread(target=lambda: seen.append(link.call(update)))
    with transaction(engine) as other:
        fetch(other, lock, {"id": 2})
        updater.start()
        until(lambda: asked(engine, blocked) == 1, what="the update to wait")
        fetch(other, lock, {"id": 1})
    updater.join(10)
    link.close()

    assert seen == [[(1,), (2,)]]
    assert len(tries) >= 2, "more, where it takes its first row again before the other has it"


def asked(engine: Engine, question: Any) -> int:
    with transaction(engine) as tx:
        return int(tx.execute(question).scalar_one())


def test_a_serialization_failure_is_transient(engine: Engine) -> None:
    update = "update accounts set type = %(type)s where id = 1 returning id"
    with transaction(engine) as tx:
        tx.exec_driver_sql("insert into accounts (id, source, type) values (1, '/a', 'x')")
    with pytest.raises(OperationalError) as caught, transaction(engine, snapshot=True) as late:  # noqa: PT012
        fetch(late, "select 1 from accounts", {})
        with open_autocommit(engine) as tx:
            fetch(tx, update, {"type": "y"})
        fetch(late, update, {"type": "z"})

    assert is_transient(caught.value)
    assert sqlstate_of(caught.value) == "40001"
    with transaction(engine) as tx:
        assert fetch(tx, "select type from accounts", {}) == [("y",)]
