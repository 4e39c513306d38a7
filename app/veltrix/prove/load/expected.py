"""What is expected of the runs of each kind: how they end, and what they leave."""

from typing import NamedTuple

from veltrix.prove.load.authors import LIMITS_S, LONG, ROUNDS, WIDE
from veltrix.prove.load.authors_values import IN_ONE_RUN

DEPENDS = -1
TURNING = "turning"  # starts a workflow in some releases only, and has other steps in one


class Expected(NamedTuple):
    """Of a run that came to its end by itself."""

    noted: int | None = 1  # different steps that note their begin; None: it depends
    journalled: int | None = None  # entries without an error, if other than that; or DEPENDS
    booked: int = 0  # rows of transactional steps
    state: str = "succeeded"
    reason: str = ""  # of a failure; "": any but those that blame the run for its surroundings
    limit_s: float | None = None
    has_key: bool = False  # its key is the sender's id of its event

    @property
    def entries(self) -> int | None:
        """Journal entries that did not end in an error."""
        if self.journalled == DEPENDS:
            return None
        return self.noted if self.journalled is None else self.journalled


_LIMITED = {
    kind: Expected(None, state="failed", reason="timeout", limit_s=limit_s)
    for kind, limit_s in LIMITS_S.items()
}
EXPECTED: dict[str, Expected] = {
    "slow": Expected(3),
    "blocking": Expected(2),
    "flaky": Expected(2),
    "failing": Expected(2, state="failed"),
    "killing": Expected(3),
    "poison": Expected(2, state="failed", reason="poison"),
    "sleeping": Expected(2, 3),
    "parallel": Expected(4),
    "booking": Expected(2, 5, 2),
    # Authors'
    "finally": Expected(3, 4),
    "catching": Expected(2, 3),
    "managing": Expected(3, 4),
    "stubborn": Expected(2, 3),
    "ending": Expected(3, state="failed"),
    "changing": Expected(3, 4),
    "chance": Expected(3, 10),
    "wide": Expected(2 * WIDE + 2, 2 * WIDE + 3),
    "rounds": Expected(2 * ROUNDS + 1, 2 * ROUNDS + 2),
    "long": Expected(LONG),
    "long_wide": Expected(LONG),
    **_LIMITED,
    "tenant": Expected(4, 5),
    "tenantless": Expected(2),
    "values": Expected(2 * IN_ONE_RUN + 2, 2 * IN_ONE_RUN + 3),
    "threads": Expected(2),
    "dying_loop": Expected(3),
    "odd": Expected(3, 1),
    "programs": Expected(2),
    "mute": Expected(3, 4),
    "refused": Expected(3, booked=1),
    "unconnected": Expected(3, booked=1),
    "untidy": Expected(2, booked=2),
    "holding": Expected(1),
    "chosen": Expected(1, has_key=True),
    "unchosen": Expected(0, reason="skipped"),
    # Of a deploy
    "moving": Expected(2, 3),
    TURNING: Expected(2, DEPENDS),
}
_PLAIN = Expected()
# Kinds whose runs an operator may cancel meanwhile.
CANCELLED_KINDS = frozenset({"long", "long_wide"})
# Reasons that blame a run for what was around it: no run of prove but the one that does it.
BLAMED = frozenset(
    {"poison", "journal_mismatch", "unknown_workflow", "unstorable", "invalid_input"}
)


def expected_of(kind: str) -> Expected:
    """What a run of this kind is to come to."""
    return EXPECTED.get(kind, _PLAIN)
