"""Workflows that cannot be registered are named and refused at start; nothing else stops."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.path.clashing_flows import FIRST, SECOND
from tests.path.seen import Start
from tests.support.wait import until
from veltrix.dev.platform import Platform, command
from veltrix.store.transactions import make_engine, open_autocommit

FLOWS = "tests.path.clashing_flows"


def start_worker(platform: Platform, **env: str) -> subprocess.CompletedProcess[str]:
    """`veltrix worker` to its end."""
    own = {"VELTRIX_WORKER_PORT": "0", "VELTRIX_WORKER_NAME": "own@localhost"}
    return subprocess.run(
        command("worker"),
        env={**os.environ, **platform.env, **own, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def registered(platform: Platform) -> list[str]:
    engine = make_engine(platform.database_url, application="tests", connections_max=2)
    with open_autocommit(engine) as tx:
        rows = tx.exec_driver_sql("select distinct workflow from subscriptions order by 1")
        found = [name for (name,) in rows]
    engine.dispose()
    return found


def ready(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 - loopback
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None  # it does not listen yet


def test_names_that_clash_end_the_worker_with_a_sentence(
    platform: Callable[..., Platform],
) -> None:
    one = platform(workflows=FLOWS, apis=0, relays=0, workers=0)

    among_its_own = start_worker(one)
    assert among_its_own.returncode == 2
    assert f"workflow {SECOND!r}" in among_its_own.stderr
    assert f"{FIRST!r}; rename one of the two" in among_its_own.stderr
    assert "Traceback" not in among_its_own.stderr + among_its_own.stdout
    assert registered(one) == []

    one.start("worker-1", "worker", {"CLASHING": "first"})
    until(lambda: registered(one) == [FIRST], 20, "the first of them")
    with_the_database = start_worker(one, CLASHING="second,innocent")
    assert with_the_database.returncode == 2
    assert f"{FIRST!r}; rename one of the two" in with_the_database.stderr


def test_a_registration_that_fails_is_told_and_keeps_nothing_from_running(scene: Start) -> None:
    seen = scene(workers=0, children=1)
    with open_autocommit(seen.engine) as tx:  # what a role without the right would meet
        tx.exec_driver_sql(
            "create function refuse() returns trigger language plpgsql as $$ begin"
            " raise exception 'not now' using errcode = 'P0001'; end $$"
        )
        tx.exec_driver_sql(
            "create trigger refuse before insert on subscriptions"
            " for each row execute function refuse()"
        )
    worker = seen.platform.start("worker-1", "worker", {"VELTRIX_GRACE_S": "8"})
    until(lambda: seen.log_lines("job.failed"), 20, "the registration to fail")
    until(lambda: ready(worker.url)[0] == 503, what="/readyz")
    _, told = ready(worker.url)
    assert told["consuming"]
    troubles = {trouble["name"]: trouble["detail"] for trouble in told["troubles"]}
    assert "not now" in troubles["register"]

    run_ids = seen.add([["note"]], 20)
    seen.wait_settled(run_ids, 20.0)
    assert len(seen.log_lines("job.failed")) <= 5, "after growing pauses"
    assert ready(worker.url)[0] == 503, "whatever else has gone well"

    os.kill(worker.pid, signal.SIGTERM)
    seen.platform.wait_ended("worker-1", 8.0)


def test_a_worker_leaves_within_its_grace_whatever_a_child_is_stuck_in(scene: Start) -> None:
    seen = scene(workers=1, children=1, env={"VELTRIX_GRACE_S": "6"})
    with seen.engine.connect() as tx:  # another registration waits for its rows
        tx.exec_driver_sql("lock table subscriptions in share row exclusive mode")
        worker = seen.platform.start("worker-2", "worker", {})
        waits = "select 1 from pg_locks where not granted and relation = 'subscriptions'::regclass"
        until(lambda: seen.ask(waits), 30, "a child to wait for the lock")
        os.kill(worker.pid, signal.SIGTERM)
        seen.platform.wait_ended("worker-2", 7.0)
        tx.rollback()

    assert seen.log_lines("process.ended", "worker-2")
