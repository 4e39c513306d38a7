"""PostgreSQL away: the api says 503; workers and relay hold, and lose and repeat nothing."""

import json
import time
from collections import Counter
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from tests.path.seen import Scene, Start
from tests.support.wait import until
from veltrix.dev.servers.postgres import Postgres
from veltrix.store.schema import upgrade

# PostgreSQL promises three times its wal_writer_delay of 200 ms; the rest is for us to kill it.
FORGETS_S = 1.0
DEEDS: list[list[Any]] = [["note"], ["pause", 0.02], ["book"], ["note"]]


def post(seen: Scene, first: int, count: int) -> int:
    """Send events; the status of the answer."""
    events = [
        {
            "specversion": "1.0",
            "id": f"{number}",
            "source": "/path",
            "type": "path.act",
            "data": DEEDS,
        }
        for number in range(first, first + count)
    ]
    connection = HTTPConnection(urlsplit(seen.platform.api_url).netloc, timeout=30)
    try:
        headers = {"content-type": "application/cloudevents-batch+json"}
        connection.request("POST", "/v1/events", json.dumps(events), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_an_outage_longer_than_the_leases_loses_nothing_and_repeats_no_step_it_wrote(
    scene: Start, own_postgres: Postgres
) -> None:
    upgrade(own_postgres.create_database("veltrix"))
    seen = scene(hold_s=1, apis=1, postgres=own_postgres, database="veltrix")
    assert post(seen, 0, 300) == 202
    until(lambda: len(seen.lines()) > 100, what="the workers to be at work")

    killed_at = time.monotonic()
    own_postgres.kill()
    refused = [until(lambda: post(seen, 1_000, 10), what="an answer") for _ in range(2)]
    before = until_quiet(seen)
    own_postgres.start()

    assert refused == [503] * 2
    accepted = until(lambda: post(seen, 2_000, 100) == 202, what="the api to accept again")
    assert accepted
    run_ids = [run_id for (run_id,) in seen.ask("select id::text from runs")]
    assert len(run_ids) == 400
    assert seen.wait_settled(run_ids, 30) == Counter(succeeded=400)
    assert before > 100
    assert all(seen.began_once(position, run_ids) for position in (2, 4))
    # A claim's commit is not durable: a first step of which nothing was written may run again.
    first = sorted(seen.at(1, run_ids), key=lambda line: line.at)
    begun = {line.run_id: line.at for line in reversed(first)}
    again = {run_id for run_id, times in Counter(x.run_id for x in first).items() if times > 1}
    assert begun.keys() == set(run_ids)
    assert not {run_id for run_id in again if begun[run_id] < killed_at - FORGETS_S}
    assert seen.bookings(run_ids) == Counter({1: 400})
    # Each execution of a transactional step is an attempt; what it lost with the server is kept.
    assert {step for step, _ in seen.failed_attempts()} <= {"book"}
    assert all(one.is_running for one in seen.platform.processes.values())
    assert until(lambda: seen.unaccounted() == 0, what="the books to balance")


def test_a_claim_that_a_crashed_database_forgot_is_made_again_at_once(scene: Start) -> None:
    seen = scene(hold_s=60)
    run_ids = seen.add([["pause", 0.5], ["note"]], 4)
    until(lambda: seen.at(1, run_ids), what="a step to begin")

    # What a crash leaves of a claim, whose commit is not durable: the row as it was before.
    seen.ask(
        "update runs set state = 'queued', lease_token = null, worker_id = null,"
        " attempt = attempt - 1 where state = 'running' returning 1"
    )

    assert seen.wait_settled(run_ids, 15) == Counter(succeeded=4), "long before their hold ends"
    assert seen.began_once(2, run_ids)
    assert seen.unaccounted() == 0


def until_quiet(seen: Scene) -> int:
    """Steps begun, when for three leases none has begun: everybody holds what it has."""

    def is_quiet() -> int:
        lines = seen.lines()
        return len(lines) if time.monotonic() - lines[-1].at > 3.0 else 0

    return until(is_quiet, 20, "everybody to hold")
