"""Each rule of workers and books sees its fault in real rows, and is silent without it."""

import time
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.doctor.conftest import held_against, unaccepted
from tests.support.due_runs import add_runs, change_runs
from veltrix.bootstrap import workflows_of
from veltrix.doctor.examine import Examination, Reader, Unread, examine
from veltrix.doctor.facts.session import LookingSession
from veltrix.doctor.facts.workers import (
    BooksLook,
    LiveWorkers,
    look_at_workers,
    read_live_workers,
    subscribed_queues,
)
from veltrix.doctor.rules import workers
from veltrix.operations.books.books import fold_once
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps
from veltrix.pipeline.relay import due_rows
from veltrix.settings.agreed import AGREED
from veltrix.settings.fields import Settings
from veltrix.store.transactions import Link, transaction
from veltrix.worker.child.watch import ChildWatch, give_up


def look(database_url: str) -> Examination:
    settings = Settings.model_validate({"database_url": database_url})
    readers: dict[type, Reader] = {LiveWorkers: lambda: read_live_workers(settings)}
    return held_against(workers.rules, readers)


def found_of(url: str, id_: str) -> list[str]:
    return [one.found for one in look(url).findings if one.id == id_]


def execute(engine: Engine, statement: str, **values: Any) -> None:
    with transaction(engine) as tx:
        tx.execute(text(statement), values)


def report(
    engine: Engine, node: str, *, ago: str = "0 s", version: str = "1", queue: str = "orders"
) -> None:
    """A worker's child said this of itself some time ago; it began half an hour before."""
    release = f"release {version}"
    execute(
        engine,
        "insert into releases (id, workflows, code_versions) values"
        " (:id, array['fulfil'], array[:version]) on conflict do nothing",
        id=release,
        version=version,
    )
    execute(
        engine,
        """insert into workers (id, node, load, started_at, seen_at) values (:id, :node,
            json_build_object('queues', json_build_object(cast(:queue as text),
                json_build_object('claimed_2s', 0)), 'release', cast(:release as text)),
            now() - interval '30 min', now() - cast(:ago as interval))""",
        id=f"{node} {version}",
        node=node,
        queue=queue,
        release=release,
        ago=ago,
    )


def test_a_new_platform_has_no_fault(database_url: str) -> None:
    assert look(database_url).findings == []


def test_a_queue_without_a_worker_is_seen(database_url: str, engine: Engine) -> None:
    add_runs(engine, 2)
    assert found_of(database_url, "O09") == [
        "queue 'orders' has 2 open runs, and no worker serves the queue"
    ]

    report(engine, "a@host")

    assert found_of(database_url, "O09") == []


def test_a_silent_worker_is_seen(database_url: str, engine: Engine) -> None:
    report(engine, "a@host")
    assert found_of(database_url, "O11") == []

    report(engine, "b@host", ago="2 min")

    (found,) = found_of(database_url, "O11")
    assert found.startswith("worker 'b@host' was last heard of at ")


def test_workers_with_different_code_are_seen(database_url: str, engine: Engine) -> None:
    report(engine, "a@host", version="1")
    report(engine, "b@host", version="1")
    assert found_of(database_url, "O15") == []

    report(engine, "c@host", version="2")

    (found,) = found_of(database_url, "O15")
    assert found == "workflow 'fulfil' is 1 on a@host, b@host, 2 on c@host"


def test_a_deploy_under_way_is_not_seen(database_url: str, engine: Engine) -> None:
    report(engine, "a@host", version="1")
    report(engine, "b@host", version="2")
    execute(engine, "update workers set started_at = now() where node = 'b@host'")

    assert found_of(database_url, "O15") == []


def test_runs_that_nobody_hands_over_are_seen(database_url: str, engine: Engine) -> None:
    ids = add_runs(engine, 3)
    report(engine, "a@host")
    assert found_of(database_url, "O13") == []

    change_runs(engine, ids[:2], "due_at = now() - interval '10 min'")

    assert found_of(database_url, "O13") == ["2 runs of queue 'orders' are due, for up to 600 s"]


