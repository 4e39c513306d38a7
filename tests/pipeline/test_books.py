"""The books balance through a whole life, and every falsified counter or row is seen."""

import random
from threading import Thread

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs
from tests.support.settled import fold_all, hold, run_sql, settle
from veltrix.domain.events import NewEvent
from veltrix.domain.ids import EventIds, run_id, workflow_suffix
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import Balance, balance, fold_once, measure, recount_once
from veltrix.operations.books.counter_rows import PROVABLE, Recount, lock_books
from veltrix.operations.replays.move import replay
from veltrix.operations.runs.cancel import cancel
from veltrix.pipeline.accept import ledger_rows
from veltrix.store.transactions import transaction
from veltrix.telemetry import oldest_open_seconds, open_runs, unaccounted


def recount(engine: Engine) -> Recount:
    """Recount every minute, the present one too, whenever it was recounted last."""
    found = recount_once(engine, closed_minutes=-1, is_forced=True)
    measure(engine)
    return found


def audit(engine: Engine) -> Balance:
    """The balance when all is folded and recounted."""
    fold_all(engine)
    recount(engine)
    return balance(engine)


def lifes(engine: Engine) -> dict[str, list[str]]:
    """Runs in every state, and events nobody subscribes to."""
    ids = {name: add_runs(engine, 2) for name in ("succeeded", "failed", "cancelled", "running")}
    ids |= {"queued": add_runs(engine, 2), "waiting": add_runs(engine, 2, delay_s=60)}
    ids["unrouted"] = add_runs(engine, 2, type_="shop.unknown", is_routed=False)
    for state in ("succeeded", "failed", "cancelled"):
        settle(engine, ids[state], state)
    hold(engine, ids["running"])
    return ids


def test_an_empty_system_balances(engine: Engine) -> None:
    books = audit(engine)

    assert books.unaccounted == 0
    assert books.events.accepted == books.runs.started == 0
    assert books.by == []


def test_every_state_is_counted_and_nothing_is_unaccounted(engine: Engine) -> None:
    lifes(engine)

    for books in (balance(engine), audit(engine)):  # before the deltas are folded, and after
        assert (books.events.accepted, books.events.routed, books.events.unrouted) == (14, 12, 2)
        runs = books.runs
        assert (runs.started, runs.succeeded, runs.failed, runs.cancelled) == (12, 2, 2, 2)
        assert (runs.open, runs.queued, runs.running, runs.waiting) == (6, 2, 2, 2)
        assert books.unaccounted == 0


def test_the_books_balance_at_every_step_of_a_life(engine: Engine) -> None:
    ids = add_runs(engine, 3)
    assert audit(engine).unaccounted == 0

    settle(engine, ids, "failed")
    assert audit(engine).runs.failed == 3
    assert recount(engine).minutes == 0, "a settled minute that agrees is sealed"

    replay(engine, ids[:2], ReplayMode.BEGINNING, "again", "me")
    books = audit(engine)
    assert (books.runs.failed, books.runs.queued, books.unaccounted) == (1, 2, 0)

    cancel(engine, ids[:1], "no more", "me")
    settle(engine, ids[1:2], "succeeded")
    books = audit(engine)
    runs = books.runs
    assert (runs.started, runs.failed, runs.cancelled, runs.succeeded) == (3, 1, 1, 1)
    assert (runs.open, books.unaccounted) == (0, 0)


def test_an_event_that_a_late_sweep_routes_moves_from_unrouted_to_routed(engine: Engine) -> None:
    add_runs(engine, 1, is_routed=False)
    assert audit(engine).events.unrouted == 1

    run_sql(
        engine,
        "update events set unrouted = false",
        "insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, due_at,"
        " state, workflow, queue) select (left(id::text, 30) || '000001')::uuid, id, account_id,"
        " minute, 2, accepted_at, now(), 'queued', 'late', 'q' from events",
        "insert into counter_deltas (account_id, minute, unrouted, routed, started)"
        " select account_id, minute, -1, 1, 1 from events",
    )

    books = audit(engine)
    assert (books.events.routed, books.events.unrouted, books.runs.queued) == (1, 0, 1)
    assert books.unaccounted == 0


