"""Every rule, and why the other rows of docs/internals/loss-modes.md have none.

A test holds this against that page, so that no row is forgotten.
"""

from collections.abc import Iterator
from itertools import chain

from veltrix.doctor.rule import Rule
from veltrix.doctor.rules import celery_publishing, celery_settings

SUBJECTS = (celery_settings.rules, celery_publishing.rules)

# Rows that nobody sees before it happens: `veltrix prove` makes it happen.
PROVED_ONLY: dict[str, str] = {}


def all_rules() -> Iterator[Rule]:
    """Subject by subject."""
    return chain.from_iterable(SUBJECTS)
