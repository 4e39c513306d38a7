"""Accept: committed before it is answered, each event once, nobody refused for a neighbour."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import PLACED, accepting, submission, subscribe, subscription
from tests.support.cut import line_to
from tests.support.wait import until
from veltrix.broker.handed import HandedEvent
from veltrix.domain.due import DueRun
from veltrix.pipeline.accept.acceptor import Acceptor
from veltrix.pipeline.accept.cloudevents import parse_binary
from veltrix.pipeline.accept.event_list import Answer, DirectStart, Submission
from veltrix.pipeline.accept.new_rows import DOUBTED_LISTS
from veltrix.pipeline.accept.receipts import (
    AcceptUnavailable,
    EventConflict,
    EventUnrouted,
    EventUnstorable,
    Receipt,
)
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

SettingsFor = Callable[..., Settings]


@pytest.fixture
def settings_for(database_url: str) -> SettingsFor:
    def make(**changes: Any) -> Settings:
        given = {"database_url": database_url, "broker_url": "amqp://127.0.0.1:1/"} | changes
        return Settings(**given)

    return make


@pytest.fixture
def acceptor(engine: Engine, settings_for: SettingsFor) -> Iterator[Acceptor]:
    subscribe(
        engine,
        subscription("fulfil", PLACED),
        subscription("audit", "shop.*", queue="audit"),
    )
    with accepting(settings_for()) as started:
        yield started


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def count(engine: Engine, table: str) -> int:
    return int(rows(engine, f"select count(*) from {table}")[0][0])


def receipt(answer: Answer) -> Receipt:
    assert isinstance(answer, Receipt), answer
    return answer


def unstorable(id_: str) -> Submission:
    """An event that parsing would have refused: PostgreSQL cannot hold its subject."""
    good = submission(id_)
    return Submission(msgspec.structs.replace(good.event, subject="a\x00b"))


def test_an_event_and_the_runs_it_starts_are_there_before_the_answer(
    acceptor: Acceptor, engine: Engine
) -> None:
    got = receipt(acceptor.accept([submission(created_by="till")])[0])

    assert got.duplicate is False
    assert rows(engine, "select id::text, source, sender_id, data::text, unrouted from events") == [
        (got.event, "/shop", "1", "{}", False)
    ]
    found = rows(engine, "select id::text, workflow, queue, state, created_by from runs")
    assert sorted(found) == sorted(
        (
            run.id,
            run.workflow,
            {"fulfil": "orders", "audit": "audit"}[run.workflow],
            "queued",
            "till",
        )
        for run in got.runs
    )
    assert sorted(run.workflow for run in got.runs) == ["audit", "fulfil"]
    assert rows(engine, "select accepted, routed, unrouted, started from counter_deltas") == [
        (1, 1, 0, 2)
    ]


def test_what_is_sent_again_among_new_events_changes_nothing_in_any_list(
    acceptor: Acceptor, engine: Engine
) -> None:
    sent: list[str] = []
    for number in range(2 * DOUBTED_LISTS):
        ids = [f"new-{number}-{i}" for i in range(3)]
        again = sent[-1:] if number % 7 == 3 else []
        got = [receipt(one) for one in acceptor.accept(list(map(submission, ids + again)))]

        assert [one.duplicate for one in got] == [False] * 3 + [True] * len(again)
        assert all(len(one.runs) == 2 for one in got)
        sent += ids

    assert rows(engine, "select count(*), count(distinct sender_id) from events") == [(120, 120)]
    assert rows(engine, "select count(*) from identities") == [(120,)]
    assert rows(engine, "select sum(accepted), sum(started) from counter_deltas") == [(120, 240)]


def test_an_event_nobody_subscribes_to_is_kept_as_unrouted(
    acceptor: Acceptor, engine: Engine
) -> None:
    got = receipt(acceptor.accept([submission(type_="other")])[0])

    assert got.runs == []
    assert rows(engine, "select unrouted from events") == [(True,)]
    assert count(engine, "runs") == 0


def test_a_setting_refuses_unrouted_events_but_knows_those_it_took(
    acceptor: Acceptor, engine: Engine, settings_for: SettingsFor
) -> None:
    first = receipt(acceptor.accept([submission(type_="other")])[0])

    with accepting(settings_for(refuse_unrouted=True), seed=1) as strict:
        again, other = strict.accept([submission(type_="other"), submission("2", type_="other")])

    assert receipt(again).event == first.event
    assert isinstance(other, EventUnrouted)
    assert count(engine, "events") == 1


def test_the_same_event_gets_its_first_receipt_and_other_content_a_conflict(
    acceptor: Acceptor, engine: Engine
) -> None:
    first = receipt(acceptor.accept([submission(data='{"a":1}')])[0])
    again, other = acceptor.accept([submission(data='{"a":1}'), submission(data='{"a":2}')])

    assert receipt(again) == msgspec.structs.replace(
        first, duplicate=True, runs=sorted(first.runs, key=lambda run: run.id)
    )
    assert isinstance(other, EventConflict)
    assert other.event == first.event
    assert count(engine, "events") == 1
    assert count(engine, "runs") == 2


def test_an_event_that_was_compared_by_its_very_bytes_is_known_by_them_again(
    acceptor: Acceptor,
) -> None:
    """Its digest is older than the rule that the HTTP mode makes no difference."""

    def sent(body: bytes) -> Submission:
        head = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": PLACED}
        head["content-type"] = "application/json; charset=utf-8"
        return Submission(parse_binary([(k.encode(), v.encode()) for k, v in head.items()], body))

    old = sent(b'{"n": 1}\n')
    assert old.event.digest_as_sent is not None
    old.event.digest, old.event.digest_as_sent = old.event.digest_as_sent, None
    (first,) = acceptor.accept([old])
    again, other = acceptor.accept([sent(b'{"n": 1}\n')]) + acceptor.accept([sent(b'{"n": 2}\n')])

    assert receipt(again).duplicate
    assert receipt(again).event == receipt(first).event
    assert isinstance(other, EventConflict)


def test_equal_events_in_one_list_become_one(acceptor: Acceptor, engine: Engine) -> None:
    first, second, other = acceptor.accept(
        [submission(data="1"), submission(data="1"), submission(data="2")]
    )

    assert receipt(first).duplicate is False
    assert receipt(second).duplicate is True
    assert receipt(second).runs == receipt(first).runs
    assert isinstance(other, EventConflict)
    assert count(engine, "events") == 1
    assert count(engine, "runs") == 2


def test_a_value_that_cannot_be_stored_is_refused_alone(acceptor: Acceptor, engine: Engine) -> None:
    given = [submission(str(i)) for i in range(9)]
    given[3], given[7] = unstorable("3"), unstorable("7")
    answers = acceptor.accept(given)

    assert [isinstance(a, Receipt) for a in answers] == [i not in {3, 7} for i in range(9)]
    assert isinstance(answers[3], EventUnstorable)
    assert count(engine, "events") == 7
    assert rows(engine, "select sum(accepted) from counter_deltas") == [(7,)]


def test_a_lone_surrogate_is_refused_alone(acceptor: Acceptor) -> None:
    bad = submission("2")
    bad.event.subject = "\ud800"
    answers = acceptor.accept([submission("1"), bad])

    assert isinstance(answers[0], Receipt)
    assert isinstance(answers[1], EventUnstorable)


def test_a_start_by_name_starts_that_workflow_only_after_its_delay(
    acceptor: Acceptor, engine: Engine
) -> None:
    start = DirectStart("fulfil", "orders", delay_s=60)
    got = receipt(acceptor.accept([submission(start=start)])[0])

    assert [run.workflow for run in got.runs] == ["fulfil"]
    found = rows(engine, "select state, due_at > now() + interval '50 seconds' from runs")
    assert found == [("waiting", True)]


def test_a_run_is_hinted_while_there_is_room_and_is_due_at_once_otherwise(
    engine: Engine, settings_for: SettingsFor
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    asked: list[tuple[str, int]] = []
    hinted: list[DueRun] = []

    def take_credit(queue: str, runs: int) -> int:
        asked.append((queue, runs))
        return 2

    with accepting(settings_for(), take_credit=take_credit, hint=hinted.extend) as acceptor:
        acceptor.accept([submission(str(i)) for i in range(3)])

    assert asked == [("orders", 3)]
    later = "select id::text from runs where due_at > now() + interval '1 second' order by id"
    assert sorted(run.id for run in hinted) == [row[0] for row in rows(engine, later)]
    assert len(hinted) == 2


def test_what_is_hinted_is_handed_over_as_claimed_with_its_event(
    engine: Engine, settings_for: SettingsFor
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    hinted: list[DueRun] = []
    large = json.dumps("x" * 8_192)
    with accepting(settings_for(), take_credit=lambda _, n: n, hint=hinted.extend) as acceptor:
        acceptor.accept([submission("1"), submission("2", large), submission("3", '{"a": 1.50}')])
        acceptor.accept([submission("4")])

    by_id = {run.id: run for run in hinted}
    found = rows(
        engine,
        "select r.id::text, r.lease_token::text, e.sender_id, e.data::text, e.accepted_at, r.due_at"
        " from runs r join events e on e.id = r.event_id order by e.sender_id",
    )
    assert len(found) == 4
    for run_id, token, sender_id, data, accepted_at, due_at in found:
        run = by_id[run_id]
        if sender_id == "2":
            assert (token, run.lease, run.packed) == (None, None, b"")
            continue
        assert run.lease is not None
        assert run.lease.token == token
        event = msgspec.json.decode(run.packed, type=HandedEvent)
        assert (event.run_id, event.id, event.data_text) == (run_id, sender_id, data)
        assert event.accepted_at == accepted_at
        until_s = run.lease.until_ms / 1000 - accepted_at.timestamp()
        assert until_s == pytest.approx(4.0, abs=0.5), "half of the hold"
        assert due_at.timestamp() - accepted_at.timestamp() == pytest.approx(8.0, abs=0.5)
    assert len({token for _, token, *_ in found if token}) == 2, "one for each list"


def test_nothing_is_handed_over_as_claimed_where_that_is_switched_off(
    engine: Engine, settings_for: SettingsFor
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    hinted: list[DueRun] = []
    settings = settings_for(handed_bytes_max=0)
    with accepting(settings, take_credit=lambda _, n: n, hint=hinted.extend) as acceptor:
        acceptor.accept([submission("1")])

    assert [(run.lease, run.packed) for run in hinted] == [(None, b"")]
    assert rows(engine, "select lease_token from runs") == [(None,)]


def test_a_new_subscription_is_seen_within_the_cache_time(
    acceptor: Acceptor, engine: Engine
) -> None:
    acceptor.accept([submission("0", type_="new.kind")])
    subscribe(engine, subscription("late", "new.kind"))
    ids = iter(range(1, 10_000))

    def has_started() -> bool:
        return bool(
            receipt(acceptor.accept([submission(str(next(ids)), type_="new.kind")])[0]).runs
        )

    until(has_started, deadline_s=10, what="the subscription to be seen")


def test_refusals_and_duplicates_are_counted_beside_the_books(
    acceptor: Acceptor, engine: Engine
) -> None:
    acceptor.accept([submission()])
    acceptor.accept([submission(), submission(data="2")])
    acceptor.count_refused(5)
    beside = "select sum(duplicates), sum(refused) from counter_deltas"

    until(lambda: rows(engine, beside) == [(1, 6)], what="the counts")
    by_account = "select account_id = 0, sum(refused) from counter_deltas group by 1 order by 1"
    assert rows(engine, by_account) == [(False, 1), (True, 5)]


def test_all_requests_that_wait_share_one_commit(engine: Engine, settings_for: SettingsFor) -> None:
    async def submit(acceptor: Acceptor) -> list[list[Answer]]:
        first = acceptor.submit([submission("first")])
        rest = [acceptor.submit([submission(str(i))]) for i in range(300)]
        return await asyncio.gather(first, *rest)

    with accepting(settings_for()) as acceptor:
        acceptor.accept([submission("warm")])
        answers = asyncio.run(submit(acceptor))

    assert len({receipt(one).event for (one,) in answers}) == 301
    assert count(engine, "events") == 302
    assert count(engine, "counter_deltas") < 20


def test_a_request_larger_than_a_list_is_taken_whole(
    engine: Engine, settings_for: SettingsFor
) -> None:
    with accepting(settings_for(accept_list_events_max=10)) as acceptor:
        answers = acceptor.accept([submission(str(i)) for i in range(35)])

    assert [receipt(answer).id for answer in answers] == [str(i) for i in range(35)]
    assert count(engine, "events") == 35


# What may wait is bounded


def test_more_than_may_wait_is_refused_and_nothing_of_it_taken(
    engine: Engine, settings_for: SettingsFor
) -> None:
    limits = {"accept_waiting_events_max": 1_000, "batch_events_max": 1_000}

    async def flood(acceptor: Acceptor) -> tuple[int, int]:
        taken, refused = [], 0
        for i in range(200):
            try:
                taken.append(acceptor.submit([submission(f"{i}-{j}") for j in range(100)]))
            except AcceptUnavailable:
                refused += 1
        done = await asyncio.gather(*taken)
        return sum(len(answers) for answers in done), refused

    with accepting(settings_for(**limits)) as acceptor:
        taken, refused = asyncio.run(flood(acceptor))

        assert refused > 0
        assert count(engine, "events") == taken
        assert receipt(acceptor.accept([submission("after")])[0]).duplicate is False


def test_a_stopped_acceptor_finishes_what_waits_and_refuses_the_rest(
    engine: Engine, settings_for: SettingsFor
) -> None:
    async def submit_and_stop(acceptor: Acceptor) -> list[list[Answer]]:
        waiting = [acceptor.submit([submission(str(i))]) for i in range(50)]
        await asyncio.to_thread(acceptor.stop)
        return await asyncio.gather(*waiting)

    with accepting(settings_for()) as acceptor:
        answers = asyncio.run(submit_and_stop(acceptor))

        assert all(isinstance(one, Receipt) for (one,) in answers)
        with pytest.raises(AcceptUnavailable):
            acceptor.accept([submission("late")])
    assert count(engine, "events") == 50


# The database goes away


def test_a_connection_that_died_while_idle_is_replaced_unnoticed(
    acceptor: Acceptor, engine: Engine
) -> None:
    acceptor.accept([submission("1")])
    kill = (
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'accept'"
    )
    assert rows(engine, kill) == [(True,)]

    assert receipt(acceptor.accept([submission("2")])[0]).duplicate is False


def test_while_the_database_is_away_every_answer_is_unavailable(
    engine: Engine, database_url: str, settings_for: SettingsFor
) -> None:
    with line_to(database_url) as line, accepting(settings_for(), url=line.url) as acceptor:
        acceptor.accept([submission("1")])
        line.take_down()
        with pytest.raises(AcceptUnavailable):
            acceptor.accept([submission("2")])
        line.bring_up()

        assert receipt(acceptor.accept([submission("2")])[0]).duplicate is False
    assert count(engine, "events") == 2


def test_a_commit_whose_answer_was_lost_is_unavailable_and_a_duplicate_when_sent_again(
    engine: Engine, database_url: str, settings_for: SettingsFor
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    hinted: list[DueRun] = []
    with (
        line_to(database_url) as line,
        accepting(
            settings_for(), url=line.url, take_credit=lambda _, n: n, hint=hinted.extend
        ) as acceptor,
    ):
        acceptor.accept([submission("1")])
        line.swallow_answer_to(b"sent-once", stays_down=True)
        with pytest.raises(AcceptUnavailable):
            acceptor.accept([submission("sent-once")])
        assert line.swallowed.is_set()
        line.bring_up()
        again = receipt(acceptor.accept([submission("sent-once")])[0])

    assert again.duplicate is True
    assert [run.id for run in hinted[1:]] == [run.id for run in again.runs], "it may be there"
    assert hinted[1].lease is not None
    assert (hinted[1].lease.until_ms, hinted[1].packed) == (0, b""), "nobody begins it unasked"
    assert count(engine, "events") == 2
    assert count(engine, "runs") == 2


def test_a_commit_whose_answer_was_lost_is_found_again_when_the_database_is_there(
    engine: Engine, database_url: str, settings_for: SettingsFor
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    hinted: list[DueRun] = []
    with (
        line_to(database_url) as line,
        accepting(
            settings_for(), url=line.url, take_credit=lambda _, n: n, hint=hinted.extend
        ) as acceptor,
    ):
        acceptor.accept([submission("1")])
        line.swallow_answer_to(b"sent-once", stays_down=False)
        got = receipt(acceptor.accept([submission("sent-once")])[0])

        assert line.swallowed.is_set()
    assert got.duplicate is False
    assert [run.id for run in hinted[1:]] == [run.id for run in got.runs]
    assert count(engine, "events") == count(engine, "runs") == 2


def test_two_acceptors_with_the_same_identities_in_opposite_order_take_each_once(
    engine: Engine, settings_for: SettingsFor
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    ids = [f"{i:03}" for i in range(200)]

    def send(acceptor: Acceptor, order: list[str]) -> list[Receipt]:
        found = []
        for _ in range(3):
            found += [receipt(a) for a in acceptor.accept([submission(i) for i in order])]
        return found

    with (
        accepting(settings_for(), seed=1) as one,
        accepting(settings_for(), seed=2) as two,
        ThreadPoolExecutor(2) as threads,
    ):
        sent = [threads.submit(send, one, ids), threads.submit(send, two, ids[::-1])]
        receipts = [got for future in sent for got in future.result(60)]

    assert count(engine, "events") == count(engine, "runs") == 200
    assert sum(not got.duplicate for got in receipts) == 200
    assert len({(got.id, got.event, got.runs[0].id) for got in receipts}) == 200


def test_an_answer_nobody_waits_for_any_more_disturbs_nobody(acceptor: Acceptor) -> None:
    async def go_away() -> None:
        acceptor.submit([submission("1")]).cancel()
        answers = await acceptor.submit([submission("2")])
        assert isinstance(answers[0], Receipt)

    asyncio.run(go_away())
