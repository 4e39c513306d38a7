"""Failure groups: what failed in the same way, seen as one thing that people deal with."""

from collections.abc import Mapping
from enum import StrEnum

UNGROUPED = "0" * 16  # runs that failed before errors had a fingerprint


class GroupKind(StrEnum):
    """What the failures of a group are."""

    RUN = "run"  # runs with one error, by fingerprint
    POISON = "poison"  # runs that ended their workers, by workflow
    DEAD_LETTER = "dead_letter"  # messages that reached nobody's code, by queue and reason
    UNROUTABLE = "unroutable"  # messages for which there was no queue
    UNROUTED = "unrouted"  # events nobody subscribes to, by source and type


# Of runs, whose code has a version. What never came to any code can be mended in none.
RUN_KINDS = (GroupKind.RUN, GroupKind.POISON)


class GroupState(StrEnum):
    """How far people are with it."""

    OPEN = "open"
    RESOLVED = "resolved"  # mended, in a version of the code if one is named
    IGNORED = "ignored"
    REGRESSED = "regressed"  # resolved, and seen again since


# From which states people may move a group into which. Only a failure makes it regressed.
MOVES: Mapping[GroupState, tuple[GroupState, ...]] = {
    GroupState.RESOLVED: (GroupState.OPEN, GroupState.REGRESSED, GroupState.IGNORED),
    GroupState.IGNORED: (GroupState.OPEN, GroupState.REGRESSED, GroupState.RESOLVED),
    GroupState.OPEN: (GroupState.RESOLVED, GroupState.IGNORED),
}
