"""Every rule, and why the other rows of docs/internals/loss-modes.md have none.

A test holds this against that page, so that no row is forgotten: each is a rule, or impossible here
(`BY_CONSTRUCTION`), or seen by nobody before it happens (`PROVED_ONLY`).
"""

from collections.abc import Iterator
from itertools import chain

from veltrix.doctor.by_construction import BY_CONSTRUCTION
from veltrix.doctor.rule import Rule
from veltrix.doctor.rules import (
    broker_conf,
    canaries,
    code_workflows,
    defined_queues,
    deployed_processes,
    deployed_servers,
    history,
    platform_settings,
    postgresql,
    rabbitmq_node,
    rabbitmq_queues,
    rabbitmq_topology,
    workers,
)
from veltrix.doctor.rules.celery import (
    acknowledging,
    code_publishing,
    code_tasks,
    messages,
    publishing,
    queues,
    results,
    settings,
    versions,
    watching,
    worker,
)

__all__ = ["BY_CONSTRUCTION", "PROVED_ONLY", "all_rules"]

SUBJECTS = (
    platform_settings.rules,
    rabbitmq_queues.rules,
    rabbitmq_topology.rules,
    rabbitmq_node.rules,
    postgresql.rules,
    workers.rules,
    canaries.rules,
    history.rules,
    deployed_servers.rules,
    deployed_processes.rules,
    defined_queues.rules,
    broker_conf.rules,
    settings.rules,
    publishing.rules,
    queues.rules,
    messages.rules,
    acknowledging.rules,
    worker.rules,
    results.rules,
    watching.rules,
    versions.rules,
    code_publishing.rules,
    code_tasks.rules,
    code_workflows.rules,
)

# Rows that nobody sees before it happens, by the faults of `veltrix prove` that make it happen.
PROVED_ONLY: dict[str, str] = {
    "B17": "queues_purged",
    "D10": "relay_killed",
    "D11": "sessions_terminated",
    "W33": "rolling_restart",
}


def all_rules() -> Iterator[Rule]:
    """Subject by subject."""
    return chain.from_iterable(SUBJECTS)
