"""Endings: what is decided of a run, without a database, and done to it once."""

import json
from typing import Any

import pytest

from tests.support.executions import claim_of, execution_of
from veltrix import Event, StepFailed, step, workflow
from veltrix.authoring.encoding import Unstorable
from veltrix.domain.places import DEPLOY_POSITION
from veltrix.domain.states import Reason
from veltrix.pipeline.execute.coroutines import endings, moves
from veltrix.pipeline.execute.coroutines.execution import Ending, Execution, PendingStep
from veltrix.pipeline.execute.journal_rows import JournalEntry, Past, PastFailures

DECLINED = StepFailed("charge", "Declined", "no money")


@step(retries=1, backoff_s=2.0)
def charge() -> None:
    raise AssertionError("no step runs here")


@workflow(name="w", retries=1, timeout_s=60.0)
async def flow(_event: Event[Any]) -> None:
    await charge()


@step(retries=3, non_retryable=(BaseException,))
def once() -> None:
    """A step that nothing is worth another attempt of."""


@workflow(name="w")
async def careful(_event: Event[Any]) -> None:
    await once()


def execution(**failures: PastFailures) -> Execution:
    """Attempts failed before, by position; "run" is the workflow itself."""
    at = {"run": "", "deploy": DEPLOY_POSITION}
    past = Past({}, {at.get(name, name): failed for name, failed in failures.items()})
    return execution_of(claim_of(), flow, past)


def failed_before(count: int, *, crashes: int = 0, ago_s: float = 0.0) -> PastFailures:
    return PastFailures(count, ago_s, ago_s, None, crashes)


def begun(one: Execution) -> PendingStep:
    moves.begin(one)
    (asked,) = one.pending
    asked.started = one.limits.monotonic()
    return asked


def said(ending: Ending) -> tuple[str, float | None, str | None]:
    settlement = ending.settlement
    return settlement.state, settlement.wait_s, settlement.reason


def outcome(ending: Ending) -> dict[str, str]:
    found: dict[str, str] = json.loads(ending.settlement.outcome or "")
    return found


def test_a_value_is_the_outcome() -> None:
    ending = endings.success(execution(), {"paid": True})

    assert said(ending) == ("succeeded", None, None)
    assert ending.settlement.outcome == '{"paid":true}'
    assert ending.failed_attempt is None


def test_a_value_that_cannot_be_stored_fails_the_run() -> None:
    ending = endings.success(execution(), object())

    assert said(ending) == ("failed", None, Reason.UNSTORABLE.value)
    assert ending.failed_attempt is not None
    assert ending.settlement.fingerprint == ending.failed_attempt.fingerprint


def test_an_end_before_the_journals_end_waits_for_other_code() -> None:
    one = execution()
    one.entries["7"] = JournalEntry("r", "7", "step", "charge")

    ending = endings.success(one, None)

    assert said(ending) == ("waiting", one.limits.deploy_backoff_s, None)
    assert ending.is_alone
    assert ending.failed_attempt is not None
    assert ending.failed_attempt.type == Reason.JOURNAL_MISMATCH.value
    assert ending.failed_attempt.message == "the workflow ended, but the journal goes on at 7"


def test_what_a_workflow_raises_is_tried_again_by_its_policy() -> None:
    again = endings.failure(execution(), ValueError("no"))
    last = endings.failure(execution(run=failed_before(1)), ValueError("no"))

    assert again.failed_attempt is not None
    assert said(again) == ("waiting", again.failed_attempt.retry_delay_s, None)
    assert 0.5 <= (again.settlement.wait_s or 0.0) <= 1.0
    assert said(last) == ("failed", None, Reason.ERROR.value)
    assert last.failed_attempt is not None
    assert (last.failed_attempt.attempt, last.failed_attempt.retry_delay_s) == (2, None)
    assert outcome(last) == {"type": "ValueError", "message": "no"}


def test_a_crash_is_an_attempt_and_none_of_the_retries() -> None:
    ending = endings.failure(execution(run=failed_before(1, crashes=1)), ValueError("no"))

    assert ending.settlement.state == "waiting"
    assert ending.failed_attempt is not None
    assert ending.failed_attempt.attempt == 2


