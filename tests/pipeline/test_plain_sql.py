"""What a statement may leave behind is told by its text, and in doubt it is more."""

from typing import Any

import pytest
from psycopg.sql import SQL
from sqlalchemy import Column, Integer, MetaData, Table, Text, func, insert, select, update
from sqlalchemy.dialects.postgresql import dialect

from veltrix.pipeline.execute.transactional.plain_sql import StatementKind, ends_it, kind_of

_orders = Table(
    "orders",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", Text),
    Column("end", Integer),
)
_dialect: Any = dialect()  # type: ignore[no-untyped-call]
_PLAIN = (
    "select 1",
    "  SELECT count(*), lower(name) FROM orders WHERE id IN (%(a)s, %(b)s) FOR UPDATE;",
    "insert into effects values (%(id)s, 1)",
    "insert into \"Orders\" (id, name) values (%(id)s, 'it''s; commit') on conflict do nothing",
    "update stock set left_over = left_over - 1 where id = 1 returning left_over",
    "with old as (delete from a where id = any(%(i)s) returning id) insert into b select id",
    "select pg_catalog.now(), x::numeric(10, 2) from (values (1)) as v",
)
_UNSURE = (
    "select set_config('app.tenant', 'a', false)",
    "select pg_advisory_lock(42)",
    'select "lower"(name) from orders',
    "select shop.lower(name) from orders",
    "select place_order(%(id)s)",
    "insert into orders (id) select dblink_exec(%(a)s)",
)
_ODD = (
    "set timezone = 'Asia/Tokyo'",
    "create temp table scratch (x int)",
    "select * into scratch from orders",
    "listen gossip",
    "prepare question as select 1",
    "declare c cursor with hold for select 1",
    "savepoint mine",
    " Rollback to savepoint a",
    "rollback work to a",
    "lock table orders",
    "select 1 -- a word",
    "/* a word */ select 1",
    "select 'a\\b'",
    "select lastval()",
    "select 'a' || \"currval\"('orders_id_seq')",
    "select 'open",
    "update pg_settings set setting = 'a' where name = 'app.tenant'",
)
_CONTROL = (
    "commit",
    "rollback",
    "rollback and chain",
    "END",
    "abort",
    "prepare transaction 'a'",
    "/* a word */ prepare transaction 'a'",
    "select 1; commit",
    "select 1;;",
    "/* */ commit",
    "select 1 -- '\n; commit",
    "select $$;$$ ; commit",
    "select E'\\'; commit; --'",
    "do $$ begin end $$",
    'select "a\'", 1; commit; select "b\'"',
    "select U&'\\0027; commit'",
    "",
)


@pytest.mark.parametrize(
    ("kind", "statements"),
    [
        (StatementKind.PLAIN, _PLAIN),
        (StatementKind.UNSURE, _UNSURE),
        (StatementKind.ODD, _ODD),
        (StatementKind.CONTROL, _CONTROL),
    ],
)
def test_each_statement_is_what_it_may_do(kind: StatementKind, statements: tuple[str, ...]) -> None:
    assert {one: kind_of(one) for one in statements} == dict.fromkeys(statements, kind)


_ENDS: tuple[Any, ...] = (
    "commit",
    b"END",
    SQL("commit"),
    "rollback and chain",
    "prepare transaction 'a'",
    "/* a word */ commit",
    "select 1; -- ; \n abort",
    "select E'\\'' ; commit",
    "select $a$ $b$ $a$; commit",
)
_GOES_ON: tuple[Any, ...] = (
    "rollback to a",
    "select 1 as commit",
    "insert into notes values ('a; commit')",
    "insert into notes values (E'\\'; commit; --')",
    "do $$ begin null; end $$",
    "select $a$; commit $a$",
    "/* ; commit */ select 1",
    'select "; commit"',
    3,
)


def test_what_ends_a_transaction_is_told_where_its_step_is_alone() -> None:
    assert [one for one in _ENDS if not ends_it(one)] == []
    assert [one for one in _GOES_ON if ends_it(one)] == []


def test_what_sqlalchemy_makes_of_tables_is_plain() -> None:
    made = (
        select(_orders).where(_orders.c.end > 3).order_by(_orders.c.id).limit(3),
        insert(_orders).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]),
        update(_orders).values(name=func.coalesce(_orders.c.name, "a")).returning(_orders.c.id),
        _orders.delete().where(_orders.c.id.in_([1, 2])),
    )

    for one in made:
        text = str(one.compile(dialect=_dialect))
        assert kind_of(text) is StatementKind.PLAIN, text
