"""What workflows were given: the same each time their code is run, and nothing of others."""

from collections import defaultdict

from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import Violations
from veltrix.prove.load.authors import NOBODY

_CHARS = 120


def values_are_seen_again(case: Case) -> Violations:
    """A workflow is given the same values whenever its code is run, live or from the journal."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for seen in case.evidence.seen:
        found[seen.id, seen.point].add(seen.value)
    for (id_, point), values in found.items():
        if len(values) > 1:
            told = " and ".join(value[:_CHARS] for value in sorted(values))
            yield f"event {id_} was given, as {point}, {told}"


def tenants_are_apart(case: Case) -> Violations:
    """No run sees what another one set for itself, in its own code or in its steps."""
    for seen in case.evidence.seen:
        wanted = {"tenant": seen.id, "tenantless": NOBODY}.get(seen.point.split(" ")[0])
        if wanted is not None and seen.value != wanted:
            yield f"event {seen.id} saw {seen.value!r} as its {seen.point}"
