"""Executions of runs that no database knows of."""

from datetime import UTC, datetime

from tests.support.hands import LIMITS
from veltrix.authoring.workflows import Workflow
from veltrix.pipeline.execute.coroutines.execution import Execution, ExecutionLimits
from veltrix.pipeline.execute.journal_rows import Past
from veltrix.pipeline.execute.lease_rows import Claim

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def claim_of(data: str = "{}") -> Claim:
    """A run in its first attempt, for an event with this JSON."""
    return Claim(
        run_id="r", workflow="w", queue="q", generation=0, attempt=1, alone=False, crashes=0,
        code_version=None, key=None, is_cancel_requested=False, started_at=MOMENT,
        first_claimed_at=MOMENT, now=MOMENT, event_id="e", source="/s", sender_id="i", type="t",
        subject=None, time=None, datacontenttype=None, dataschema=None, data=data,
        data_binary=None, extensions=None, traceparent=None, accepted_at=MOMENT,
    )  # fmt: skip


def execution_of(claim: Claim, workflow: Workflow, past: Past) -> Execution:
    """This claim in the hands of a child whose code of the workflow is of version 1."""
    return Execution(claim, workflow, "1", past, ExecutionLimits(**LIMITS))
