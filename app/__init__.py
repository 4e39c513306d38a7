"""Veltrix's front door for workflow authors.

    from app import Event, step, workflow

Everything a workflow may use is here. The rest of `app` is the platform.
"""

from app.domain.events import Event
from app.domain.flow import (
    NonRetryable,
    StepFailed,
    gather,
    idempotency_key,
    now,
    random,
    sleep,
    uuid,
)
from app.domain.workflows import step, transaction, workflow

__all__ = [
    "Event",
    "NonRetryable",
    "StepFailed",
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
