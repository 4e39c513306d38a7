"""Code of the database that may leave something in a session is found, whenever it was made."""

import pytest
from sqlalchemy import Connection, Engine, text

from veltrix.pipeline.execute.transactional.hidden_code import has_hidden_code
from veltrix.store.transactions import transaction

_TRIGGER = "create function f() returns trigger language plpgsql as $$ begin {} return new; end $$"
_HARMLESS = (
    _TRIGGER.format("new.at = now();"),
    _TRIGGER.format("update stock as s set at = now() where id = 1;"),
    "create table t (id serial primary key, at timestamptz default now())",
)
_HIDING = (
    _TRIGGER.format("perform set_config('app.tenant', 'a', true);"),
    _TRIGGER.format("update stock set at = now(); set local app.tenant = 'a';"),
    _TRIGGER.format("execute 's' || 'et role other';"),
    _TRIGGER.format("perform pg_try_advisory_lock(42);"),
    _TRIGGER.format("create temp table if not exists seen (id int);"),
    "create function f() returns text begin atomic select set_config('a.b', 'c', false); end",
    "create function f(text, text, boolean) returns text language internal as 'set_config_by_name'",
    "create view v as select set_config('app.tenant', 'a', false)",
    "create view v as select pg_try_advisory_lock(oid::bigint) from pg_class",
    "create view v as select pg_try_advisory_lock_shared(1, 2)",
    "create sequence s; create table t (id bigint default currval('s'))",
)


def _found(tx: Connection, statement: str) -> list[bool]:
    """Before and after the statement, on a connection that has known the database for long."""
    before = [has_hidden_code(tx, 0.0), has_hidden_code(tx, 0.5)]
    tx.execute(text(statement))
    return [*before, has_hidden_code(tx, 2.0)]


@pytest.mark.parametrize("statement", _HARMLESS)
def test_what_only_changes_rows_hides_nothing(engine: Engine, statement: str) -> None:
    with transaction(engine) as tx:
        assert _found(tx, statement) == [False, False, False]


@pytest.mark.parametrize("statement", _HIDING)
def test_what_may_leave_something_is_found(engine: Engine, statement: str) -> None:
    with transaction(engine) as tx:
        assert _found(tx, statement) == [False, False, True]


def test_a_function_that_has_changed_is_looked_at_again_at_once(engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.execute(text(_HARMLESS[0]))
        assert not has_hidden_code(tx, 0.0)

        tx.execute(text(_HIDING[0].replace("create", "create or replace")))

        assert has_hidden_code(tx, 0.0)
