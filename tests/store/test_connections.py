"""What a session must be is asked, not believed."""

from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from tests.support.pooler import dropping_options, pgbouncer
from veltrix.store.connections import clean
from veltrix.store.errors import is_away, told
from veltrix.store.transactions import make_engine, open_autocommit, transaction

SETTINGS = "synchronous_commit", "statement_timeout", "lock_timeout", "enable_seqscan", "timezone"
OURS = ["on", "30s", "15s", "off", "UTC"]


@pytest.fixture
def through(database: tuple[str, str], engine: Engine) -> Iterator[Engine]:
    """Through a pooler that drops our options, to a database whose commits are not durable."""
    name, url = database
    with open_autocommit(engine) as tx:
        tx.execute(text(f"alter database {name} set synchronous_commit = off"))
    with dropping_options(url) as way:
        made = make_engine(way, application="tests pooled", connections_max=2, is_writer=True)
        yield made
        made.dispose()


def settings_of(tx: Connection) -> list[Any]:
    return [tx.execute(text(f"show {name}")).scalar_one() for name in SETTINGS]


def test_what_a_pooler_drops_is_set(engine: Engine, through: Engine) -> None:
    with transaction(engine) as tx:
        assert settings_of(tx) == OURS
    for _ in range(2):
        with transaction(through) as tx:
            assert settings_of(tx) == OURS


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_text_is_text_whatever_encoding_somebody_chose(
    engine: Engine, database: tuple[str, str], encoding: str
) -> None:
    name, url = database
    with open_autocommit(engine) as tx:  # a role can say so of itself, and outlive its password
        tx.execute(text(f"alter database {name} set client_encoding = '{encoding}'"))

    with transaction(make_engine(url, application="tests", is_writer=True)) as tx:
        assert tx.execute(text("select 'größe 漢'")).scalar_one() == "größe 漢"


def test_and_is_set_again_after_a_step(through: Engine) -> None:
    with transaction(through) as tx:
        tx.execute(text("set statement_timeout = '1min'"))
        clean(tx)
        assert settings_of(tx) == OURS
    with transaction(through) as tx:
        assert settings_of(tx) == OURS


def test_a_session_that_cannot_be_made_ours_is_refused_with_a_sentence(
    engine: Engine, database: tuple[str, str]
) -> None:
    name, url = database
    with open_autocommit(engine) as tx:  # nobody may set this again
        tx.execute(text(f"alter database {name} set default_transaction_read_only = on"))

    with pytest.raises(DBAPIError) as caught:
        make_engine(url, application="tests", is_writer=True).connect()

    assert is_away(caught.value)
    assert "the name must lead to the primary" in told(caught.value)


@pytest.mark.parametrize("robin", [0, 1], ids=["the last one free", "by turns"])
@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("transaction", "a pooler that pools by transaction stands between"),
        ("statement", "transaction blocks not allowed in statement pooling mode"),
    ],
)
def test_a_pooler_that_gives_each_transaction_another_session_is_refused_with_a_sentence(
    database: tuple[str, str], engine: Engine, mode: str, why: str, robin: int
) -> None:
    with (
        pgbouncer(database[1], mode, server_round_robin=robin) as way,
        pytest.raises(DBAPIError) as caught,
    ):
        make_engine(way, application="tests pooled", connections_max=3).connect()

    assert is_away(caught.value)
    assert why in told(caught.value)


def test_a_pooler_of_sessions_is_as_none(database: tuple[str, str], engine: Engine) -> None:
    with pgbouncer(database[1], "session") as way:
        through = make_engine(way, application="tests pooled", connections_max=3, is_writer=True)
        with transaction(through) as one, transaction(through) as other:
            assert settings_of(one) == settings_of(other) == OURS
        through.dispose()


@pytest.mark.parametrize("size", [1, 2])
def test_a_pooler_of_just_as_many_sessions_as_are_used_is_as_none(
    database: tuple[str, str], engine: Engine, size: int
) -> None:
    with pgbouncer(database[1], "session", default_pool_size=size) as way:
        through = make_engine(way, application="tests pooled", connections_max=size)
        held = [through.connect() for _ in range(size)]
        assert {settings_of(one)[0] for one in held} == {"on"}
        for one in held:
            one.close()
        through.dispose()


def test_a_busy_pooler_of_transactions_is_recognised_too(
    database: tuple[str, str], engine: Engine
) -> None:
    is_over = Event()

    def use(way: str) -> None:
        with psycopg.connect(way.replace("+psycopg", ""), prepare_threshold=None) as one:
            while not is_over.is_set():
                one.execute("select pg_sleep(0.001)")
                one.commit()

    with pgbouncer(database[1], "transaction", default_pool_size=8) as way:
        others = [Thread(target=use, args=[way]) for _ in range(6)]
        for other in others:
            other.start()
        try:
            for _ in range(10):
                with pytest.raises(DBAPIError, match="a pooler that pools by"):
                    make_engine(way, application="tests pooled", connections_max=1).connect()
        finally:
            is_over.set()
            for other in others:
                other.join()
