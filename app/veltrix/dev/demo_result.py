"""What `veltrix demo` ends with: counts, how it went, and in a sentence what that shows."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table


class DemoResult(msgspec.Struct, frozen=True):
    """The counts; every field is a key of its line of JSON."""

    accepted: int
    succeeded: int
    failed: int
    cancelled: int
    open: int
    unaccounted: int
    duplicate_effects: int  # rows beyond one per flight, or missing, or refused by the primary key
    workers_killed: int  # only those that died with runs in their hands
    seconds: float  # from the first event sent until the last run had its outcome
    events_per_s: float
    matches_dataset: bool  # table and file agree, flight by flight

    @property
    def is_ok(self) -> bool:
        """Nothing open, unaccounted or done twice, a worker really died at work, totals match."""
        return not self.amiss()

    def amiss(self) -> list[str]:
        """What speaks against it, in words; empty when nothing does."""
        found = {
            f"runs without an outcome: {self.open:,}": self.open != 0,
            f"unaccounted in the books: {self.unaccounted:,}": self.unaccounted != 0,
            f"bookings missing, double or tried twice: {self.duplicate_effects:,}": (
                self.duplicate_effects != 0
            ),
            "no worker died with runs in its hands": self.workers_killed < 1,
            "what is booked is not what the data set says": not self.matches_dataset,
        }
        return [what for what, is_so in found.items() if is_so]

    def as_json_line(self) -> str:
        """One line of JSON with exactly these fields."""
        return msgspec.json.encode(self).decode()


class Moment(msgspec.Struct, frozen=True):
    """The books at one moment; seconds since the first event was sent."""

    at_s: float
    accepted: int
    settled: int
    open: int


class Kill(msgspec.Struct):
    """A worker ended by SIGKILL, with so many runs in its hands.

    `recovery_s`: from the kill until the last of these had its outcome, by the database's clock;
    None: they had nothing, or not all of them have one.
    """

    worker: str
    pid: int
    at_s: float
    in_hand: int
    recovery_s: float | None = None

    @property
    def runs(self) -> str:
        """How many it had, in words."""
        return f"{self.in_hand:,} {'run' if self.in_hand == 1 else 'runs'}"

    @property
    def caught(self) -> str:
        """What it had, in words."""
        return f"{self.runs if self.in_hand else 'nothing'} in its hands"


class Demonstration(msgspec.Struct, frozen=True):
    """A demo that has ended: what was counted, and how it went.

    `trouble` is what stopped it before its end, or empty.
    """

    result: DemoResult
    moments: Sequence[Moment]
    kills: Sequence[Kill]
    trouble: str = ""

    def sentence(self) -> str:
        """What this run has shown, or why it has not; in plain words."""
        result = self.result
        if amiss := result.amiss():
            return f"This run does not show what it should: {'; '.join(amiss)}."
        outcomes = ""
        if result.failed or result.cancelled:
            outcomes = f" {result.failed:,} runs failed and {result.cancelled:,} were cancelled."
        return (
            f"{result.accepted:,} flights were sent over HTTP, and each was accepted, settled and"
            f" booked exactly once, although {self._deaths()}.{outcomes} Nothing is open, lost or"
            " done twice: the books balance, and what is booked is what the data set says, flight"
            " by flight."
        )

    def _deaths(self) -> str:
        return " and ".join(
            f"{kill.worker} was killed with {kill.caught}" + _recovered(kill)
            for kill in self.kills
            if kill.in_hand
        )


def _recovered(kill: Kill) -> str:
    if kill.recovery_s is None:
        return ""
    return f" (settled {kill.recovery_s:.1f} s after the kill)"


def print_shown(shown: Demonstration, console: Console) -> None:
    """The counts, and what they show."""
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, value in msgspec.structs.asdict(shown.result).items():
        table.add_row(name.replace("_", " "), in_words(value))
    console.print(table)
    console.print(
        shown.sentence(),
        style="bold green" if shown.result.is_ok else "bold red",
        markup=False,
        highlight=False,
        soft_wrap=not console.is_terminal,
    )


def in_words(value: object) -> str:
    """A count, seconds, a rate or a yes, as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
