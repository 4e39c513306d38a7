"""Sources and types without end: bounded, counted and said, and in the books to the event."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, event, text
from structlog.testing import capture_logs

from tests.pipeline.test_sweep import LONG_AGO
from tests.support.accepting import PLACED, accepting, submission, subscribe, subscription
from tests.support.settled import fold_all, run_sql
from veltrix.operations.books.books import Measuring, balance, fold_once, measure, recount_once
from veltrix.operations.books.read import page
from veltrix.operations.failures.triage import check_groups, fold_groups_once
from veltrix.pipeline.accept.acceptor import Acceptor
from veltrix.pipeline.accept.receipts import Receipt
from veltrix.pipeline.accept.sweep import start_events
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

ACCOUNTS_MAX = 10


@pytest.fixture
def subscribed(engine: Engine) -> None:
    """A workflow for what is sent, as of before any api starts."""
    subscribe(engine, subscription("fulfil", PLACED))


@pytest.fixture
def acceptor(database_url: str) -> Iterator[Acceptor]:
    settings = Settings(database_url=database_url, accounts_max=ACCOUNTS_MAX)
    with accepting(settings) as started:
        yield started


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def accept(acceptor: Acceptor, sources: int, *, id_: str = "1", type_: str = PLACED) -> None:
    sent = [submission(id_, source=f"/{n:04}", type_=type_) for n in range(sources)]
    answers = acceptor.accept(sent)
    assert all(isinstance(answer, Receipt) for answer in answers), answers


def groups(engine: Engine) -> dict[str, int]:
    """Unrouted events by the source of their failure group."""
    fold_all(engine)
    while fold_groups_once(engine):
        pass
    return dict(rows(engine, "select source, count from failure_groups where kind = 'unrouted'"))


@pytest.mark.usefixtures("subscribed")
def test_beyond_the_bound_events_share_one_account_and_the_books_balance(
    engine: Engine, acceptor: Acceptor
) -> None:
    accept(acceptor, 30)
    accept(acceptor, 30, id_="2")

    assert rows(engine, "select count(*) from accounts") == [(ACCOUNTS_MAX,)]
    for _ in range(2):  # before the deltas are folded, and after
        books = balance(engine)
        assert (books.events.accepted, books.runs.queued, books.unaccounted) == (60, 60, 0)
        shared = [account for account in books.by if account.is_overflow]
        assert [account.events.accepted for account in shared] == [40]
        assert (books.accounts, len(books.by)) == (ACCOUNTS_MAX, ACCOUNTS_MAX + 1)
        fold_all(engine)
    assert recount_once(engine, closed_minutes=-1, is_forced=True).unbalanced == 0


def test_who_has_an_account_keeps_it_and_a_raised_bound_gives_new_ones(
    engine: Engine, acceptor: Acceptor, database_url: str
) -> None:
    accept(acceptor, 30)
    raised = Settings(database_url=database_url, accounts_max=ACCOUNTS_MAX + 5)
    with accepting(raised, seed=2) as other:
        accept(other, 30, id_="2")

    assert rows(engine, "select count(*) from accounts") == [(ACCOUNTS_MAX + 5,)]
    assert balance(engine).unaccounted == 0
    known = "select count(*) from events e join accounts a on a.id = e.account_id"
    assert rows(engine, f"{known} where a.source <> e.source") == [(0,)]


def test_that_there_are_no_more_accounts_is_counted_and_said_once_a_minute(
    engine: Engine, acceptor: Acceptor
) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("veltrix_events_overflowed_total") or 0.0

    before = counted()
    with capture_logs() as lines:
        accept(acceptor, 30)
        for n in range(5):
            accept(acceptor, 30, id_=f"again-{n}")

    said = [line for line in lines if line["event"] == "accounts.full"]
    assert len(said) == 1
    assert (said[0]["accounts_max"], said[0]["events"]) == (ACCOUNTS_MAX, 20)
    assert "VELTRIX_ACCOUNTS_MAX" in said[0]["cure"]
    assert counted() == before + 6 * 20
    measure(engine)
    assert REGISTRY.get_sample_value("veltrix_accounts") == ACCOUNTS_MAX


def test_unrouted_events_of_further_sources_share_one_group_and_it_agrees_with_the_rows(
    engine: Engine, acceptor: Acceptor
) -> None:
    accept(acceptor, 4)
    fold_once(engine, unrouted_groups_max=6)
    accept(acceptor, 30, id_="2")
    while fold_once(engine, unrouted_groups_max=6):
        pass

    found = groups(engine)

    own = {source: count for source, count in found.items() if source}
    assert len(own) == 6
    assert {f"/{n:04}": 2 for n in range(4)}.items() <= own.items()
    assert found[""] == 34 - sum(own.values())
    assert check_groups(engine) == []
    recount_once(engine, closed_minutes=-1, is_forced=True)  # the totals are read then
    assert check_groups(engine) == []


def test_new_groups_are_said_at_a_bounded_rate_and_the_shared_one_with_its_cure(
    engine: Engine, acceptor: Acceptor
) -> None:
    for n in range(6):
        accept(acceptor, ACCOUNTS_MAX, id_=str(n), type_=PLACED)
    run_sql(
        engine,
        "insert into accounts (source, type) select '/s' || n, 't' from generate_series(1, 90) n",
        "insert into counter_deltas (account_id, minute, accepted, unrouted)"
        " select id, 100, 1, 1 from accounts where type = 't'",
    )
    while fold_once(engine, unrouted_groups_max=50):
        pass

    with capture_logs() as lines:
        assert fold_groups_once(engine)

    said = [line["event"] for line in lines]
    assert said.count("group.opened") == 20
    assert [line["groups"] for line in lines if line["event"] == "groups.more"] == [31]
    (full,) = [line for line in lines if line["event"] == "groups.unrouted_full"]
    assert full["group"] == rows(engine, "select id from failure_groups where source = ''")[0][0]


def test_events_of_the_shared_group_leave_it_when_they_are_started(
    engine: Engine, acceptor: Acceptor
) -> None:
    accept(acceptor, 30)
    while fold_once(engine, unrouted_groups_max=3):
        pass
    assert groups(engine)[""] == 27

    subscribe(engine, subscription("fulfil", PLACED))
    assert start_events(engine, PLACED, "fulfil", LONG_AGO)[0] == 30

    assert set(groups(engine).values()) == {0}
    assert check_groups(engine) == []


def test_a_group_from_before_there_was_a_bound_stays_its_accounts_own(
    engine: Engine, acceptor: Acceptor
) -> None:
    accept(acceptor, 3)
    groups(engine)
    run_sql(engine, "update accounts set has_unrouted_group = null")
    accept(acceptor, 3, id_="2")
    fold_once(engine, unrouted_groups_max=0)

    assert groups(engine) == {f"/{n:04}": 2 for n in range(3)}
    assert check_groups(engine) == []


def add_accounts(engine: Engine, count: int) -> None:
    """So many accounts with sealed minutes only, as years leave them."""
    run_sql(
        engine,
        "insert into accounts (source, type) select '/s' || n, 't'"
        f" from generate_series(1, {count}) n",
        "insert into counter_totals (account_id, accepted, routed, started, succeeded)"
        " select id, 5, 5, 5, 5 from accounts",
    )
    run_sql(engine, "update counter_totals set accepted = 6 where account_id = 7")


def test_fifty_thousand_accounts_are_summed_in_the_database_and_read_a_page_at_a_time(
    engine: Engine,
) -> None:
    add_accounts(engine, 50_000)
    fetched = 0

    @event.listens_for(engine, "after_cursor_execute")
    def _count(_c: Any, cursor: Any, *_rest: Any) -> None:
        nonlocal fetched
        fetched += max(0, cursor.rowcount)

    began = time.monotonic()
    books = balance(engine, by=20)
    took_s = time.monotonic() - began

    assert (books.events.accepted, books.unaccounted, books.accounts) == (250_001, 1, 50_000)
    assert (len(books.by), books.by[0].unaccounted, books.by[0].source) == (20, 1, "/s7")
    assert fetched < 50
    assert took_s < 4.0


def test_pages_of_accounts_follow_each_other(engine: Engine) -> None:
    add_accounts(engine, 25)

    with transaction(engine) as tx:
        pages = [page(tx, limit=10, skip=skip) for skip in (0, 10, 20, 30)]

    assert [len(found) for found in pages] == [10, 10, 5, 0]
    assert len({account.id for found in pages for account in found}) == 25
    assert pages[0][0].unaccounted == 1


def test_a_flood_of_new_sources_is_folded_in_time_that_does_not_grow_with_their_number(
    engine: Engine,
) -> None:
    """Each of 40,000 sources is new and unrouted; as many are there from before."""
    run_sql(
        engine,
        "insert into accounts (source, type) select '/s' || n, 't'"
        " from generate_series(1, 40000) n",
        "insert into counter_deltas (account_id, minute, accepted, unrouted)"
        " select id, 100, 1, 1 from accounts",
    )

    took: list[float] = []
    for _ in range(4):
        began = time.monotonic()
        assert fold_once(engine) == 10_000
        while fold_groups_once(engine):
            pass
        took.append(time.monotonic() - began)

    assert took[-1] < 3 * min(took) + 3.0, took
    assert rows(engine, "select count(*) from failure_groups") == [(1_001,)]
    assert check_groups(engine) == []


def test_books_that_take_long_to_measure_are_measured_less_often(engine: Engine) -> None:
    clock = iter([0.0, 0.0, 2.0, 41.0, 42.0, 43.0])
    measuring = Measuring(engine, lambda: next(clock))
    run_sql(engine, "insert into accounts (source, type) values ('/a', 't')")
    measuring.once()  # took two seconds
    run_sql(engine, "insert into accounts (source, type) values ('/b', 't')")

    measuring.once()
    assert REGISTRY.get_sample_value("veltrix_accounts") == 1
    measuring.once()
    assert REGISTRY.get_sample_value("veltrix_accounts") == 2
