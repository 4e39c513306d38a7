"""Steps that share a transaction without savepoints see and harm nothing of each other."""

import threading
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from tests.support.deeds import (
    Deed,
    Effect,
    QuickHands,
    add,
    calls,
    deeds,
    effects,
    ends,
    make_tables,
    names,
    put,
    transactions,
)
from veltrix.store.transactions import transaction as open_transaction


@pytest.fixture(autouse=True)
def _tables(engine: Engine) -> None:
    make_tables(engine)


def _swallow(session: Session) -> None:
    try:
        with session.begin():
            put(session, "swallowed")
            int("no number")
    except ValueError:
        put(session, "kept")


def _nest(session: Session) -> None:
    put(session, "kept")
    try:
        with session.begin_nested():
            put(session, "nested")
            session.execute(text("insert into stock values (1, 1)"))
    except IntegrityError:
        pass


def _flush_in_vain(session: Session) -> None:
    session.add(Effect(id="in vain", amount=None))
    session.add(Effect(id="000"))
    try:
        session.flush()
    except IntegrityError:
        session.rollback()
        put(session, "kept")


def _roll_back(session: Session) -> None:
    put(session, "rolled back")
    session.rollback()
    put(session, "kept")


def _roll_back_and_commit(session: Session) -> None:
    _roll_back(session)
    session.commit()


def _raw(session: Session) -> None:
    cursor = session.connection().connection.cursor()
    cursor.execute("savepoint mine")
    cursor.execute("insert into effects values ('rolled back', 1)")
    cursor.execute("rollback to mine")
    cursor.execute("insert into effects values ('kept', 1)")
    cursor.close()


def _stream(session: Session) -> None:
    rows = session.execute(text("select 1"), execution_options={"stream_results": True})
    assert rows.all() == [(1,)]
    put(session, "kept")


def _in_a_thread(session: Session) -> None:
    thread = threading.Thread(target=put, args=(session, "kept"))
    thread.start()
    thread.join()


def _close(session: Session) -> None:
    put(session, "dropped")
    session.close()
    put(session, "kept")


def _close_by_a_block(session: Session) -> None:
    with session:
        session.add(Effect(id="dropped"))
        session.flush()
    put(session, "kept")


def _reset(session: Session) -> None:
    put(session, "dropped")
    session.reset()
    put(session, "kept")


@pytest.mark.parametrize(
    "deed",
    [
        _swallow, _nest, _flush_in_vain, _roll_back, _roll_back_and_commit, _raw, _stream,
        _in_a_thread, _close, _close_by_a_block, _reset,
    ],
)  # fmt: skip
def test_what_only_a_savepoint_can_hold_is_done_in_one(engine: Engine, deed: Deed) -> None:
    deeds["odd"] = deed
    run_ids = add(engine, *names(5), "odd", "after")
    hands = QuickHands(engine)

    outcomes = hands.run(run_ids)

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert effects(engine) == [*names(5), "after", "kept"]
    assert calls["odd"] == 2


def _commit(session: Session) -> None:
    session.execute(text("commit"))


def _commit_by_the_driver(session: Session) -> None:
    session.connection().connection.commit()


def _commit_by_a_cursor(session: Session) -> None:
    session.connection().connection.cursor().execute("commit")


def _commit_after_a_comment(session: Session) -> None:
    session.execute(text("/* the end */ commit"))


@pytest.mark.parametrize(
    "deed", [_commit, _commit_by_the_driver, _commit_by_a_cursor, _commit_after_a_comment]
)
def test_nothing_that_would_end_the_transaction_of_others_is_sent(
    engine: Engine, deed: Deed
) -> None:
    seen = []

    def commit(session: Session) -> None:
        if calls["odd"] == 1:
            try:
                deed(session)
            except BaseException:
                with open_transaction(engine) as other:
                    seen.append(other.execute(text("select count(*) from effects")).scalar_one())
                raise

    deeds["odd"] = commit
    hands = QuickHands(engine)

    outcomes = hands.run(add(engine, *names(5), "odd"))

    hands.close()
    assert seen == [0]
    assert set(outcomes.values()) == {"succeeded"}
    assert effects(engine) == names(5)


TRIGGER = (
    "create function note() returns trigger language plpgsql as $$ begin"
    " perform set_config('app.hidden', new.id, false); return new; end $$;"
    "create trigger note before insert on effects for each row execute function note()"
)
HIDDEN = "select coalesce(current_setting('app.hidden', true), '')"


