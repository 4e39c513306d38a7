"""A database that answers and refuses: a stand-by, I/O errors, refused commits."""

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg

from tests.path.seen import Scene, Start
from tests.support.wait import until

BACK_S = 3.0  # after the name leads to a primary again, new work runs within this


def execute(seen: Scene, *statements: str) -> None:
    """Each by itself, by a session that may write whatever its database says."""
    url = seen.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def stand_by(seen: Scene) -> Iterator[None]:
    """The name leads to the old primary, now a stand-by, and after this to the new primary."""
    name = seen.engine.url.database
    execute(
        seen,
        f"alter database {name} set default_transaction_read_only = on",
        "select pg_terminate_backend(pid) from pg_stat_activity"
        f" where datname = '{name}' and pid <> pg_backend_pid()",
    )
    yield
    execute(seen, f"alter database {name} reset default_transaction_read_only")
    seen.engine.dispose()


def cancel(seen: Scene, run_id: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(seen.platform.api_url).netloc, timeout=30)
    try:
        headers = {"content-type": "application/json"}
        body = json.dumps({"reason": "a test"})
        connection.request("POST", f"/v1/runs/{run_id}/cancel", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_new_work_runs_within_seconds_of_the_new_primary(scene: Start) -> None:
    seen = scene(hold_s=1, workers=1)
    first = seen.add([["note"]], 20)
    assert seen.wait_settled(first, 20) == Counter(succeeded=20)
    under_way = seen.add([["note"], ["pause", 0.05], ["note"]], 40)
    until(lambda: len(seen.at(2, under_way)) > 5, what="the worker to be at work")

    with stand_by(seen):
        until(lambda: not ready(seen, "worker-1"), what="the worker to say that it is not ready")
    back = time.monotonic()
    fresh = seen.add([["note"]], 20)

    until(lambda: bool(seen.at(1, fresh)), BACK_S, "new work to run")
    assert time.monotonic() - back < BACK_S
    assert seen.wait_settled(fresh + under_way, 30) == Counter(succeeded=60)
    until(lambda: ready(seen, "worker-1"), what="the worker to be ready again")


def test_an_api_comes_back_from_a_stand_by(scene: Start) -> None:
    seen = scene(workers=1, apis=1)
    ids = seen.add([["note"]], 3)
    seen.wait_settled(ids)
    assert cancel(seen, ids[0]) in (200, 409)

    with stand_by(seen):
        assert until(lambda: cancel(seen, ids[0]) == 503, what="the api to see it")
        assert not ready(seen, "api-1")

    until(lambda: cancel(seen, ids[0]) in (200, 409), BACK_S, "the api to use the new primary")
    until(lambda: ready(seen, "api-1"), what="the api to be ready again")


def ready(seen: Scene, name: str) -> bool:
    return seen.platform.processes[name].is_ready


def test_healthy_runs_are_no_poison_because_the_journal_cannot_be_written(scene: Start) -> None:
    seen = scene(hold_s=1, workers=1)
    execute(
        seen,
        "create function broken() returns trigger language plpgsql as $$ begin"
        " raise exception 'could not read block 7' using errcode = 'io_error'; end $$",
        "create trigger broken before insert on journal for each row execute function broken()",
    )
    ids = seen.add([["note"], ["note"]], 30)
    troubles = until(lambda: told(seen), what="the worker to say what it is stuck on")
    # Longer than a lease, so that whoever lets go of them would have them taken.
    until(
        lambda: seen.ask("select now() - min(claimed_at) > interval '4 s' from runs")[0][0],
        15,
        "a hold",
    )

    execute(seen, "drop trigger broken on journal")

    assert "58030" in troubles
    assert seen.wait_settled(ids, 20) == Counter(succeeded=30)
    assert seen.began_once(1, ids)
    assert Counter(seen.rows(ids, "crashes, alone")) == Counter({(0, False): 30})


def told(seen: Scene) -> str:
    """The troubles that the worker's `/readyz` tells, as text, when there are any."""
    url = urlsplit(seen.platform.processes["worker-1"].url)
    connection = http.client.HTTPConnection(url.netloc, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    return body if answer.status == 503 and "58030" in body else ""


def test_a_refused_commit_fails_its_run_and_frees_the_child(scene: Start) -> None:
    seen = scene(workers=1, children=2)
    execute(
        seen,
        "create function no() returns trigger language plpgsql as $$ begin"
        " raise exception 'debits and credits differ'; end $$",
        "create constraint trigger balanced after insert on bookings deferrable initially deferred"
        " for each row execute function no()",
    )
    bad = seen.add([["book"]], 2)
    good = seen.add([["note"]], 20)

    assert seen.wait_settled(bad + good, 20) == Counter(succeeded=20, failed=2)
    noted = seen.ask("select message from failed_attempts where run_id = any(%s::uuid[])", bad)
    assert len(noted) == 2 * 4, "as often as its policy says"
    assert all("debits and credits differ" in message for (message,) in noted)
    assert Counter(seen.rows(bad, "crashes")) == Counter({(0,): 2})
