"""A failure is seen by whoever watches the worker: a line with the run and the error."""

from typing import Any

from sqlalchemy import Engine
from structlog.testing import capture_logs

from tests.support.due_runs import add_runs, change_runs
from tests.support.hands import TestHands
from veltrix import Event, sleep, step, workflow
from veltrix.pipeline.execute.failure_lines import ERROR_CHARS_MAX


def lines_of(engine: Engine, *flows: Any, **limits: Any) -> tuple[str, list[dict[str, Any]]]:
    """What is said while one run is executed by one workflow after the other; and its id."""
    (run_id,) = add_runs(engine, 1)
    with capture_logs() as lines:
        for flow in flows:
            change_runs(engine, [run_id], "state = 'queued', due_at = now()")
            hands = TestHands(engine, [flow], **limits)
            try:
                hands.run([run_id])
            finally:
                hands.close()
    return run_id, [dict(line) for line in lines]


def test_a_failed_step_and_its_run_are_lines_with_the_error(engine: Engine) -> None:
    @step(retries=0)
    def charge() -> None:
        raise KeyError("cents")

    @workflow(name="fulfil")
    async def failing(event: Event[Any]) -> None:
        await charge()

    run_id, (tried, failed) = lines_of(engine, failing)

    assert (tried["log_level"], tried["event"]) == ("warning", "step.failed")
    assert (failed["log_level"], failed["event"]) == ("error", "run.failed")
    for line in (tried, failed):
        assert (line["run_id"], line["workflow"], line["step"]) == (run_id, "fulfil", "charge")
        assert line["event_id"]
        assert line["error"] == "KeyError: 'cents'"
    assert (tried["attempt"], failed["reason"]) == (1, "error")
    assert "next_in_s" not in tried


def test_what_is_tried_again_says_when_and_an_error_of_any_length_is_cut(engine: Engine) -> None:
    @workflow(name="fulfil", retries=3)
    async def failing(event: Event[Any]) -> None:
        raise ValueError("x" * 5_000)

    _, (tried,) = lines_of(engine, failing)

    assert tried["event"] == "workflow.failed"
    assert tried["next_in_s"] > 0
    assert len(tried["error"]) == ERROR_CHARS_MAX


def test_code_that_does_not_follow_the_journal_is_a_line_that_says_so(engine: Engine) -> None:
    @step
    def note(what: str) -> None:
        pass

    @workflow(name="fulfil")
    async def old(event: Event[Any]) -> None:
        await note("old")
        await sleep(0)

    @workflow(name="fulfil")
    async def new(event: Event[Any]) -> None:
        await sleep(0)

    _, lines = lines_of(engine, old, new)

    (mismatched,) = lines
    assert (mismatched["log_level"], mismatched["event"]) == ("warning", "run.mismatched")
    assert "position 1 was step 'note'" in mismatched["error"]


def test_a_run_that_succeeds_says_nothing(engine: Engine) -> None:
    @workflow(name="fulfil")
    async def fine(event: Event[Any]) -> None:
        pass

    assert lines_of(engine, fine)[1] == []