def test_the_books_are_kept_per_source_and_type_and_the_worst_come_first(engine: Engine) -> None:
    add_runs(engine, 5)
    add_runs(engine, 2, type_="shop.other")
    astray = add_runs(engine, 1, type_="shop.astray")
    run_sql(engine, f"delete from runs where id = '{astray[0]}'")

    books = balance(engine)

    assert [account.type for account in books.by] == [
        "shop.astray",
        "shop.order.placed",
        "shop.other",
    ]
    assert [account.runs.open for account in books.by] == [0, 5, 2]
    assert books.by[0].unaccounted == 1
    assert [account.type for account in balance(engine, by=1).by] == ["shop.astray"]


def test_duplicates_and_refusals_are_counted_beside_the_books(engine: Engine) -> None:
    with transaction(engine) as tx:
        ledger_rows.count_beside(tx, [(0, 3, 4)])

    books = audit(engine)

    assert (books.beside.duplicates, books.beside.refused, books.unaccounted) == (3, 4, 0)
    assert (books.by[0].source, books.by[0].type) == (None, None)


FALSE_COUNTERS = [
    f"update counters set {name} = {name} + {by}" for name in PROVABLE for by in (1, -1)
]
FALSE_ROWS = {
    "a run is gone": "delete from runs where state = 'succeeded'",
    "an open run is gone": "delete from runs where state = 'queued'",
    "a run has another outcome": "update runs set state = 'failed' where state = 'succeeded'",
    "an open run is settled by hand": (
        "update runs set state = 'cancelled', due_at = null, settled_at = now()"
        " where state = 'waiting'"
    ),
    "a settled run is opened by hand": (
        "update runs set state = 'queued', life = 0, due_at = now(), settled_at = null"
        " where state = 'failed'"
    ),
    "an event is gone": "delete from events where unrouted",
    "an event with runs is gone": "delete from events where not unrouted",
    "an unrouted event is called routed": "update events set unrouted = false where unrouted",
    "a routed event is called unrouted": "update events set unrouted = true where not unrouted",
    "a run is another account's": "update runs set account_id = account_id + 1",
    "an event is another account's": "update events set account_id = account_id + 1",
    "a run is another minute's": "update runs set minute = minute - 1",
    "an event is another minute's": "update events set minute = minute - 1",
    "a run appeared from nowhere": (
        "insert into runs select (jsonb_populate_record(r, jsonb_build_object("
        "'id', left(r.id::text, 30) || '000001'))).* from runs r where state = 'succeeded'"
    ),
    "a dead letter appeared from nowhere": (
        "insert into dead_letters (queue, reason, headers, body, run_ids)"
        " values ('q', 'r', '{}', '', '{}')"
    ),
    "the counters are gone": "delete from counters",
}


@pytest.mark.parametrize("lie", [*FALSE_COUNTERS, *FALSE_ROWS.values()])
def test_a_falsified_counter_or_row_of_an_unsealed_minute_is_seen(engine: Engine, lie: str) -> None:
    lifes(engine)
    assert audit(engine).unaccounted == 0

    run_sql(engine, lie)

    found = recount(engine)
    assert found.unbalanced >= 1
    assert found.discrepancy > 0
    assert balance(engine).unaccounted > 0
    assert unaccounted._value.get() > 0


@pytest.mark.parametrize(
    "lie",
    [
        "delete from runs where state = 'queued'",
        "update counters set started = started + 1",
        "update counters set accepted = accepted - 1",
        "update counter_totals set succeeded = succeeded - 1",
    ],
)
def test_a_lie_about_what_is_open_or_routed_is_seen_without_a_recount(
    engine: Engine, lie: str
) -> None:
    settle(engine, add_runs(engine, 2, type_="shop.sealed"), "succeeded")
    lifes(engine)
    assert audit(engine).unaccounted == 0

    run_sql(engine, lie)

    assert balance(engine).unaccounted > 0


def test_a_lost_delta_is_seen(engine: Engine) -> None:
    add_runs(engine, 1)
    run_sql(engine, "delete from counter_deltas")

    recount(engine)

    assert balance(engine).unaccounted > 0


def test_what_is_repaired_balances_again(engine: Engine) -> None:
    lifes(engine)
    fold_all(engine)
    run_sql(engine, "update counters set failed = failed + 5")
    recount(engine)
    assert balance(engine).unaccounted == 5 * 2

    run_sql(engine, "update counters set failed = failed - 5")
    recount(engine)

    assert balance(engine).unaccounted == 0


def test_a_minute_is_recounted_only_when_it_is_closed(engine: Engine) -> None:
    add_runs(engine, 1)
    fold_all(engine)

    assert recount_once(engine) == Recount()


