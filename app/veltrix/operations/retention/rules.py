"""Which events may leave the ledger, and why the others stay: rules without any reading.

`leaving_rows.py` says the same in SQL, for millions at a time; a test holds the two together.
PolicyRefused       no such policy can be; the text says what it must be
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from veltrix.domain.states import OPEN, RunState

DAY_S = 86_400
KEPT_S_MAX = 100 * 365 * DAY_S  # beyond it: never


class PolicyOutcome(StrEnum):
    """What policies tell apart: how a run ended, or that an event started none."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNROUTED = "unrouted"


class Stays(StrEnum):
    """Why an event stays; of several reasons the first one here."""

    OPEN = "open"  # a run of it is not settled
    FAILED = "failed"  # a run of it failed, and is neither archived nor in a resolved group
    ASTRAY = "astray"  # it is marked as routed, and has no run
    UNROUTED = "unrouted"  # nobody subscribed to it, and no policy lets such events go
    POLICY = "policy"  # a policy of its workflow keeps it, for longer than that of all others
    NEVER = "never"  # there is no policy for what became of it, or one that says never
    YOUNG = "young"  # its time has not come
    UNSEALED = "unsealed"  # the books of its minute are not sealed


class RetentionPolicy(msgspec.Struct, frozen=True):
    """How long what ended so is kept, in seconds; None: for ever. Workflow "": of every one.

    Content: payloads, outputs, errors. It counts from when a run was settled; of a failed one, from
    when it was archived or its group resolved; of an unrouted event, from when it was accepted.
    Lines: what the books keep of it.
    """

    workflow: str
    outcome: PolicyOutcome
    content_s: int | None
    lines_s: int | None


DEFAULTS = (
    RetentionPolicy("", PolicyOutcome.SUCCEEDED, 30 * DAY_S, 400 * DAY_S),
    RetentionPolicy("", PolicyOutcome.CANCELLED, 30 * DAY_S, 400 * DAY_S),
    RetentionPolicy("", PolicyOutcome.FAILED, 90 * DAY_S, 400 * DAY_S),
    RetentionPolicy("", PolicyOutcome.UNROUTED, None, None),
)


class PolicyRefused(ValueError):
    """The policy cannot be."""


class JudgedRun(msgspec.Struct, frozen=True):
    """What of a run says whether it may leave. `resolved_at`: of its group, if that is resolved."""

    workflow: str
    state: RunState
    settled_at: datetime | None = None
    archived_at: datetime | None = None
    resolved_at: datetime | None = None


class JudgedEvent(msgspec.Struct, frozen=True):
    """What of an event says whether it may leave, with all of its runs."""

    accepted_at: datetime
    is_unrouted: bool
    is_sealed: bool  # the books of its minute: all accounts agreed, nothing is left to fold
    runs: Sequence[JudgedRun] = ()


PolicyMap = Mapping[tuple[str, PolicyOutcome], RetentionPolicy]


def by_subject(policies: Iterable[RetentionPolicy]) -> PolicyMap:
    """The policies by workflow and outcome; of two of one subject the last."""
    return {(one.workflow, one.outcome): one for one in policies}


def effective(policies: PolicyMap, workflow: str, outcome: PolicyOutcome) -> RetentionPolicy | None:
    """The policy of this workflow, else that of every workflow; None: there is neither."""
    return policies.get((workflow, outcome)) or policies.get(("", outcome))


def check(policy: RetentionPolicy) -> None:
    """Raises PolicyRefused for what cannot be meant."""
    if policy.outcome is PolicyOutcome.UNROUTED and policy.workflow:
        raise PolicyRefused("unrouted events have no workflow: leave it out")
    for name, seconds in (("content", policy.content_s), ("lines", policy.lines_s)):
        if seconds is not None and not DAY_S <= seconds <= KEPT_S_MAX:
            raise PolicyRefused(
                f"{name} must be kept from one day to {KEPT_S_MAX // DAY_S:,} days, or for ever:"
                " history is dropped by days"
            )
    if policy.lines_s is not None and policy.lines_s < (policy.content_s or 0):
        raise PolicyRefused("lines must be kept as long as content, or longer")


def shortest_s(policies: PolicyMap) -> int | None:
    """What is younger than so many seconds cannot leave; None: nothing can."""
    return min((p.content_s for p in policies.values() if p.content_s is not None), default=None)


def why_it_stays(event: JudgedEvent, policies: PolicyMap, now: datetime) -> Stays | None:
    """Why the event stays with all of its runs; None: they may leave, which they do together."""
    if not event.runs:
        return _unrouted(event, policies, now)
    if any(run.state in OPEN for run in event.runs):
        return Stays.OPEN
    begins = [(run, _begins_at(run)) for run in event.runs]
    if any(at is None for _, at in begins):
        return Stays.FAILED
    own = [_until(run, at, policies, run.workflow) for run, at in begins]
    general = [_until(run, at, policies, "") for run, at in begins]
    if _are_over(own, now):
        return None if event.is_sealed else Stays.UNSEALED
    if _are_over(general, now):
        return Stays.POLICY
    return Stays.NEVER if None in own else Stays.YOUNG


def _unrouted(event: JudgedEvent, policies: PolicyMap, now: datetime) -> Stays | None:
    if not event.is_unrouted:
        return Stays.ASTRAY
    policy = policies.get(("", PolicyOutcome.UNROUTED))
    if policy is None or policy.content_s is None:
        return Stays.UNROUTED
    if event.accepted_at + timedelta(seconds=policy.content_s) > now:
        return Stays.YOUNG
    return None if event.is_sealed else Stays.UNSEALED


def _begins_at(run: JudgedRun) -> datetime | None:
    """From when on its time counts; None: not yet. A group may be resolved before its last run."""
    if run.state is not RunState.FAILED or run.settled_at is None:
        return run.settled_at
    dealt_with = [at for at in (run.archived_at, run.resolved_at) if at is not None]
    return max(min(dealt_with), run.settled_at) if dealt_with else None


def _until(
    run: JudgedRun, begins_at: datetime | None, policies: PolicyMap, workflow: str
) -> datetime | None:
    policy = effective(policies, workflow, PolicyOutcome(run.state.value))
    if policy is None or policy.content_s is None or begins_at is None:
        return None
    return begins_at + timedelta(seconds=policy.content_s)


def _are_over(until: Sequence[datetime | None], now: datetime) -> bool:
    return all(at is not None and at <= now for at in until)