def test_a_steps_failure_ends_the_run_without_another_attempt() -> None:
    ending = endings.failure(execution(), DECLINED)

    assert said(ending) == ("failed", None, Reason.ERROR.value)
    assert ending.settlement.failed_step == "charge"
    assert ending.settlement.fingerprint
    assert outcome(ending) == {"type": "Declined", "message": "no money"}
    assert ending.failed_attempt is None, "the step's own attempts are kept already"


def test_a_run_that_is_late_or_was_given_what_does_not_fit_fails_at_once() -> None:
    late = endings.timeout(execution())
    unfit = endings.invalid_input(execution(), ValueError("no number"))

    assert said(late) == ("failed", None, Reason.TIMEOUT.value)
    assert outcome(late)["message"] == "the run took longer than the 60 s of its workflow"
    assert said(unfit) == ("failed", None, Reason.INVALID_INPUT.value)
    assert unfit.failed_attempt is not None


def test_what_a_step_made_that_cannot_be_stored_is_the_steps() -> None:
    one = execution()
    asked = begun(one)

    ending = endings.unstorable(one, Unstorable("too long"), asked)

    assert said(ending) == ("failed", None, Reason.UNSTORABLE.value)
    assert ending.settlement.failed_step == "charge"
    assert ending.failed_attempt is not None
    assert ending.failed_attempt.position == asked.position
    assert ending.failed_attempt.began == asked.started


def test_a_step_that_takes_its_child_along_is_tried_again_elsewhere() -> None:
    ending = endings.overrun(begun(execution()))

    assert ending.failed_attempt is not None
    assert ending.failed_attempt.type == "StepTimeout"
    assert said(ending) == ("waiting", ending.failed_attempt.retry_delay_s, None)
    assert ending.entry is None


def test_it_is_not_tried_again_where_its_policy_says_so_of_every_error() -> None:
    asked = begun(execution_of(claim_of(), careful, Past({}, {})))

    ending = endings.overrun(asked)

    assert said(ending) == ("queued", 0.0, None)
    assert ending.entry is not None
    assert json.loads(ending.entry.error or "")["type"] == "StepTimeout"


def test_the_last_attempt_of_it_is_told_to_its_workflow_elsewhere() -> None:
    asked = begun(execution())

    ending = endings.overrun(asked.again())

    assert said(ending) == ("queued", 0.0, None)
    assert ending.entry is not None
    assert ending.entry.position == asked.position
    assert json.loads(ending.entry.error or "")["type"] == "StepTimeout"


@pytest.mark.parametrize(
    ("since", "other_code", "state", "notes"),
    [
        (None, False, "waiting", True),
        (failed_before(1, ago_s=1.0), False, "waiting", False),
        (failed_before(1, ago_s=601.0), False, "failed", True),
        (failed_before(1, ago_s=601.0), True, "waiting", True),
        (failed_before(9, ago_s=6_001.0), True, "failed", True),
    ],
)
def test_a_run_waits_for_code_as_long_as_the_grace(
    since: PastFailures | None, other_code: bool, state: str, notes: bool
) -> None:
    one = execution() if since is None else execution(deploy=since)
    one.claim.code_version = "0" if other_code else one.code_version

    ending = endings.deploy_awaited(one, Reason.UNKNOWN_WORKFLOW, "no workflow 'w'")

    assert ending.settlement.state == state
    assert (ending.failed_attempt is not None) == notes
    assert not ending.is_alone


def test_nothing_is_done_to_a_run_by_deciding_what_becomes_of_it() -> None:
    one = execution()
    asked = begun(one)

    for _ in range(2):
        endings.failure(one, ValueError("no"))
        endings.overrun(asked)
        endings.mismatch(one, "it asks for something else")

    assert not one.has_news
    assert one.pending == [asked]


def test_an_ending_is_done_with_its_evidence() -> None:
    one = execution()
    asked = begun(one)
    ending = endings.overrun(asked.again())

    one.end(ending)

    assert one.settlement is ending.settlement
    assert one.failed_attempts == [ending.failed_attempt]
    assert one.unwritten == [ending.entry]


def test_an_ending_that_is_alone_leaves_nothing_else_to_write() -> None:
    one = execution()
    one.unwritten.append(JournalEntry("r", "1", "step", "charge"))
    one.note(endings.failed_attempt(begun(one), ValueError("no"), 1.0))
    ending = endings.unwritable(one, ValueError("no"))

    one.end(ending)

    assert one.unwritten == []
    assert one.failed_attempts == [ending.failed_attempt]