def add_old_runs(engine: Engine, minutes_ago: int, count: int = 1) -> list[str]:
    """Open runs of events that were accepted so many minutes ago."""
    with transaction(engine) as tx:
        now_ms = int(tx.execute(text("select extract(epoch from now()) * 1000")).scalar_one())
        unix_ms = now_ms - minutes_ago * 60_000
        account = ledger_rows.accounts(tx, [("/old", "old")], 1_000)["/old", "old"]
        items = []
        for event_id in EventIds(random.Random(minutes_ago).getrandbits).make(unix_ms, count):
            start = ledger_rows.RunStart(run_id(event_id, workflow_suffix("old")), "old", "old")
            event = NewEvent(source="/old", id=event_id, type="old", digest=b"")
            items.append(ledger_rows.EventInsert(event_id, account, event, [start]))
        ledger_rows.insert(tx, sorted(items, key=lambda item: item.event.id), unix_ms, hold_s=8.0)
    return [item.runs[0].id for item in items]


def test_closed_minutes_are_sealed_and_one_call_reads_a_bounded_number_of_rows(
    engine: Engine,
) -> None:
    for minutes_ago in (5, 7, 9):
        settle(engine, add_old_runs(engine, minutes_ago, count=10), "succeeded")
    fold_all(engine)

    found = [recount_once(engine, rows_max=45) for _ in range(3)]

    assert [one.minutes for one in found] == [2, 1, 0]
    assert [one.sealed for one in found] == [2, 1, 0]
    assert balance(engine).runs.succeeded == 30


def test_a_minute_without_counters_is_found_by_its_rows(engine: Engine) -> None:
    add_old_runs(engine, 5)
    run_sql(engine, "delete from counter_deltas")

    found = recount_once(engine)

    assert (found.minutes, found.unbalanced) == (1, 1)
    assert balance(engine).unaccounted > 0


def test_a_minute_with_open_runs_is_recounted_as_it_ages(engine: Engine) -> None:
    add_old_runs(engine, 100)
    fold_all(engine)
    found = [recount_once(engine).minutes for _ in range(2)]

    for age in (24, 26):
        run_sql(engine, f"update counters set recounted_at = now() - interval '{age} minutes'")
        found.append(recount_once(engine).minutes)

    assert found == [1, 0, 0, 1]


def test_a_minute_whose_last_run_is_settled_is_recounted_at_once(engine: Engine) -> None:
    ids = add_old_runs(engine, 100)
    fold_all(engine)
    recount_once(engine)

    settle(engine, ids, "succeeded")
    fold_all(engine)

    assert recount_once(engine).sealed == 1


def test_two_processes_that_fold_count_each_delta_once(engine: Engine) -> None:
    for _ in range(30):
        add_runs(engine, 3)
    folded: list[int] = []

    def fold() -> None:
        folded.extend(fold_once(engine, list_max=2) for _ in range(30))

    threads = [Thread(target=fold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rest = fold_all(engine)

    assert sum(folded) + rest == 30
    books = audit(engine)
    assert (books.runs.started, books.unaccounted) == (90, 0)


def test_nothing_is_folded_or_recounted_while_another_process_does(engine: Engine) -> None:
    add_runs(engine, 1)

    with transaction(engine) as other:
        assert lock_books(other)

        assert fold_once(engine) == 0
        assert recount(engine) == Recount()
        assert balance(engine).unaccounted == 0
    assert fold_once(engine) == 1


def test_the_books_balance_in_every_snapshot_while_runs_move(engine: Engine) -> None:
    stopping = False

    def move() -> None:
        while not stopping:
            ids = add_runs(engine, 4)
            settle(engine, ids[:2], "succeeded")
            settle(engine, ids[2:], "failed")
            replay(engine, ids[2:3], ReplayMode.BEGINNING, "again", "me")
            cancel(engine, ids[2:3], "no", "me")

    mover = Thread(target=move)
    mover.start()
    seen = []
    for _ in range(15):
        fold_once(engine, list_max=7)
        found = recount(engine)
        seen.append((balance(engine).unaccounted, found.discrepancy))
    stopping = True
    mover.join()

    assert seen == [(0, 0)] * 15
    assert audit(engine).unaccounted == 0


def test_a_recount_sets_the_gauges(engine: Engine) -> None:
    lifes(engine)

    audit(engine)

    assert unaccounted._value.get() == 0
    assert [open_runs.labels(state=s)._value.get() for s in ("queued", "running", "waiting")] == [
        2,
        2,
        2,
    ]
    assert 0 < oldest_open_seconds._value.get() < 60
