"""What a stale cache kept from a workflow is started, once; history only when asked for."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, read_runs, subscribe
from veltrix.domain.ids import run_id, workflow_suffix
from veltrix.pipeline.accept.sweep import Sweep, UnknownWorkflow, count_events, start_events
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def run_of(event_id: str, workflow: str = "fulfil") -> str:
    return run_id(event_id, workflow_suffix(workflow))


def books(engine: Engine) -> tuple[int, ...]:
    with transaction(engine) as tx:
        return tuple(
            tx.execute(
                text(
                    "select sum(accepted), sum(routed), sum(unrouted), sum(started)"
                    " from counter_deltas"
                )
            ).one()
        )


def age(engine: Engine, event_ids: list[str], by: str) -> None:
    with transaction(engine) as tx:
        tx.execute(
            text(
                "update events set accepted_at = accepted_at - cast(:by as interval)"
                " where id = any(cast(:ids as uuid[]))"
            ),
            {"by": by, "ids": event_ids},
        )


def test_an_event_a_stale_cache_left_unrouted_starts_and_the_books_follow(
    engine: Engine, settings: Settings
) -> None:
    events = add_runs(engine, 3, is_routed=False, data='{"a": 1}')
    subscribe(engine)

    assert Sweep(engine, settings).once() == 3
    assert (
        read_runs(engine, [run_of(e) for e in events], "state, queue, payload_bytes")
        == [("queued", "orders", 8)] * 3
    )
    assert books(engine) == (3, 3, 0, 3)


def test_it_starts_once_however_often_it_is_swept(engine: Engine, settings: Settings) -> None:
    add_runs(engine, 2, is_routed=False)
    subscribe(engine)
    Sweep(engine, settings).once()

    assert Sweep(engine, settings).once() == 0
    assert books(engine) == (2, 2, 0, 2)


def test_every_subscriber_of_an_unrouted_event_gets_it(engine: Engine, settings: Settings) -> None:
    (event,) = add_runs(engine, 1, is_routed=False)
    subscribe(engine, "fulfil")
    subscribe(engine, "write", "mails", types=["shop.order.placed"])

    assert Sweep(engine, settings).once() == 2
    assert len(read_runs(engine, [run_of(event), run_of(event, "write")], "id")) == 2
    assert books(engine) == (1, 1, 0, 2)


def test_nothing_accepted_before_the_subscription_starts_by_itself(
    engine: Engine, settings: Settings
) -> None:
    events = add_runs(engine, 2, is_routed=False)
    age(engine, events, "2 hours")
    subscribe(engine, since="1 hour")

    assert Sweep(engine, settings).once() == 0
    assert books(engine) == (2, 0, 2, 0)


@pytest.mark.parametrize(("pattern", "started"), [("shop.*", 1), ("shop", 0), ("other.*", 0)])
def test_only_matching_types_start(
    engine: Engine, settings: Settings, pattern: str, started: int
) -> None:
    add_runs(engine, 1, is_routed=False)
    subscribe(engine, types=[pattern])

    assert Sweep(engine, settings).once() == started


def test_an_event_routed_to_one_workflow_only_is_given_to_the_new_one_too(
    engine: Engine, settings: Settings
) -> None:
    subscribe(engine, "fulfil")
    subscribe(engine, "write", "mails", since="1 second")
    (run,) = add_runs(engine, 1)
    event = run[:-6] + "000000"

    assert Sweep(engine, settings).once() == 1
    assert read_runs(engine, [run_of(event, "write")], "queue") == [("mails",)]
    assert Sweep(engine, settings).once() == 0
    assert books(engine) == (1, 1, 0, 2)


def test_a_beginning_is_looked_at_again_at_twice_its_age(
    engine: Engine, settings: Settings
) -> None:
    subscribe(engine, "fulfil")
    subscribe(engine, "write", "mails", since="6 seconds")
    sweep = Sweep(engine, settings)
    assert sweep.once() == 0
    add_runs(engine, 1)

    assert sweep.once() == 0, "it looks again when the subscription is 12 s old"
    assert Sweep(engine, settings).once() == 1


def add_many_types(engine: Engine, count: int, *, age_s: int) -> None:
    """An unrouted event of each of so many types that `shop.*` covers, accepted so long ago."""
    with transaction(engine) as tx:
        tx.execute(
            text(
                "insert into events (id, account_id, minute, unrouted, accepted_at, source,"
                " sender_id, type, digest)"
                " select rpad(lpad(to_hex(((extract(epoch from now()) - :age_s) * 1000)::bigint),"
                " 12, '0') || lpad(to_hex(n), 10, '0'), 32, '0')::uuid, 1, 1, true,"
                " now() - :age_s * interval '1 second', '/tests', n::text, 'shop.' || md5(n::text),"
                " '\\x00' from generate_series(1, :count) n"
            ),
            {"count": count, "age_s": age_s},
        )


def test_types_of_long_ago_cost_a_look_nothing(engine: Engine, settings: Settings) -> None:
    add_many_types(engine, 50_000, age_s=3 * 3600)
    (event,) = add_runs(engine, 1, is_routed=False)
    subscribe(engine)
    sweep = Sweep(engine, settings)

    began = time.monotonic()
    assert sweep.once() == 1
    assert time.monotonic() - began < 1.0, "each type of 50,000 was walked"
    assert len(read_runs(engine, [run_of(event)], "id")) == 1


def test_a_flood_of_types_of_now_starts_in_lists(engine: Engine, settings: Settings) -> None:
    add_many_types(engine, 2_500, age_s=0)
    subscribe(engine)

    assert Sweep(engine, settings).once() == 2_500


def test_what_was_missed_while_no_relay_was_there_is_started_by_the_first_look(
    engine: Engine, settings: Settings
) -> None:
    """Nobody looked when the subscription began, half an hour ago."""
    add_many_types(engine, 3, age_s=1_800)
    subscribe(engine, since="1801 seconds")

    assert Sweep(engine, settings).once() == 3


class Watch:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_while_no_subscription_changes_it_looks_every_ten_seconds_and_misses_nothing(
    engine: Engine, settings: Settings
) -> None:
    subscribe(engine)
    watch = Watch()
    sweep = Sweep(engine, settings, watch)
    sweep.once()
    watch.now = 200.0
    sweep.once()
    watch.now = 205.0
    add_many_types(engine, 1, age_s=30)  # committed long after it was given its id

    assert sweep.once() == 0
    watch.now = 210.0
    assert sweep.once() == 1


def test_a_change_of_a_subscription_is_looked_after_at_once(
    engine: Engine, settings: Settings
) -> None:
    subscribe(engine, types=["other"])
    watch = Watch()
    sweep = Sweep(engine, settings, watch)
    sweep.once()
    watch.now = 1_000.0
    sweep.once()
    watch.now = 1_001.0
    add_runs(engine, 1, is_routed=False)
    subscribe(engine, "write", since="1 minute")

    assert sweep.once() == 1


def start_all(engine: Engine, **options: Any) -> int:
    started, after = start_events(engine, "shop.*", "fulfil", LONG_AGO, **options)
    while after is not None:
        more, after = start_events(engine, "shop.*", "fulfil", LONG_AGO, after=after, **options)
        started += more
    return started


def test_history_is_counted_and_then_started_in_batches(engine: Engine) -> None:
    subscribe(engine, since="0 seconds", types=[])
    events = add_runs(engine, 7, is_routed=False)
    add_runs(engine, 3, is_routed=False, type_="other")

    assert len(count_events(engine, "shop.*", "fulfil", LONG_AGO).event_ids) == 7
    assert start_all(engine, events_max=2, author="alice") == 7
    assert set(read_runs(engine, [run_of(e) for e in events], "created_by")) == {("alice",)}
    assert start_all(engine) == 0
    assert books(engine) == (10, 7, 3, 7)


def test_history_given_to_another_workflow_can_be_started_too(engine: Engine) -> None:
    subscribe(engine, "fulfil", types=[])
    add_runs(engine, 2, workflow="write", queue="mails")

    assert start_all(engine) == 2
    assert books(engine) == (2, 2, 0, 4)


def test_history_starts_only_from_the_time_named(engine: Engine) -> None:
    subscribe(engine, types=[])
    add_runs(engine, 2, is_routed=False)
    later = datetime.now(UTC) + timedelta(hours=1)

    assert start_events(engine, "shop.*", "fulfil", later) == (0, None)


def test_an_unknown_workflow_is_named_with_the_cure(engine: Engine) -> None:
    with pytest.raises(UnknownWorkflow, match="veltrix workflows list"):
        count_events(engine, "shop.*", "nobody", LONG_AGO)
