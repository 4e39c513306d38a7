"""Each rule of workers and books sees its fault in real rows, and is silent without it."""

from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.doctor.conftest import held_against, unaccepted
from tests.support.due_runs import add_runs, change_runs
from veltrix.bootstrap import workflows_of
from veltrix.doctor.examine import Examination, Reader, Unread, examine
from veltrix.doctor.facts.workers import LiveWorkers, read_live_workers, subscribed_queues
from veltrix.doctor.rules import workers
from veltrix.operations.books.books import fold_once
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction


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
