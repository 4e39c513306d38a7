"""A blow: one fault as it struck, with what was open and in hand, and how long recovery took."""

import time
from collections.abc import Sequence

import msgspec


def names_of(pids: Sequence[int]) -> str:
    """The pattern of what the sessions of these worker children call themselves."""
    return f"^veltrix worker ({'|'.join(map(str, pids))})( .*)?$" if pids else "^$"


class Blow(msgspec.Struct):
    """What is known of a fault that was tried. Times are seconds since 1970 of this machine."""

    name: str
    target_s: float  # for recovery; see `recovery_s`
    victims: list[str] = []
    since: float = 0.0  # the first try: it is taken back and tried again until it strikes work
    at: float = 0.0
    healed_at: float = 0.0
    recovered_at: float | None = None
    open: int = 0
    in_hand: int = 0
    detail: str = ""
    not_tried: str = ""  # why; "": it was tried
    error: str = ""  # what did not come back after the strike
    seq: int = 0
    affected: list[str] = []  # runs that have to be taken up again
    is_of_one: bool = False  # it concerns what one process had in hand, and nothing else
    slowest: str = ""  # the run that was taken up last
    frozen_pids: list[int] = []
    thawed_seq: int | None = None  # where the witness was when they were woken
    letters: list[str] = []  # of bodies sent, that have to be rows
    releases: list[tuple[str, float, float]] = []  # deployed: from when, and until when all had it
    is_forgetful: bool = False  # PostgreSQL may lose commits that nobody waited for: claims
    is_harmless: bool = False  # it takes nothing away: all is to go on as without it

    def strike(self) -> None:
        """Now."""
        self.at = time.time()
        self.since = self.since or self.at

    def heal(self) -> None:
        """What was taken away is back: recovery is counted from here."""
        self.healed_at = time.time()

    @property
    def frozen_names(self) -> str:
        """Frozen processes, as the witness knows them: they do not recover what they held."""
        return names_of(self.frozen_pids)

    @property
    def is_tried(self) -> bool:
        """It struck a system at work."""
        return not self.not_tried and self.at > 0 and self.open > 0 and self.in_hand > 0

    @property
    def recovery_s(self) -> float | None:
        """From the end of the fault until every run that was open then had been taken up again.

        Of a fault of one process: every run in its hand. None: that was not seen, or not tried.
        """
        if self.recovered_at is None:
            return None
        return max(0.0, self.recovered_at - self.healed_at)

    @property
    def is_recovered(self) -> bool:
        """In time, and everything that was taken away is back."""
        if self.error:
            return False
        recovery_s = self.recovery_s
        return recovery_s is not None and recovery_s <= self.target_s
