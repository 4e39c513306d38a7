"""The due scan: what it takes, what it moves, and what it must leave alone."""

from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs, read_runs, subscribe
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.relay import due_rows
from veltrix.store.transactions import transaction

HELD_BY_A_DEAD_WORKER = (
    "state = 'running', lease_token = gen_random_uuid(), due_at = now() - interval '1 second'"
)


def scan(
    engine: Engine, *queues: str, runs_max: int = 100, **changes: Any
) -> due_rows.Scanned | None:
    options: dict[str, Any] = {"hold_s": 8.0, "hold_s_max": 300.0, "poison_crashes_max": 3}
    with transaction(engine) as tx:
        wanted = [due_rows.QueueShare(queue, runs_max) for queue in queues or ("orders",)]
        options["rescue"] = [one.queue for one in wanted]
        return due_rows.scan(tx, wanted, **(options | changes))


def taken(scanned: due_rows.Scanned | None) -> list[str]:
    return [run.id for run in scanned.runs] if scanned else []


def test_a_due_run_is_taken_once_and_due_again_after_the_hold(engine: Engine) -> None:
    ids = add_runs(engine, 3)

    assert taken(scan(engine)) == ids
    assert scan(engine) is None
    for state, due_in, hand_overs in read_runs(engine, ids, "state, due_in, hand_overs"):
        assert (state, hand_overs) == ("queued", 1)
        assert 7 < due_in <= 8


def test_the_oldest_due_come_first_and_no_more_than_asked_for(engine: Engine) -> None:
    ids = add_runs(engine, 5)
    change_runs(engine, ids[3:], "due_at = now() - interval '1 minute'")

    assert sorted(taken(scan(engine, runs_max=2))) == ids[3:]


def test_a_hinted_run_is_not_due_before_its_hold_is_over(engine: Engine) -> None:
    add_runs(engine, 1, is_hinted=True)

    assert scan(engine) is None


