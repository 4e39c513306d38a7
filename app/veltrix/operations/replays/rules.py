"""Replays: what an operator may ask for, the states of one, and when it goes on or stops by itself.

ReplayRefused       nothing was planned, nothing moved; `slug` and `members` say which and why
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from veltrix.domain.states import ReplayMode

if TYPE_CHECKING:
    from veltrix.settings.fields import Settings

RATE_MIN, RATE_MAX = 0.001, 100_000.0
REASON_CHARS_MAX = 1_000
# Before so many have an outcome, a share of them says nothing; unless no other is open.
JUDGED_RUNS_MIN = 20
GENERATION_MAX = 32_767
SPENT = (
    f"it was replayed {GENERATION_MAX:,} times, as often as a run can be: edit it, or start its"
    " workflow with the same input"
)


class ReplayState(StrEnum):
    """`planned -> [canary ->] running -> done`; `paused` and `stopped` go on, `aborted` does not.

    `stopped` is what a replay does by itself when too many of its runs failed again.
    """

    PLANNED = "planned"
    CANARY = "canary"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABORTED = "aborted"
    DONE = "done"


class ReplayedState(StrEnum):
    """What became of one run of a replay. `planned`: not yet its turn."""

    PLANNED = "planned"
    REPLAYED = "replayed"
    SUCCEEDED = "succeeded"
    FAILED_AGAIN = "failed_again"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Verb(StrEnum):
    """What an operator does with a replay."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


MOVING = frozenset({ReplayState.CANARY, ReplayState.RUNNING})
ENDED = frozenset({ReplayState.ABORTED, ReplayState.DONE})
ALLOWED: dict[Verb, frozenset[ReplayState]] = {
    Verb.START: frozenset({ReplayState.PLANNED}),
    Verb.PAUSE: MOVING,
    Verb.RESUME: frozenset({ReplayState.PAUSED, ReplayState.STOPPED}),
    Verb.ABORT: frozenset(ReplayState) - ENDED,
}


class ReplayRefused(Exception):
    """Nothing was planned and nothing moved. `slug` is stable; `members` are facts for programs."""

    def __init__(self, slug: str, message: str, **members: Any) -> None:
        super().__init__(message)
        self.slug, self.members = slug, members


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay is done. `stop_share` None: it never stops by itself. `patch`: RFC 6902."""

    mode: ReplayMode = ReplayMode.FAILED_STEP
    rate: float
    canary: int = 0
    stop_share: float | None
    patch: list[dict[str, Any]] | None = None


def options_of(
    settings: "Settings",
    *,
    mode: ReplayMode | None,
    rate: float | None,
    canary: int,
    stop_share: float | msgspec.UnsetType | None,
    patch: list[dict[str, Any]] | None,
) -> Options:
    """What was asked for; the rest is as the settings say, and an edited run begins anew."""
    usual = ReplayMode.FAILED_STEP if patch is None else ReplayMode.BEGINNING
    if isinstance(stop_share, msgspec.UnsetType):
        stop_share = settings.replay_stop_share
    return Options(
        mode=mode or usual,
        rate=settings.replay_rate if rate is None else rate,
        canary=canary,
        stop_share=stop_share,
        patch=patch,
    )


class Counts(msgspec.Struct, kw_only=True):
    """The books of a replay: planned = left + skipped + replayed; replayed = outcomes + open."""

    planned: int
    replayed: int
    succeeded: int
    failed_again: int
    cancelled: int
    skipped: int

    @property
    def open(self) -> int:
        """Runs that were replayed and have no outcome yet."""
        return self.replayed - self.succeeded - self.failed_again - self.cancelled

    @property
    def left(self) -> int:
        """Runs whose turn has not come."""
        return self.planned - self.replayed - self.skipped


class Judged(msgspec.Struct, frozen=True):
    """Where the looking for failures began: outcomes before a resume are not held against it."""

    succeeded: int = 0
    failed_again: int = 0


def check_options(options: Options) -> None:
    """Raises ReplayRefused for a rate, canary, bound or mode that makes no sense."""
    for wrong in _mistakes(options):
        raise ReplayRefused("invalid-options", wrong)


def _mistakes(options: Options) -> Iterable[str]:
    if not RATE_MIN <= options.rate <= RATE_MAX:
        yield f"rate is {options.rate:g}; runs per second are from {RATE_MIN} to {RATE_MAX:,.0f}"
    if not 0 <= options.canary <= 1_000_000:
        yield f"canary is {options.canary}; it is a number of runs, or 0 for none"
    if options.stop_share is not None and not 0 <= options.stop_share <= 1:
        yield f"stop_share is {options.stop_share:g}; it is a share from 0 to 1, or null for never"
    if options.patch is not None and options.mode is not ReplayMode.BEGINNING:
        yield "an edited run is a new run, so it runs from the beginning: leave `from` out"


def decide(
    state: ReplayState,
    counts: Counts,
    *,
    canary_to: int,
    stop_share: float | None,
    since: Judged,
    passed: int = 0,
) -> tuple[ReplayState, str | None]:
    """The state that follows from the counts, and why, if the replay stops by itself.

    A canary is over when `canary_to` runs were replayed, or none is left, and each of them has an
    outcome or is one of the `passed`: open, but beyond the step that it had failed in.
    """
    if state not in MOVING:
        return state, None
    is_canary = state == ReplayState.CANARY
    has_moved = is_moved(state, counts, canary_to)
    passed = passed if is_canary else 0
    if counts.left and (why := _too_many(counts, stop_share, since, passed, is_all=has_moved)):
        return ReplayState.STOPPED, why
    if counts.left == 0 and counts.open == 0:
        return ReplayState.DONE, None
    if is_canary and has_moved and counts.open <= passed:
        return ReplayState.RUNNING, None
    return state, None


def is_moved(state: ReplayState, counts: Counts, canary_to: int) -> bool:
    """Whether every run was moved whose turn it is before more outcomes are known."""
    return counts.left == 0 or (state == ReplayState.CANARY and counts.replayed >= canary_to)


def _too_many(
    counts: Counts, stop_share: float | None, since: Judged, passed: int, *, is_all: bool
) -> str | None:
    failed = counts.failed_again - since.failed_again
    settled = failed + counts.succeeded - since.succeeded + passed
    is_enough = settled >= JUDGED_RUNS_MIN or (is_all and counts.open <= passed)
    if stop_share is None or not is_enough or failed <= stop_share * settled:
        return None
    return (
        f"{failed:,} of {settled:,} runs failed again ({failed / settled:.0%}), more than the"
        f" {stop_share:.0%} allowed"
    )
