"""What a run waits for, and until when, as the list of runs says it."""

from collections.abc import Iterator

import pytest

from tests.console.conftest import OPERATOR, Shown, showing
from tests.console.test_actions import session_of
from tests.support.services import Services
from tests.support.settled import hold, run_sql
from veltrix.domain.places import DEPLOY_POSITION
from veltrix.operations.runs import read
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read_waits import Pause, waits
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Settlement
from veltrix.store.transactions import open_autocommit, transaction


@pytest.fixture(scope="module")
def own(services: Services) -> Iterator[Shown]:
    with showing(services) as there:
        yield there


def wait(own: Shown, name: str, seconds: float, position: str, step: str) -> str:
    """A run that slept once, failed once at `position`, and waits so long for what comes next."""
    run = own.accept(name, {"order": name})
    token = hold(own.engine, [run])
    slept = [JournalEntry(run, "1", "sleep", "sleep", output="500.0")]
    failed = [FailedAttempt(run, position, step, 2, "Away", "no", "", "f1", 30.0)]
    ended = [Settlement(run_id=run, state="waiting", wait_s=seconds)]
    with open_autocommit(own.engine) as tx:
        assert journal_rows.write(tx, token, "w", slept, failed, ended)
    return run


def test_each_kind_of_wait_is_told_apart(own: Shown) -> None:
    ids = {
        wait(own, "sleeping", 500.0, "2", "charge"): (Pause.SLEEP, None),
        wait(own, "retrying", 30.0, "2", "charge"): (Pause.RETRY, "charge"),
        wait(own, "own-code", 30.0, "", ""): (Pause.RETRY, None),
        wait(own, "no-code", 30.0, DEPLOY_POSITION, ""): (Pause.CODE, None),
    }
    later = own.accept("later", {"order": 1})
    run_sql(
        own.engine,
        "update runs set state = 'waiting', due_at = now() + interval '1 day'"
        f" where id = '{later}'",
    )

    with transaction(own.engine) as tx:
        found = waits(tx, read.page(tx, RunQuery()).items)

    assert {id_: (wait.kind, wait.step) for id_, wait in found.items()} == {
        **ids,
        later: (Pause.START, None),
    }
    cookie, _ = session_of(own, OPERATOR)
    page = own.api.get("/console/runs?state=waiting", cookie=cookie).text
    for words in ("a retry of charge, attempt 3, ", "a worker with its code, ", "its start, "):
        assert words in page
