"""A canary goes the way of every event, and is in no book, list or figure of what users sent."""

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands
from tests.support.accepting import accepting, submission, subscribe, subscription
from tests.support.settled import fold_all
from veltrix.domain.events import (
    CANARY_ACCOUNT,
    CANARY_SOURCE,
    CANARY_TYPE_PREFIX,
    CANARY_WORKFLOW,
)
from veltrix.operations.books import overview
from veltrix.operations.books.books import balance, recount_once
from veltrix.operations.runs import read, read_events
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read_events import EventFilter
from veltrix.operations.runs.read_pace import paces
from veltrix.pipeline.accept.event_checks import BadEvent
from veltrix.pipeline.accept.receipts import Receipt
from veltrix.pipeline.accept.routing import RoutingTable
from veltrix.releases.subscription_rows import current
from veltrix.settings.fields import Settings
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction

TYPE = f"{CANARY_TYPE_PREFIX}orders"


def test_a_canary_goes_through_the_queue_of_its_type_and_starts_nothing_else() -> None:
    table = RoutingTable([("fulfil", "orders", ["shop.*"]), ("greedy", "mail", ["veltrix.*"])])

    assert [(r.workflow, r.queue) for r in table.routes(TYPE)] == [(CANARY_WORKFLOW, "orders")]
    assert [r.queue for r in table.routes(f"{CANARY_TYPE_PREFIX}mail")] == ["mail"]
    assert table.routes(f"{CANARY_TYPE_PREFIX}nobody") == []
    assert [r.workflow for r in table.routes("veltrix.other")] == ["greedy"]


@pytest.mark.parametrize(("source", "type_"), [(CANARY_SOURCE, "shop.order"), ("/shop", TYPE)])
def test_nobody_else_has_its_source_or_its_types(source: str, type_: str) -> None:
    with pytest.raises(BadEvent, match="canary's"):
        submission(source=source, type_=type_)


def test_it_comes_out_and_is_in_no_book_list_or_figure(
    engine: Engine, settings: Settings, hands: Hands
) -> None:
    subscribe(engine, subscription("fulfil", "shop.order.placed"))
    with accepting(settings) as acceptor:
        sent = submission("c1", '["whatever it holds"]', source=CANARY_SOURCE, type_=TYPE)
        receipt = acceptor.accept([sent])[0]
        again = acceptor.accept([sent])[0]
    assert isinstance(receipt, Receipt)
    assert isinstance(again, Receipt)
    assert again.duplicate
    (run,) = receipt.runs
    assert run.workflow == CANARY_WORKFLOW

    assert _figures(engine) == (0, 0, 0, 0, [], [])
    assert hands().run([run.id]) == {run.id: "succeeded"}
    assert _figures(engine) == (0, 0, 0, 0, [], [])
    with transaction(engine) as tx:
        assert tx.exec_driver_sql("select account_id, outcome::text from runs").all() == [
            (CANARY_ACCOUNT, "true")
        ]
        assert tx.exec_driver_sql(f"select count(*) from {JOURNAL_OF} j").scalar_one() == 1
        by_name = read.page(tx, RunQuery(workflow=CANARY_WORKFLOW)).items
        assert [row.id for row in by_name] == [run.id]
        by_source = read_events.page(tx, EventFilter(source=CANARY_SOURCE)).items
        assert [row.event for row in by_source] == [receipt.event]
        assert [row.workflow for row in current(tx)] == ["fulfil"]


def _figures(engine: Engine) -> tuple[object, ...]:
    """What users are told, before and after all is booked and recounted."""
    told = []
    for is_booked in (False, True):
        if is_booked:
            fold_all(engine)
            found = recount_once(engine, closed_minutes=-1, is_forced=True)
            assert (found.unbalanced, found.minutes) == (0, 0), "nothing of it is looked at"
        books = balance(engine)
        with transaction(engine) as tx:
            told.append(
                (
                    books.events.accepted,
                    books.runs.started,
                    books.runs.open,
                    books.unaccounted,
                    [queue.queued for queue in overview.queues(tx)],
                    read.page(tx, RunQuery()).items + read_events.page(tx, EventFilter()).items,
                )
            )
            assert overview.minutes(tx, 60) == []
            assert {pace.settled for pace in paces(tx)} <= {0}
    assert told[0] == told[1]
    return told[0]
