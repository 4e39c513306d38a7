"""Veltrix's front door for workflow authors.

    from veltrix import Event, step, workflow

Everything a workflow may use is here. The rest of the package is the platform.
"""

from veltrix.domain.current import Current, current
from veltrix.domain.events import Event
from veltrix.domain.flow import (
    NonRetryable,
    StepFailed,
    gather,
    idempotency_key,
    now,
    random,
    sleep,
    uuid,
)
from veltrix.domain.workflows import step, transaction, workflow

__all__ = [
    "Current",
    "Event",
    "NonRetryable",
    "StepFailed",
    "current",
    "gather",
    "idempotency_key",
    "now",
    "random",
    "sleep",
    "step",
    "transaction",
    "uuid",
    "workflow",
]