def test_each_hand_over_that_nobody_claims_doubles_the_hold_up_to_its_bound(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    holds = []
    for _ in range(7):
        assert taken(scan(engine)) == ids
        holds.append(round(read_runs(engine, ids, "due_in")[0][0]))
        change_runs(engine, ids, "due_at = now()")

    assert holds == [8, 16, 32, 64, 128, 256, 300]


def test_a_waiting_run_becomes_queued_only_when_its_wait_is_over(engine: Engine) -> None:
    over, not_over = add_runs(engine, 2, delay_s=60)
    change_runs(engine, [over], "due_at = now()")

    assert taken(scan(engine)) == [over]
    assert [row[0] for row in read_runs(engine, [over, not_over], "state")] == ["queued", "waiting"]


def test_an_expired_lease_is_rescued_and_the_run_travels_alone(engine: Engine) -> None:
    ids = add_runs(engine, 2)
    change_runs(engine, ids, HELD_BY_A_DEAD_WORKER)
    scanned = scan(engine)

    assert scanned is not None
    assert sorted(scanned.rescued) == ids
    assert all(run.alone for run in scanned.runs)
    assert read_runs(engine, ids, "state, alone, crashes, lease_token") == [
        ("queued", True, 0, None),
        ("queued", True, 0, None),
    ]


def test_expired_leases_are_rescued_first_though_their_queue_has_no_room(engine: Engine) -> None:
    older = add_runs(engine, 3)
    change_runs(engine, older, "due_at = now() - interval '1 hour'")
    dead, elsewhere = add_runs(engine, 1), add_runs(engine, 1, queue="mails")
    change_runs(engine, dead + elsewhere, HELD_BY_A_DEAD_WORKER)

    scanned = scan(engine, runs_max=0)

    assert scanned is not None
    assert scanned.rescued == taken(scanned) == dead
    assert scanned.first_due_at == {}, "what was passed over lies before it"


def test_a_rescued_run_can_be_claimed_again(engine: Engine) -> None:
    (run,) = add_runs(engine, 1)
    change_runs(engine, [run], HELD_BY_A_DEAD_WORKER)
    scan(engine)
    with transaction(engine) as tx:
        claims = lease_rows.claim(
            tx, "0192f0c1-1111-7111-8111-111111111111", "w", [(run, run)], 8.0
        )

    assert [claim.run_id for claim in claims] == [run]


def test_no_running_run_is_touched_while_rescue_is_forbidden(engine: Engine) -> None:
    held, free = add_runs(engine, 2)
    change_runs(engine, [held], HELD_BY_A_DEAD_WORKER)

    assert taken(scan(engine, rescue=())) == [free]
    assert read_runs(engine, [held], "state") == [("running",)]


def test_a_lease_that_holds_is_not_rescued(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    change_runs(engine, ids, HELD_BY_A_DEAD_WORKER)
    change_runs(engine, ids, "due_at = now() + interval '2 seconds'")

    assert scan(engine) is None


def test_the_third_death_alone_fails_the_run_and_counts_it(engine: Engine) -> None:
    poison, neighbour = add_runs(engine, 2)
    change_runs(engine, [poison, neighbour], HELD_BY_A_DEAD_WORKER)
    change_runs(engine, [poison], "alone = true, crashes = 2")
    scanned = scan(engine)

    assert scanned is not None
    assert [run.id for run in scanned.poisoned] == [poison]
    assert taken(scanned) == [neighbour]
    state, reason, outcome, due_at, settled = read_runs(
        engine, [poison], "state, reason, outcome, due_at, settled_at is not null"
    )[0]
    assert (state, reason, due_at, settled) == ("failed", "poison", None, True)
    assert (outcome["type"], outcome["crashes"]) == ("WorkerVanished", 3)
    with transaction(engine) as tx:
        assert tx.execute(text("select sum(failed) from counter_deltas")).scalar_one() == 1


def test_a_relay_that_died_before_it_failed_a_poison_run_leaves_that_to_the_next_scan(
    engine: Engine,
) -> None:
    (poison,) = add_runs(engine, 1)
    change_runs(engine, [poison], "alone = true, crashes = 3, hand_overs = 3")

    scanned = scan(engine)

    assert scanned is not None
    assert (taken(scanned), [run.id for run in scanned.poisoned]) == ([], [poison])
    assert read_runs(engine, [poison], "state, crashes") == [("failed", 3)]


def test_a_run_locked_by_someone_else_is_skipped_and_waited_for_by_nobody(engine: Engine) -> None:
    locked, free = add_runs(engine, 2)
    with transaction(engine) as tx:
        tx.execute(text("select id from runs where id = :id for update"), {"id": locked})

        assert taken(scan(engine)) == [free]


def test_two_relays_never_take_the_same_run(engine: Engine) -> None:
    ids = add_runs(engine, 20)
    options: dict[str, Any] = {
        "hold_s": 8.0,
        "hold_s_max": 300.0,
        "poison_crashes_max": 3,
        "rescue": (),
    }
    with transaction(engine) as one, transaction(engine) as other:
        first = taken(due_rows.scan(one, [due_rows.QueueShare("orders", 10)], **options))
        second = taken(due_rows.scan(other, [due_rows.QueueShare("orders", 100)], **options))

    assert len(first) == 10
    assert sorted(first + second) == ids


def test_one_statement_serves_each_queue_within_its_own_room(engine: Engine) -> None:
    add_runs(engine, 5, queue="orders")
    add_runs(engine, 5, queue="mails")
    with transaction(engine) as tx:
        scanned = due_rows.scan(
            tx,
            [due_rows.QueueShare("orders", 2), due_rows.QueueShare("mails", 4)],
            hold_s=8,
            hold_s_max=300,
            poison_crashes_max=3,
            rescue=(),
        )

    assert scanned is not None
    by_queue = [run.queue for run in scanned.runs]
    assert (by_queue.count("orders"), by_queue.count("mails")) == (2, 4)


def depth(engine: Engine, queue: str = "orders", **options: Any) -> due_rows.QueueDepth:
    given: dict[str, Any] = {"floors": {}, "due_floors": {}, "hold_s_max": 300.0, "rows_max": 1000}
    given["due_max"] = {queue: 3}
    with transaction(engine) as tx:
        return due_rows.depths(tx, [queue], **(given | options))[queue]


def test_depth_counts_what_was_handed_over_and_not_claimed(engine: Engine) -> None:
    add_runs(engine, 3, is_hinted=True)
    held = add_runs(engine, 2, is_hinted=True)
    change_runs(engine, held, "state = 'running', lease_token = gen_random_uuid()")
    add_runs(engine, 4, delay_s=60)
    found = depth(engine)

    assert (found.handed, found.due, found.first_due) == (3, 0, None)


def test_depth_counts_what_is_due_up_to_a_limit(engine: Engine) -> None:
    add_runs(engine, 2)
    expired = add_runs(engine, 1, is_hinted=True)
    change_runs(engine, expired, HELD_BY_A_DEAD_WORKER)
    assert depth(engine, due_max={"orders": 9}).due == 2, (
        "what a dead worker holds is not in the queue"
    )

    add_runs(engine, 5)
    assert depth(engine).due == 3 - 1


def test_depth_of_a_known_floor_is_the_same(engine: Engine) -> None:
    add_runs(engine, 3, is_hinted=True)
    first = depth(engine)
    assert first.first_handed is not None
    add_runs(engine, 2, is_hinted=True)
    floors = {"orders": first.first_handed}

    assert depth(engine, floors=floors).handed == 5


def test_queues_are_those_subscribed_and_those_with_open_runs(engine: Engine) -> None:
    subscribe(engine, "fulfil", "orders")
    subscribe(engine, "refund", "orders")
    add_runs(engine, 2, queue="retired")
    add_runs(engine, 2, queue="gone", delay_s=3600)
    with transaction(engine) as tx:
        assert {q: sorted(w) for q, w in due_rows.queues_subscribed(tx).items()} == {
            "orders": ["fulfil", "refund"]
        }
        assert sorted(due_rows.queues_with_open_runs(tx)) == ["gone", "retired"]


def test_a_lost_queue_makes_its_queued_runs_due_at_once_and_no_other(engine: Engine) -> None:
    lost = add_runs(engine, 3, is_hinted=True)
    change_runs(engine, lost, "hand_overs = 5, due_at = now() + interval '200 seconds'")
    sleeping = add_runs(engine, 1, delay_s=60)
    elsewhere = add_runs(engine, 1, queue="mails", is_hinted=True)
    with transaction(engine) as tx:
        assert due_rows.make_due(tx, "orders") == 3

    assert taken(scan(engine, "orders", "mails")) == lost
    assert read_runs(engine, sleeping, "state") == [("waiting",)]
    assert read_runs(engine, elsewhere, "hand_overs") == [(1,)]
    assert {row[0] for row in read_runs(engine, lost, "hand_overs")} == {1}


def test_runs_of_lost_messages_go_before_what_came_later(engine: Engine) -> None:
    first, *lost = add_runs(engine, 3, is_hinted=True)
    later = add_runs(engine, 2)
    with transaction(engine) as tx:
        assert due_rows.make_runs_due(tx, [first], is_first=True) == 1
        assert due_rows.make_due(tx, "orders", is_first=True) == 2

    assert taken(scan(engine, runs_max=3)) == [first, *lost]
    assert taken(scan(engine)) == later


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_lost_message_makes_only_queued_runs_due(engine: Engine, state: str) -> None:
    queued, other = add_runs(engine, 2, is_hinted=True)
    token = "gen_random_uuid()" if state == "running" else "null"
    change_runs(engine, [other], f"state = '{state}', lease_token = {token}")
    with transaction(engine) as tx:
        assert due_rows.make_runs_due(tx, [queued, other]) == 1

    assert taken(scan(engine)) == [queued]


def test_a_run_that_is_dead_lettered_again_and_again_comes_due_later_each_time(
    engine: Engine,
) -> None:
    ids = add_runs(engine, 1, is_hinted=True)
    change_runs(engine, ids, "hand_overs = 4, due_at = now() + interval '60 seconds'")
    with transaction(engine) as tx:
        due_rows.make_runs_due(tx, ids, is_backing_off=True)

    assert 3 < read_runs(engine, ids, "due_in")[0][0] <= 4
