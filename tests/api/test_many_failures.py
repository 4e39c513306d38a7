"""A million failures slow no page: groups are read, never their failures."""

import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.seeded import seed_failed
from tests.support.served import served
from tests.support.settled import fold_all
from veltrix.operations.books.books import balance
from veltrix.operations.failures.triage import check_groups, fold_groups_once
from veltrix.store.transactions import make_engine

RUNS, ARCHIVED = 1_000_000, 100_000
PAGE_S_MAX = 0.2
SEED_S_MAX = 600.0
PATHS = (
    "/v1/failures",
    "/v1/failures?order=count&state=open&workflow=many",
    "/v1/failures/seeded",
    "/v1/runs?state=failed",
    "/v1/runs?state=failed&fingerprint=seeded",
    "/v1/runs?state=failed&workflow=many&limit=200",
    "/v1/runs?archived=true&fingerprint=seeded",
    "/v1/audit",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_failed_runs_slow_no_page(database_url: str) -> None:
    patient = make_engine(
        database_url, application="seed", connections_max=2, statement_timeout_s=SEED_S_MAX
    )
    seed_failed(patient, RUNS, workflow="many", queue="many", data="{}")
    fold_all(patient)
    while fold_groups_once(patient):
        pass
    engine = make_engine(database_url, application="tests", connections_max=5)
    took: dict[str, float] = {}
    with served(engine, database_url) as api:
        asked: dict[str, Any] = {"filter": {"workflow": "many"}, "reason": "too many"}
        too_many = api.post("/v1/runs/archive", asked)
        newest = datetime.fromisoformat(
            api.get("/v1/runs?state=failed&limit=1").body["items"][0]["started_at"]
        )
        since = newest - timedelta(milliseconds=ARCHIVED - 1)  # one run a millisecond
        asked["filter"] = {"workflow": "many", "since": since.isoformat()}
        began = time.monotonic()
        archived = api.post("/v1/runs/archive", asked)
        took["archive"] = time.monotonic() - began
        fold_groups_once(patient)
        for path in PATHS:
            api.get(path)  # what a first look reads from disk is not what a page costs
            began = time.monotonic()
            answer = api.get(path)
            took[path] = time.monotonic() - began
            assert answer.status == 200, path

    assert (too_many.status, too_many.body["type"]) == (413, "urn:veltrix:problem:too-many-runs")
    assert archived.status == 200
    assert archived.body["runs"] == ARCHIVED
    began = time.monotonic()
    with served(patient, database_url) as api:
        plan = api.post("/v1/replays", {"group": "seeded", "reason": "all of them"})
    took["plan"] = time.monotonic() - began
    assert (plan.status, plan.body["count"]) == (201, RUNS - ARCHIVED)
    slow = {path: s for path, s in took.items() if path in PATHS and s > PAGE_S_MAX}
    assert not slow, took
    began = time.monotonic()
    assert check_groups(patient) == []
    took["check"] = time.monotonic() - began
    assert (balance(patient).runs.failed, balance(patient).unaccounted) == (RUNS, 0)
    print({path: f"{s * 1000:.0f} ms" for path, s in took.items()})  # noqa: T201 - the figures
    patient.dispose()
    engine.dispose()