@pytest.mark.parametrize(
    ("made", "left", "looked", "clean"),
    [
        ("", "select set_config('app.hidden', 'a', false)", HIDDEN, ""),
        ("", "select set_config('app.hidden', 'a', true)", HIDDEN, ""),
        (TRIGGER, "insert into effects values ('a', 1)", HIDDEN, ""),
        (
            "create view hiding as select set_config('app.hidden', 'a', false)",
            "select * from hiding",
            HIDDEN,
            "",
        ),
        (
            "",
            "select pg_advisory_lock(42)",
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
            0,
        ),
    ],
)
def test_what_a_statement_leaves_in_the_session_no_other_run_sees(
    engine: Engine, made: str, left: str, looked: str, clean: Any
) -> None:
    with open_transaction(engine) as tx:
        for statement in filter(None, made.split(";create")):
            tx.execute(text(statement if statement.startswith("create") else f"create{statement}"))
    deeds["leave"] = lambda session: session.execute(text(left)).close()
    deeds["look"] = lambda session: session.execute(text(looked)).scalar_one()
    hands = QuickHands(engine)

    run_ids = add(engine, "look before", "leave", "look", "look again")
    hands.run(run_ids)

    hands.close()
    found = ends(engine, run_ids)
    assert [found[0], *found[2:]] == [("succeeded", clean)] * 3
    assert set(calls.values()) == {1}, "cleaned, not run again"


def test_the_number_of_a_sequence_is_told_to_its_own_run_only(engine: Engine) -> None:
    with open_transaction(engine) as tx:
        tx.execute(text("create table numbered (id serial, what text)"))
    deeds["take"] = lambda session: session.execute(
        text("insert into numbered (what) values ('a')")
    ).close()
    deeds["look"] = lambda session: session.execute(
        text("select currval('numbered_id_seq')")
    ).scalar_one()
    hands = QuickHands(engine)

    run_ids = add(engine, "take", "take", "look")
    outcomes = hands.run(run_ids)

    hands.close()
    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded", "succeeded", "failed"]


def test_a_session_is_one_steps_own(engine: Engine) -> None:
    """Its objects, notes, options and events."""
    heard: list[str] = []

    def leave(session: Session) -> None:
        session.info["tenant"] = "a"
        session.autoflush = False
        session.add(Effect(id="of leave"))
        event.listen(session, "before_flush", lambda *_: heard.append("flush"))

    def see(session: Session) -> list[Any]:
        own = Effect(id="of look")
        session.add(own)
        session.flush()
        return [dict(session.info), session.autoflush, len(list(session))]

    deeds.update(leave=leave, look=see)
    hands = QuickHands(engine)

    run_ids = add(engine, "leave", "look")
    hands.run(run_ids)

    hands.close()
    assert ends(engine, run_ids)[1] == ("succeeded", [{}, True, 1])
    assert heard == ["flush"]
    assert effects(engine) == ["of leave", "of look"]
    assert len(transactions(engine)) == 1


def test_who_keeps_a_session_does_nothing_with_it_after_its_step(engine: Engine) -> None:
    kept: list[Session] = []
    errors: list[str] = []

    def late() -> None:
        try:
            put(kept[0], "late")
        except BaseException as error:  # noqa: BLE001 - whatever it is
            errors.append(type(error).__name__)

    def in_another_step(_session: Session) -> None:
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()

    deeds.update(keep=kept.append, use=in_another_step)
    hands = QuickHands(engine)

    outcomes = hands.run(add(engine, "a", "keep", "use"))

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert errors
    assert effects(engine) == ["a"]


def _end_unheard(session: Session) -> None:
    with suppress(OperationalError):
        session.execute(text("select pg_terminate_backend(pg_backend_pid())"))


def test_who_says_nothing_of_a_lost_connection_harms_no_neighbour(engine: Engine) -> None:
    deeds["odd"] = _end_unheard
    hands = QuickHands(engine)
    run_ids = add(engine, *names(5), "odd", "after")

    outcomes = hands.run(run_ids)

    hands.close()
    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded"] * 5 + ["failed", "succeeded"]
    assert effects(engine) == [*names(5), "after"]


@pytest.mark.parametrize("way", ["close", "invalidate", "commit", "rollback"])
def test_who_gives_the_connection_away_harms_no_neighbour(engine: Engine, way: str) -> None:
    def give_away(session: Session) -> None:
        if calls["odd"] == 1:
            getattr(session.get_bind(), way)()
        put(session, "odd")

    deeds["odd"] = give_away
    hands = QuickHands(engine)

    outcomes = hands.run(add(engine, *names(5), "odd", "after"))

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert effects(engine) == [*names(5), "after", "odd"]


@pytest.mark.parametrize("way", ["get_bind", "connection"])
def test_who_takes_the_connection_itself_does_so_where_he_has_a_savepoint(
    engine: Engine, way: str
) -> None:
    """It has options, events and notes that the next step would find."""

    def translate(session: Session) -> None:
        found: Any = getattr(session, way)()
        found.execution_options(schema_translate_map={None: "tenant"})

    deeds["odd"] = translate
    hands = QuickHands(engine)

    outcomes = hands.run(add(engine, "a", "odd"))

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert calls["odd"] == 2
    assert effects(engine) == ["a"]
