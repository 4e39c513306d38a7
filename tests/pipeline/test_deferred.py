"""What a deferred trigger does at the end of a transaction is gone before the next one."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from tests.support.deeds import QuickHands, add, deeds, effects, ends, make_tables, put
from veltrix.store.transactions import transaction as open_transaction

_LOOK = (
    "select coalesce(current_setting('app.hidden', true), ''),"
    " to_regclass('pg_temp.scratch') is null,"
    " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
)


@pytest.fixture(autouse=True)
def _tables(engine: Engine) -> None:
    make_tables(engine)
    with open_transaction(engine) as tx:
        tx.execute(
            text(
                "create function note() returns trigger language plpgsql as $$ begin"
                " perform set_config('app.hidden', new.id, false);"
                " perform pg_advisory_lock(42);"
                " create temp table if not exists scratch (id int); return new; end $$;"
                "create constraint trigger note after insert on effects"
                " deferrable initially deferred for each row execute function note()"
            )
        )


@pytest.mark.parametrize("is_again_deferred", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("is_doubted", [False, True])
def test_what_a_deferred_trigger_leaves_no_other_run_sees(
    engine: Engine, count: int, is_doubted: bool, is_again_deferred: bool
) -> None:
    def fail(_session: Session) -> None:
        raise ValueError("no")

    def leave(session: Session) -> None:
        put(session, "left")
        if is_again_deferred:
            session.execute(text("set constraints all deferred"))

    deeds.update(bad=fail, leave=leave)
    deeds["look"] = lambda session: list(session.execute(text(_LOOK)).one())
    hands = QuickHands(engine)
    if is_doubted:
        hands.run(add(engine, "bad", "bad"))

    hands.run(add(engine, *(f"{n}" for n in range(count - 1)), "leave"))
    run_ids = add(engine, "look", "look again")
    for run_id in run_ids:
        hands.run([run_id])

    hands.close()
    assert ends(engine, run_ids) == [("succeeded", ["", True, 0])] * 2
    assert "left" in effects(engine)