def test_counts_that_nobody_books_are_seen(database_url: str, engine: Engine) -> None:
    add_runs(engine, 1)
    assert found_of(database_url, "O14") == []

    execute(engine, "update counter_deltas set minute = minute - 10")
    (found,) = found_of(database_url, "O14")
    assert found.startswith("1 counts are not booked")

    fold_once(engine)
    assert found_of(database_url, "O14") == []


def test_books_that_do_not_balance_are_seen(database_url: str, engine: Engine) -> None:
    (id_, _) = add_runs(engine, 2)
    assert found_of(database_url, "O12") == []

    execute(engine, "delete from runs where id = :id", id=id_)

    found = [one for one in look(database_url).findings if one.id == "O12"]
    assert [one.found for one in found] == ["1 events and runs are unaccounted for"]
    assert found[0].severity.value == "loss"


def say_settings(engine: Engine, node: str, **settings: float) -> None:
    """A worker's watch reports, as a worker of these settings does; it began half an hour ago."""
    watch = ChildWatch(
        Settings.model_validate(settings),
        worker_id=f"{node}/1",
        node=node,
        link=Link(engine, give_up),
        async_steps=AsyncSteps(time.monotonic),
        alarm=Alarm(time.monotonic),
        stamp=lambda: None,
        monotonic=time.monotonic,
        queues=["orders"],
        release="release 1",
        take_returned=lambda: None,
    )
    watch.once()
    watch._link.close()
    execute(engine, "update workers set started_at = now() - interval '30 min'")


def test_workers_with_different_settings_are_seen(database_url: str, engine: Engine) -> None:
    say_settings(engine, "a@host")
    say_settings(engine, "b@host", worker_children=7, list_runs_max=9)
    assert found_of(database_url, "O19") == []

    say_settings(engine, "c@host", step_timeout_s=5)

    (found,) = (one for one in look(database_url).findings if one.id == "O19")
    assert found.found == (
        "VELTRIX_STEP_TIMEOUT_S is 5 on c@host, 60 on a@host, b@host: a step is ended on one and"
        " has its time on another"
    )
    assert found.cure.startswith("VELTRIX_STEP_TIMEOUT_S=60  #")


def test_settings_of_a_worker_that_has_just_begun_are_a_deploy(
    database_url: str, engine: Engine
) -> None:
    say_settings(engine, "a@host")
    say_settings(engine, "b@host", hold_s=30)
    execute(engine, "update workers set started_at = now() where node = 'b@host'")

    assert found_of(database_url, "O19") == []


def test_a_worker_that_does_not_say_its_settings_differs_from_nobody(
    database_url: str, engine: Engine
) -> None:
    report(engine, "old@host")
    say_settings(engine, "a@host", output_bytes_max=2_000_000)

    assert found_of(database_url, "O19") == []


def test_no_secret_is_among_what_workers_report() -> None:
    kinds = {Settings.model_fields[name].annotation for name in AGREED}

    assert kinds == {int, float}


def take_back(engine: Engine, count: int, *, minutes_ago: int) -> None:
    """The relay's scan finds so many runs whose worker did not renew the lease."""
    ids = add_runs(engine, count)
    change_runs(
        engine,
        ids,
        "state = 'running', lease_token = gen_random_uuid(), due_at = now() - interval '1 second'",
    )
    with transaction(engine) as tx:
        scanned = due_rows.scan(
            tx,
            [due_rows.QueueShare("orders", 100)],
            hold_s=8.0,
            hold_s_max=300.0,
            poison_crashes_max=3,
            rescue=["orders"],
        )
    assert scanned is not None
    assert sorted(scanned.rescued) == ids
    execute(
        engine,
        "update failed_attempts set failed_at = now() - :ago * interval '1 min'"
        " where failed_at > now() - interval '30 s'",
        ago=minutes_ago,
    )


