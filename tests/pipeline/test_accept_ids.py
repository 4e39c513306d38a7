"""Ids that accept draws, finds and remembers: none meets another's, none outlives its database."""

import time
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text

from tests.support.accepting import PLACED, accepting, submission, subscribe, subscription
from tests.support.wait import until
from veltrix.pipeline.accept.acceptor import Acceptor
from veltrix.pipeline.accept.event_list import Answer
from veltrix.pipeline.accept.receipts import AcceptUnavailable, Receipt
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url)


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def receipts(answers: list[Answer]) -> list[Receipt]:
    found = [answer for answer in answers if isinstance(answer, Receipt)]
    assert len(found) == len(answers), answers
    return found


def freeze(*acceptors: Acceptor) -> None:
    """All ids are drawn in one millisecond, so that they may meet."""
    now = time.time_ns() // 1_000_000
    for one in acceptors:
        one._clock.unix_ms = lambda: now  # type: ignore[method-assign]


def in_books_of_others(engine: Engine) -> list[tuple[Any, ...]]:
    return rows(
        engine,
        "select e.source, a.source from events e left join accounts a on a.id = e.account_id"
        " where a.source is distinct from e.source",
    )


def lose_the_last_second(engine: Engine) -> None:
    """What a stand-by that became primary had not got yet; and the connections to the old one."""
    with transaction(engine) as tx:
        for table in ("events", "identities", "runs", "counter_deltas", "accounts"):
            tx.execute(text(f"delete from {table}"))
        tx.execute(text("alter table accounts alter column id restart with 1"))
    end = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where application_name = 'accept' and datname = current_database()"
    )
    rows(engine, end)
    gone = end.replace("pg_terminate_backend(pid)", "*")
    until(lambda: rows(engine, gone) == [(0,)], deadline_s=10, what="the connections to end")


def test_apis_that_draw_one_id_take_both_events(engine: Engine, settings: Settings) -> None:
    """50 random bits in a millisecond meet; here each id of the second api is taken."""
    subscribe(engine, subscription("fulfil", PLACED))
    with accepting(settings, seed=3) as one, accepting(settings, seed=3) as two:
        freeze(one, two)
        first = receipts(one.accept([submission("1"), submission("2")]))
        second = receipts(two.accept([submission("3"), submission("4"), submission("5")]))

    ids = {receipt.event for receipt in first + second}
    assert len(ids) == 5
    assert all(receipt.runs[0].id[:30] == receipt.event[:30] for receipt in second)
    assert rows(engine, "select count(*), count(distinct event_id) from runs") == [(5, 5)]
    assert rows(engine, "select sum(accepted), sum(started) from counter_deltas") == [(5, 5)]


def test_an_event_whose_ids_always_meet_is_to_come_again_and_never_at_fault(
    engine: Engine, settings: Settings
) -> None:
    with accepting(settings) as one:
        freeze(one)
        one.new_ids._random_bits = lambda _bits: 7
        receipts(one.accept([submission("1")]))

        with pytest.raises(AcceptUnavailable):
            one.accept([submission("2")])

    assert rows(engine, "select sender_id from identities") == [("1",)]


def test_an_api_that_outlives_a_lost_commit_books_nothing_to_accounts_of_others(
    engine: Engine, settings: Settings
) -> None:
    with accepting(settings) as one, accepting(settings, seed=9) as two:
        receipts(one.accept([submission("1", source="/bank")]))
        lose_the_last_second(engine)
        receipts(two.accept([submission("1", source="/toys")]))
        receipts(one.accept([submission("2", source="/bank")]))

    assert in_books_of_others(engine) == []


def test_counts_beside_the_books_are_not_given_to_accounts_of_others_either(
    engine: Engine, settings: Settings
) -> None:
    with accepting(settings) as one:
        receipts(one.accept([submission("1", source="/bank")]))
        one._counted_at = time.monotonic() + 3600  # no count is written before the connection goes
        receipts(one.accept([submission("1", source="/bank")]))
        lose_the_last_second(engine)
        one._counted_at = 0.0
        receipts(one.accept([submission("1", source="/toys")]))
        until(lambda: not one._beside, deadline_s=10, what="the counts to be written")

    duplicates = "select account_id, duplicates from counter_deltas where duplicates > 0"
    assert rows(engine, duplicates) == [(0, 1)]


def test_what_is_refused_is_counted_by_a_word(engine: Engine, settings: Settings) -> None:
    def counted(word: str) -> float:
        name = "veltrix_events_refused_total"
        return REGISTRY.get_sample_value(name, {"reason": word}) or 0.0

    before = counted("conflict")
    with accepting(settings) as one:
        one.accept([submission("1")])
        one.accept([submission("1", '{"other": 1}')])

    assert counted("conflict") == before + 1
