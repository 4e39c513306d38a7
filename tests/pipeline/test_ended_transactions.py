"""A step that ends the transaction it is in commits nothing of anybody, and never runs for ever."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from tests.support.deeds import (
    Deed,
    QuickHands,
    add,
    calls,
    deeds,
    effects,
    make_tables,
    names,
    put,
)
from veltrix.store.transactions import transaction as open_transaction

Way = Callable[[Session], object]


def _driver(session: Session) -> Any:
    return session.connection().connection.driver_connection


def _detach(session: Session) -> None:
    driver = _driver(session)
    session.connection().detach()
    driver.close()


COMMITS: dict[str, Way] = {
    "a statement": lambda session: session.execute(text("commit")),
    "the second of two": lambda session: session.execute(text("select 1; commit")),
    "after a comment": lambda session: session.execute(text("/* the end */ end")),
    "a cursor": lambda session: _driver(session).execute("commit"),
    "the driver": lambda session: _driver(session).commit(),
    "sqlalchemy": lambda session: session.get_bind().commit(),  # type: ignore[union-attr]
    "prepared": lambda session: session.execute(text("prepare transaction 'a'")),
}
LOSSES: dict[str, Way] = {
    "the driver": lambda session: _driver(session).rollback(),
    "sqlalchemy": lambda session: session.get_bind().rollback(),  # type: ignore[union-attr]
    "closed": lambda session: session.get_bind().close(),  # type: ignore[union-attr]
    "our savepoint": lambda session: session.execute(text("release savepoint veltrix_step")),
    "detached": _detach,
}


@pytest.fixture(autouse=True)
def _tables(engine: Engine) -> None:
    make_tables(engine)
    with open_transaction(engine) as tx:  # so that what is done twice is there twice
        tx.execute(text("alter table effects drop constraint effects_pkey"))


def _fail(_session: Session) -> None:
    raise ValueError("no")


def _run(engine: Engine, odd: Deed, *, is_doubted: bool) -> list[str]:
    """How neighbours, one that does it, and two others end, with or without savepoints at first."""
    deeds.update(odd=odd, bad=_fail)
    hands = QuickHands(engine)
    if is_doubted:
        hands.run(add(engine, "bad", "bad"))
    run_ids = add(engine, *names(3), "odd", "x", "y")
    outcomes = hands.run(run_ids)
    hands.close()
    return [outcomes[run_id] for run_id in run_ids]


@pytest.mark.parametrize("is_doubted", [False, True], ids=["together", "savepoints"])
@pytest.mark.parametrize("way", COMMITS)
def test_a_step_that_commits_commits_nothing_of_anybody(
    engine: Engine, way: str, is_doubted: bool
) -> None:
    def commit(session: Session) -> None:
        put(session, "odd")
        COMMITS[way](session)

    ends = _run(engine, commit, is_doubted=is_doubted)

    assert ends == ["succeeded"] * 3 + ["failed"] + ["succeeded"] * 2
    assert effects(engine) == [*names(3), "x", "y"]
    with open_transaction(engine) as tx:
        failed = tx.execute(
            text("select type from failed_attempts where type <> 'ValueError'")
        ).all()
    assert [tuple(row) for row in failed] == [("TransactionEnded",)]


@pytest.mark.parametrize("way", COMMITS)
def test_a_commit_that_was_refused_unheard_is_none(engine: Engine, way: str) -> None:
    def commit(session: Session) -> None:
        put(session, "odd")
        with suppress(BaseException):
            COMMITS[way](session)

    ends = _run(engine, commit, is_doubted=False)

    assert ends[:3] + ends[4:] == ["succeeded"] * 5
    assert effects(engine) == sorted([*names(3), "x", "y"] + ["odd"] * (ends[3] == "succeeded"))
    # SQLAlchemy takes its transaction for over, whatever became of the commit.
    assert ends[3] == ("failed" if way == "sqlalchemy" else "succeeded")


@pytest.mark.parametrize("is_doubted", [False, True], ids=["together", "savepoints"])
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("way", LOSSES)
def test_a_step_that_loses_its_transaction_is_one_attempt(
    engine: Engine, way: str, raises: bool, is_doubted: bool
) -> None:
    def lose(session: Session) -> None:
        put(session, "odd")
        LOSSES[way](session)
        if raises:
            raise ValueError("and that as well")

    ends = _run(engine, lose, is_doubted=is_doubted)

    assert ends == ["succeeded"] * 3 + ["failed"] + ["succeeded"] * 2
    assert effects(engine) == [*names(3), "x", "y"]
    assert calls["odd"] <= 3


def test_who_goes_alone_for_it_holds_up_no_others(engine: Engine) -> None:
    """After the first time: it is remembered by the name of the step."""
    deeds["look"] = lambda session: session.execute(text("select 1; select 2")).close()
    hands = QuickHands(engine)
    hands.run(add(engine, "a", "look"))
    calls.clear()

    outcomes = hands.run(add(engine, "b", "c", "look", "look again"))

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert calls == {"b": 1, "c": 1, "look": 1, "look again": 1}


def test_who_keeps_a_session_does_nothing_with_it_in_a_savepoint_of_another(
    engine: Engine,
) -> None:
    kept: list[Session] = []
    errors: list[str] = []

    def keep(session: Session) -> None:
        session.execute(text("savepoint mine"))
        kept.append(session)

    def use(session: Session) -> None:
        session.execute(text("savepoint mine"))
        try:
            put(kept[-1], "late")
        except Exception as error:  # noqa: BLE001 - whatever it is
            errors.append(type(error).__name__)

    deeds.update(keep=keep, use=use, bad=_fail)
    hands = QuickHands(engine)
    hands.run(add(engine, "bad", "bad"))

    outcomes = hands.run(add(engine, "keep", "use", "a"))

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert errors == ["UnboundExecutionError"]
    assert effects(engine) == ["a"]