def test_runs_that_are_taken_back_again_and_again_are_seen(
    database_url: str, engine: Engine
) -> None:
    take_back(engine, 40, minutes_ago=50)  # a worker that dies with all it had is no rate
    take_back(engine, 1, minutes_ago=40)
    take_back(engine, 1, minutes_ago=70)
    fold_once(engine)
    assert found_of(database_url, "O20") == []

    take_back(engine, 1, minutes_ago=30)
    take_back(engine, 1, minutes_ago=20)

    found = [one for one in look(database_url).findings if one.id == "O20"]
    assert [one.found for one in found] == [
        "43 runs were taken back in the last hour beside 42 that began, in 4 different minutes"
    ]
    assert found[0].severity.value == "duplicate"


def test_few_runs_taken_back_beside_very_many_are_not_seen(
    database_url: str, engine: Engine
) -> None:
    for ago in (50, 40, 30, 20):
        take_back(engine, 1, minutes_ago=ago)
    fold_once(engine)
    assert found_of(database_url, "O20") != []

    execute(engine, "update counters set started = 5000")

    assert found_of(database_url, "O20") == []


def test_who_looks_again_and_again_counts_the_books_as_their_cost_allows(
    database_url: str, engine: Engine
) -> None:
    (id_, _) = add_runs(engine, 2)
    settings = Settings.model_validate({"database_url": database_url})
    now = iter([0.0, 1.0, 400.0, 502.0, 503.0])  # it takes a second to count
    books = BooksLook(lambda: next(now))
    with closing(LookingSession(settings)) as session:
        assert look_at_workers(session, settings, books).unaccounted == 0
        execute(engine, "delete from runs where id = :id", id=id_)

        assert look_at_workers(session, settings, books).unaccounted == 0
        assert look_at_workers(session, settings, books).unaccounted == 1


@pytest.mark.parametrize(("crashes", "is_seen"), [(3, False), (4, True)])
def test_processes_that_die_are_seen(
    database_url: str, engine: Engine, crashes: int, is_seen: bool
) -> None:
    execute(
        engine,
        """insert into failed_attempts (run_id, generation, position, step, attempt, type, message,
            traceback, fingerprint, is_crash, failed_at)
        select gen_random_uuid(), 0, '1', 's', 1, 't', 'm', '', 'f', n <= :crashes,
            now() - case when n % 2 = 0 then interval '1 min' else interval '59 min' end
        from generate_series(1, 10) as n""",
        crashes=crashes,
    )

    assert bool(found_of(database_url, "W02")) is is_seen


def test_dead_letters_that_nobody_looked_at_are_seen(database_url: str, engine: Engine) -> None:
    assert found_of(database_url, "O10") == []

    execute(
        engine,
        "insert into dead_letters (queue, reason, headers, body, run_ids)"
        " values ('orders', 'rejected', '{}', '', '{}')",
    )
    assert found_of(database_url, "O10") == ["1 dead letters are unseen"]

    execute(engine, "update dead_letters set seen_at = now()")
    assert found_of(database_url, "O10") == []


def test_a_database_without_tables_is_told(empty_url: str) -> None:
    settings = Settings.model_validate({"database_url": empty_url})
    found = examine(workers.rules, {LiveWorkers: lambda: read_live_workers(settings)})

    assert unaccepted(found) == set()
    assert {one.reason for one in found.not_checked} == {
        "the database does not have this version's tables; run `veltrix db upgrade`"
    }


def test_without_subscriptions_the_queues_are_those_of_the_workflows(database_url: str) -> None:
    settings = Settings.model_validate({"database_url": database_url})
    used = {workflow.queue for workflow, _ in workflows_of(settings).values()}

    assert subscribed_queues(settings) == sorted(used)
    assert subscribed_queues(Settings()) == sorted(used)


def test_workflows_that_cannot_be_imported_are_told() -> None:
    with pytest.raises(Unread, match=r"'nowhere\.to_be_found' cannot be imported"):
        subscribed_queues(Settings.model_validate({"workflows": "nowhere.to_be_found"}))
