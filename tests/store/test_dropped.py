"""Books of dropped minutes: counters = rows + dropped, whatever leaves, and whoever forgets."""

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from tests.support.due_runs import add_runs
from tests.support.old_events import add_old_events
from tests.support.settled import fold_all, run_sql, settle
from veltrix.domain.ids import event_id_of
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import Balance, balance, recount_once
from veltrix.operations.books.counter_rows import Recount
from veltrix.operations.replays.move import replay
from veltrix.prove.clean import PREFIX, clean
from veltrix.store.history.dropped_rows import (
    Dropped,
    IdBounds,
    Relations,
    bounds_of,
    dropped_by,
    note_dropped,
)
from veltrix.store.transactions import transaction

ALL = IdBounds("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")
FORGETS = [
    "delete from dropped where started > 0",
    "update dropped set routed = routed - 1, accepted = accepted - 1 where routed > 0",
    "update dropped set failed = failed + 1, succeeded = succeeded - 1 where succeeded > 0",
    "update dropped set minute = minute - 1",
    "update dropped set account_id = account_id + 1",
]


def recount(engine: Engine) -> Recount:
    return recount_once(engine, closed_minutes=-1, is_forced=True)


def opened(engine: Engine) -> Balance:
    """The balance after each minute was recounted, the sealed ones too."""
    fold_all(engine)
    recount(engine)
    with transaction(engine) as tx:
        tx.execute(text("update counters set recounted_at = null, is_sealed = false"))
        tx.execute(text("delete from counter_totals"))
    recount(engine)
    return balance(engine)


def rows_of(engine: Engine, sql: str) -> list[Any]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def totals(engine: Engine) -> list[Any]:
    return rows_of(engine, "select * from counter_totals order by account_id")


def take(tx: Connection, event_ids: Sequence[str], *, is_noted: bool = True) -> list[Dropped]:
    """These events leave with all that came of them, as a drop takes them; what was noted."""
    keys = {"events": list(event_ids)}
    for table, column in (("events", "id"), ("runs", "event_id")):
        tx.execute(
            text(
                f"create temporary table leaving_{table} on commit drop as"
                f" select * from {table} where {column} = any(cast(:events as uuid[]))"
            ),
            keys,
        )
        tx.execute(text(f"delete from {table} where {column} = any(cast(:events as uuid[]))"), keys)
    relations = Relations(events="leaving_events", runs="leaving_runs")
    return note_dropped(tx, relations, str(uuid4()), ALL) if is_noted else []


def history(engine: Engine, chance: random.Random) -> list[str]:
    """Events of several accounts and minutes with runs in all of the states; those at rest."""
    at_rest = []
    for minutes_ago in chance.sample(range(5, 3_000), 3):
        for type_ in chance.sample(["a", "b", "c"], 2):
            ids = add_old_events(engine, minutes_ago, chance.randint(1, 4), type_=type_)
            states = [chance.choice(["succeeded", "failed", "cancelled", None]) for _ in ids]
            for id_, state in zip(ids, states, strict=True):
                if state is not None:
                    settle(engine, [id_], state)
                    at_rest.append(event_id_of(id_))
    at_rest += add_runs(engine, chance.randint(1, 2), type_="nobody", is_routed=False)
    return at_rest


@pytest.mark.parametrize("seed", range(25))
def test_whatever_leaves_the_books_balance_and_the_totals_are_what_they_were(
    engine: Engine, seed: int
) -> None:
    chance = random.Random(seed)
    at_rest = history(engine, chance)
    fold_all(engine)
    recount(engine)
    before, sealed = balance(engine), totals(engine)
    leaving = chance.sample(at_rest, chance.randint(1, len(at_rest)))
    cut = chance.randint(0, len(leaving))  # what is left of a minute may leave later
    for part in (leaving[:cut], leaving[cut:]):
        with transaction(engine) as tx:
            take(tx, part)

        assert balance(engine).unaccounted == 0
        assert totals(engine) == sealed
    after = opened(engine)

    assert before.unaccounted == after.unaccounted == 0
    assert (before.events, before.runs) == (after.events, after.runs)
    kept = [
        id_
        for (id_,) in rows_of(engine, "select id::text from runs where state = 'failed'")
        if event_id_of(id_) not in leaving
    ]
    if kept:
        replay(engine, kept, ReplayMode.BEGINNING, "again", "me")
        replayed = opened(engine)
        assert (replayed.unaccounted, replayed.runs.queued) == (0, before.runs.queued + len(kept))
        settle(engine, kept, "succeeded")
        assert opened(engine).unaccounted == 0


def test_a_minute_that_is_gone_whole_is_opened_and_sealed_again(engine: Engine) -> None:
    ids = add_old_events(engine, 500, 3)
    settle(engine, ids, "succeeded")
    fold_all(engine)
    assert recount(engine).sealed == 1
    sealed = totals(engine)
    with transaction(engine) as tx:
        take(tx, [event_id_of(id_) for id_ in ids])
    run_sql(engine, "update counters set is_sealed = false", "delete from counter_totals")

    found = recount(engine)

    assert (found.unbalanced, found.sealed) == (0, 1)
    assert totals(engine) == sealed


def test_a_drop_that_forgets_the_books_is_seen_by_the_recount(engine: Engine) -> None:
    ids = add_old_events(engine, 500, 3)
    settle(engine, ids, "failed")
    with transaction(engine) as tx:
        take(tx, [event_id_of(id_) for id_ in ids[:2]], is_noted=False)

    assert opened(engine).unaccounted > 0


