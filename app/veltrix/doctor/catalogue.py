"""Every rule, and why the other rows of docs/internals/loss-modes.md have none.

A test holds this against that page, so that no row is forgotten.
"""

from collections.abc import Iterator
from itertools import chain

from veltrix.doctor.rule import Rule
from veltrix.doctor.rules import (
    celery_acknowledging,
    celery_messages,
    celery_publishing,
    celery_queues,
    celery_results,
    celery_settings,
    celery_versions,
    celery_watching,
    celery_worker,
    code_publishing,
    code_tasks,
    code_workflows,
)

SUBJECTS = (
    celery_settings.rules,
    celery_publishing.rules,
    celery_queues.rules,
    celery_messages.rules,
    celery_acknowledging.rules,
    celery_worker.rules,
    celery_results.rules,
    celery_watching.rules,
    celery_versions.rules,
    code_publishing.rules,
    code_tasks.rules,
    code_workflows.rules,
)

# Rows that nobody sees before it happens: `veltrix prove` makes it happen.
PROVED_ONLY: dict[str, str] = {}


def all_rules() -> Iterator[Rule]:
    """Subject by subject."""
    return chain.from_iterable(SUBJECTS)
