"""How long pages take with a million runs in the database."""

from time import perf_counter

import pytest

from bench.seed import seed
from tests.console.conftest import OPERATOR, of_group, showing
from tests.console.test_actions import session_of
from tests.support.seeded import seed_failed
from tests.support.services import Services
from tests.support.settled import fold_all
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.operations.replays.plan import plan

RUNS = 1_000_000
LIMIT_S = 0.2
PATHS = (
    "/",
    "/runs",
    "/runs?state=failed",
    "/runs?state=succeeded",
    "/runs?workflow=nobody",
    "/runs?key=nobody",
    "/runs?source=/nowhere",
    "/runs?subject=bench-7",
    "/runs?since=2001-01-01T00:00",
    "/events",
    "/events?unrouted=yes",
    "/events?subject=nobody",
    "/workflows",
    "/workflows/fulfil",
    "/audit",
    "/search?q=nobody",
    "/search?q=bench-7",
    "/failures",
    "/failures/seeded",
    "/runs?state=failed&fingerprint=seeded",
    "/replays",
    "/bulk/archive?fingerprint=seeded",
)
FAILED = 100_000


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_million_runs_slow_no_page_beyond_200_ms(services: Services) -> None:
    with showing(services) as shown:
        seed(shown.engine, RUNS, print)
        seed_failed(shown.engine, FAILED, workflow="fulfil", queue="orders", data='{"n": 1}')
        fold_all(shown.engine)
        while fold_groups_once(shown.engine):
            pass
        replay = plan(shown.engine, of_group("seeded"), 1_048_576).id
        cookie, _ = session_of(shown, OPERATOR)
        took: dict[str, float] = {}
        one = (f"/runs/{shown.runs['bad']}", f"/events/{shown.events['bad']}", f"/replays/{replay}")
        for path in (*PATHS, *one):
            shown.api.get(f"/console{path}", cookie=cookie)
            times = []
            for _ in range(5):
                began = perf_counter()
                answer = shown.api.get(f"/console{path}", cookie=cookie)
                times.append(perf_counter() - began)
                assert answer.status == 200, path
            took[path] = sorted(times)[2]

    print({path: round(seconds * 1000) for path, seconds in took.items()})  # noqa: T201
    assert {path: seconds for path, seconds in took.items() if seconds > LIMIT_S} == {}
