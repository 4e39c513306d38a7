"""Register: what this code's workflows subscribe to becomes rows that every api reads."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.access.audit import Audited, append
from veltrix.authoring.workflows import Workflow
from veltrix.releases import subscription_rows
from veltrix.releases.rules import release_id
from veltrix.releases.subscription_rows import Subscription, Taken
from veltrix.store.transactions import after_commit
from veltrix.telemetry import logger

log = logger("deploys")


def register(
    tx: Connection,
    workflows: Mapping[str, tuple[Workflow, str]],
    *,
    restart_s: float = subscription_rows.RESTART_S,
    release: str | None = None,
) -> list[str]:
    """Write the subscriptions of these (workflow, code version) pairs; the names that changed.

    In a transaction. `release` is the id under which workers report, when some of it cannot be
    registered. What that deploys, see `subscriptions.write`: a worker that merely starts
    again never takes away what newer code has written.
    """
    done = subscription_rows.write(tx, _rows(workflows), restart_s=restart_s, release=release)
    after_commit(tx, partial(tell, done.taken))
    return done.new


def register_by_hand(
    tx: Connection,
    workflows: Mapping[str, tuple[Workflow, str]],
    *,
    restart_s: float,
    is_kept: bool,
    author: str,
    reason: str,
) -> list[str]:
    """As `register`, by somebody who deploys these (or not, if `is_kept`) and is noted for it."""
    done = subscription_rows.write(
        tx, _rows(workflows), restart_s=restart_s, is_by_hand=True, is_kept=is_kept
    )
    if done.taken:
        row = Audited(
            author=author,
            action="workflow.register",
            reason=reason,
            target="workflow",
            target_id=done.taken[0].workflow if len(done.taken) == 1 else None,
            request={"versions": {name: version for name, (_, version) in workflows.items()}},
            result={"taken": [msgspec.to_builtins(one) for one in done.taken]},
        )
        append(tx, [row])
    after_commit(tx, partial(tell, done.taken))
    return done.new


def _rows(workflows: Mapping[str, tuple[Workflow, str]]) -> list[Subscription]:
    return [subscription_of(workflow, version) for workflow, version in workflows.values()]


def release_of(workflows: Mapping[str, tuple[Workflow, str]]) -> str:
    """The id of the release that these are, as `register` notes it."""
    return release_id((w.name, version, w.types, w.queue) for w, version in workflows.values())


def tell(taken: Sequence[Taken]) -> None:
    """Say which versions route from now on."""
    for one in taken:
        words = {"workflow": one.workflow, "code_version": one.code_version}
        if one.is_back:
            log.warning("workflow.rolled_back", **words, replaced=one.replaced)
        else:
            log.info("workflow.deployed", **words, replaced=one.replaced)


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