@pytest.mark.parametrize("lie", FORGETS)
def test_a_lie_in_the_books_of_what_was_dropped_is_seen(engine: Engine, lie: str) -> None:
    ids = add_old_events(engine, 500, 3)
    settle(engine, ids, "succeeded")
    with transaction(engine) as tx:
        take(tx, [event_id_of(id_) for id_ in ids[:2]])
    assert opened(engine).unaccounted == 0

    run_sql(engine, lie)

    assert opened(engine).unaccounted > 0


def test_an_event_that_leaves_without_its_run_is_seen(engine: Engine) -> None:
    ids = add_old_events(engine, 500, 2)
    settle(engine, ids, "succeeded")
    with transaction(engine) as tx:
        event = event_id_of(ids[0])
        tx.execute(text("create temporary table alone on commit drop as select * from events"
                        " where id = :id"), {"id": event})  # fmt: skip
        tx.execute(text("delete from events where id = :id"), {"id": event})
        nothing = "(select * from runs where false)"
        note_dropped(tx, Relations(events="alone", runs=nothing), str(uuid4()), ALL)

    assert opened(engine).unaccounted > 0


def test_an_open_run_cannot_leave_and_a_drop_is_noted_once(engine: Engine) -> None:
    ids = add_old_events(engine, 500, 2)
    with pytest.raises(IntegrityError, match="nothing_open"), transaction(engine) as tx:
        note_dropped(tx, Relations(), str(uuid4()), ALL)
    settle(engine, ids, "cancelled")
    drop_id = str(uuid4())
    with transaction(engine) as tx:
        assert note_dropped(tx, Relations(), drop_id, ALL)
        with pytest.raises(IntegrityError, match="dropped_pkey"), tx.begin_nested():
            note_dropped(tx, Relations(), drop_id, ALL)
        tx.execute(text("delete from dropped"))

    assert rows_of(engine, "select count(*) from dropped") == [(0,)]
    assert opened(engine).unaccounted == 0


def test_a_dead_letter_that_leaves_balances_when_it_is_noted(engine: Engine) -> None:
    run_sql(
        engine,
        "insert into dead_letters (queue, reason, headers, body, run_ids, received_at)"
        " values ('q', 'r', '{}', '', '{}', now() - interval '1 day')",
        "insert into counter_deltas (account_id, minute, dead_letters)"
        " select 0, floor(extract(epoch from received_at) / 60)::int, 1 from dead_letters",
    )
    assert opened(engine).unaccounted == 0

    run_sql(
        engine,
        "with gone as (delete from dead_letters returning received_at)"
        " insert into dropped (minute, account_id, drop_id, dead_letters)"
        " select floor(extract(epoch from received_at) / 60)::int, 0, gen_random_uuid(), 1"
        " from gone",
    )

    assert opened(engine).unaccounted == 0
    run_sql(engine, "delete from dropped")
    assert opened(engine).unaccounted > 0


def test_a_proof_takes_away_what_of_its_own_was_dropped(engine: Engine) -> None:
    ids = add_old_events(engine, 500, 3)
    settle(engine, ids, "succeeded")
    with transaction(engine) as tx:
        take(tx, [event_id_of(id_) for id_ in ids[:2]])
    run_sql(engine, f"update accounts set source = '{PREFIX}1'")

    assert clean(engine).dropped == 1
    assert rows_of(engine, "select * from dropped") == []


def test_the_digest_is_of_the_ids_of_events_and_then_of_runs_in_order(engine: Engine) -> None:
    ids = add_runs(engine, 5)
    settle(engine, ids, "succeeded")
    add_runs(engine, 2, type_="nobody", is_routed=False)
    run_sql(engine, "insert into events select (jsonb_populate_record(e, jsonb_build_object("
            "'id', gen_random_uuid(), 'account_id', -2))).* from events e limit 1")  # fmt: skip
    drop_id = str(uuid4())
    with transaction(engine) as tx:
        noted = note_dropped(tx, Relations(), drop_id, ALL)
        days = [datetime.now(UTC).date() + timedelta(days=number) for number in (-1, 0, 1)]
        kept = [row for day in days for row in dropped_by(tx, drop_id, day)]

    expected: dict[tuple[int, int], bytes] = {}
    for table in ("events", "runs"):
        for id_, *place in rows_of(
            engine, f"select id::text, minute, account_id from {table} order by id"
        ):
            if place[1] > 0:
                key = (place[0], place[1])
                expected[key] = expected.get(key, b"") + UUID(id_).bytes
    assert kept == noted
    assert {(row.minute, row.account_id): row.digest for row in noted} == {
        key: sha256(ids).digest() for key, ids in expected.items()
    }
    assert sum(row.accepted for row in noted) == 7
    assert sum(row.unrouted for row in noted) == 2
    assert sum(row.succeeded for row in noted) == 5


def test_the_bounds_of_a_day_are_its_ids_in_utc() -> None:
    day = bounds_of(date(2026, 12, 1))

    assert day.first == "01a22ee6-b000-0000-0000-000000000000"
    assert int(day.end[:8] + day.end[9:13], 16) - int(day.first[:8] + day.first[9:13], 16) == (
        86_400_000
    )
