"""Register: what this code's workflows subscribe to becomes rows that every api reads."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from app.domain.workflows import Workflow
from app.store import subscriptions
from app.store.subscriptions import Subscription


def register(tx: Connection, workflows: Mapping[str, tuple[Workflow, str]]) -> list[str]:
    """Write the subscriptions of these (workflow, code version) pairs; the names that changed.

    An older worker that registers again never takes away what newer code has written.
    """
    return subscriptions.register(
        tx, [subscription_of(workflow, version) for workflow, version in workflows.values()]
    )


def subscription_of(workflow: Workflow, code_version: str) -> Subscription:
    """The row of a workflow."""
    options: dict[str, Any] = {
        "retries": workflow.policy.retries,
        "timeout_s": workflow.timeout_s,
        "has_when": workflow.when is not None,
        "has_key": workflow.key is not None,
        "transactional_steps": workflow.transactional_steps(),
        "description": (workflow.function.__doc__ or "").strip().split("\n")[0],
    }
    return Subscription(
        workflow=workflow.name,
        code_version=code_version,
        types=workflow.types,
        queue=workflow.queue,
        options=options,
        input_schema=workflow.codec.input_schema(),
    )
