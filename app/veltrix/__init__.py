"""Veltrix's front door for workflow authors.

    from veltrix import Event, step, workflow

Everything a workflow may use is here. The rest of the package is the platform.
"""

from veltrix.authoring.current import Current, current
from veltrix.authoring.flow import (
    NonRetryable,
    StepFailed,
    gather,
    idempotency_key,
    now,
    random,
    sleep,
    uuid,
)
from veltrix.authoring.resources import on_worker_start, resource
from veltrix.authoring.steps import step, transaction
from veltrix.authoring.workflows import workflow
from veltrix.domain.events import Event

__all__ = [
    "Current",
    "Event",
    "NonRetryable",
    "StepFailed",
    "current",
    "gather",
    "idempotency_key",
    "now",
    "on_worker_start",
    "random",
    "resource",
    "sleep",
    "step",
    "transaction",
    "uuid",
    "workflow",
]
