"""The course of a run as a picture: a lane for each thing that happened, drawn to scale.

All attempts of a step are one lane, with the pauses between them; a sleep is a lane of its own, and
so is the time in which nobody had the run. When an attempt began is recorded with it; of rows from
before that was so, a bar begins at the last moment known before its end.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain

import msgspec

from veltrix.domain.places import DEPLOY_POSITION, WORKER_POSITION
from veltrix.domain.states import RunState
from veltrix.operations.runs.read_story import Attempt, Entry, RunStory

LANES_MAX = 60
BARS_MAX = 40  # of one lane
_WIDTH = 1_000.0
_BAR_MIN = 4.0
_GAP_S = 0.001  # what is shorter is the way from one step to the next
_WORK = frozenset({"step", "failed", "crash"})
_REST = frozenset({"sleep", "wait"})
# What waits in the database, by the position its failures are counted at.
PLACES = {
    "": "the workflow's own code",
    DEPLOY_POSITION: "waiting for its code",
    WORKER_POSITION: "its worker",
}


class Bar(msgspec.Struct, frozen=True):
    """From when to when, and where that is on a scale of 1,000.

    `kind` is how it is drawn: event, queued, step, sleep, value, wait, failed, crash, kept, state.
    """

    kind: str
    since: datetime
    until: datetime
    x: float
    width: float


class Lane(msgspec.Struct, frozen=True):
    """One thing that happened, or was tried until it did. `kind` is that of its last bar.

    `of`: the entry or attempt whose arguments it had. `is_at_most`: when it began is not known.
    """

    label: str
    detail: str
    bars: list[Bar]
    of: Entry | Attempt | None
    is_at_most: bool

    @property
    def kind(self) -> str:
        """How it ended."""
        return self.bars[-1].kind

    @property
    def since(self) -> datetime:
        """When the first of it began."""
        return self.bars[0].since

    @property
    def took_s(self) -> float:
        """How long it was, without the pauses between attempts."""
        spans = [b.until - b.since for b in self.bars if b.kind != "wait" or len(self.bars) == 1]
        return sum(spans, timedelta()).total_seconds()


class Course(msgspec.Struct, frozen=True):
    """One generation of a run. `left` lanes are not drawn: there are too many."""

    generation: int
    begins: datetime
    ends: datetime
    lanes: list[Lane]
    left: int


class _Mark(msgspec.Struct):
    """A bar to be, of the lane `key`; `since` None: not known."""

    key: str
    label: str
    kind: str
    detail: str
    since: datetime | None
    until: datetime
    of: Entry | Attempt | None = None


def courses_of(story: RunStory, now: datetime) -> list[Course]:
    """Every generation of the run that something is known of, newest first."""
    return [
        course
        for generation in range(story.generation, -1, -1)
        if (course := _course(story, generation, now)) is not None
    ]


def _course(story: RunStory, generation: int, now: datetime) -> Course | None:
    begins = _beginning(story, generation)
    if begins is None:
        return None
    is_current = generation == story.generation
    marks = [*_tried(story, generation, now), *_recorded(story, generation, begins, now)]
    marks += _waits(marks, story if is_current else None, begins, now)
    if generation == 0:
        marks.append(_Mark("0", "accepted", "event", "the event", begins, begins))
    if is_current:
        marks += _states(story, marks, begins, now)
    ends = max([begins, *(mark.until for mark in marks)])
    lanes = _lanes(marks, begins, ends)
    return Course(generation, begins, ends, lanes[:LANES_MAX], max(0, len(lanes) - LANES_MAX))


def _lanes(marks: list[_Mark], begins: datetime, ends: datetime) -> list[Lane]:
    scale = _WIDTH / max((ends - begins).total_seconds(), 1e-6)
    bars: dict[str, list[Bar]] = {}
    of: dict[str, list[_Mark]] = {}
    known = begins
    for mark in sorted(marks, key=lambda mark: mark.until):
        since = max(begins, known if mark.since is None else mark.since)
        until = max(mark.until, since)
        x = min((since - begins).total_seconds() * scale, _WIDTH - _BAR_MIN)
        width = round(min(max((until - since).total_seconds() * scale, _BAR_MIN), _WIDTH - x), 1)
        bars.setdefault(mark.key, []).append(Bar(mark.kind, since, until, round(x, 1), width))
        of.setdefault(mark.key, []).append(mark)
        known = max(known, until)
    lanes = [_lane(of[key], sorted(bars[key], key=lambda bar: bar.since)) for key in bars]
    return sorted(lanes, key=lambda lane: (lane.since, lane.bars[-1].until))


def _lane(marks: list[_Mark], bars: list[Bar]) -> Lane:
    last = marks[-1]
    details = list(dict.fromkeys(mark.detail for mark in marks if mark.detail))
    tried = sum(mark.kind in _WORK for mark in marks)
    if tried > 1:
        details = [last.detail or details[-1], f"{tried} attempts"]
    elif len(marks) > 1 and last.kind == "value":
        details = [f"{len(marks)} values"]
    of = next((mark.of for mark in reversed(marks) if mark.of is not None), None)
    is_at_most = any(mark.since is None for mark in marks)
    return Lane(last.label, ", ".join(details[:2]), bars[:BARS_MAX], of, is_at_most)


def _beginning(story: RunStory, generation: int) -> datetime | None:
    """When it was accepted or replayed; else the first that is known of it."""
    if generation == 0:
        return story.cloudevent.accepted_at or story.started_at
    replays = [
        action.acted_at
        for action in story.actions
        if action.generation == generation and action.action.startswith("replay")
    ]
    failed = [a.failed_at for a in story.failed_attempts if a.generation == generation]
    recorded = [step.recorded_at for step in story.steps if step.generation == generation]
    return min(replays or failed or recorded, default=None)


def _tried(story: RunStory, generation: int, now: datetime) -> Iterator[_Mark]:
    """Failed attempts, and the pauses after them."""
    end = min(now, story.settled_at or now)
    # Attempts that one commit recorded have one time.
    for attempt in sorted(story.failed_attempts, key=lambda one: (one.failed_at, one.attempt)):
        if attempt.generation != generation:
            continue
        label = attempt.step or PLACES.get(attempt.position, "")
        detail = f"at {attempt.position}" if attempt.step else attempt.type
        key, kind = f"p{attempt.position}", "crash" if attempt.is_crash else "failed"
        since, until = _span(attempt, attempt.failed_at)
        if not attempt.step:
            since = until  # of the workflow's own code no begin is recorded
        yield _Mark(key, label, kind, detail, since, until, attempt)
        if attempt.retry_delay_s:
            over = until + timedelta(seconds=attempt.retry_delay_s)
            over = min(over, end) if generation == story.generation else over
            yield _Mark(key, label, "wait", detail, until, max(over, until), attempt)


def _recorded(story: RunStory, generation: int, begins: datetime, now: datetime) -> Iterator[_Mark]:
    """What the journal has: steps, sleeps and values."""
    end = min(now, story.settled_at or now) if generation == story.generation else None
    for entry in story.steps:
        if entry.generation != generation:
            continue
        key, at = f"p{entry.position}", f"at {entry.position}"
        if entry.recorded_at < begins and entry.kind != "sleep":
            detail = f"{at}, kept from the generation before"
            yield _Mark(key, entry.name, "kept", detail, begins, begins, entry)
        elif entry.kind == "sleep":
            yield _sleep(entry, key, at, end)
        elif entry.kind == "value":
            yield _Mark(
                f"v{entry.name}", entry.name, "value", at, entry.recorded_at, entry.recorded_at
            )
        elif entry.error is not None and _is_told(story, entry):
            continue  # its last attempt says so, with the same times
        else:
            since, until = _span(entry, entry.recorded_at)
            kind = "step" if entry.error is None else "failed"
            yield _Mark(key, entry.name, kind, at, since, until, entry)


def _sleep(entry: Entry, key: str, at: str, end: datetime | None) -> _Mark:
    """From when it was asked for until it was over, the run was, or now."""
    seconds = float(bytes(entry.output)) if entry.output is not None else 0.0
    over = entry.recorded_at + timedelta(seconds=seconds)
    is_on = end is not None and over > end
    detail = f"{at}, until {over:%Y-%m-%d %H:%M:%S} UTC" if is_on else at
    until = end if end is not None and is_on else over
    return _Mark(key, "sleep", "sleep", detail, entry.recorded_at, max(until, entry.recorded_at))


def _is_told(story: RunStory, entry: Entry) -> bool:
    return any(
        (a.generation, a.position, a.retry_delay_s) == (entry.generation, entry.position, None)
        for a in story.failed_attempts
    )


def _span(of: Entry | Attempt, ended: datetime) -> tuple[datetime | None, datetime]:
    if of.began_at is None:
        return None, ended
    return of.began_at, of.began_at + timedelta(milliseconds=of.took_ms or 0)


def _waits(
    marks: list[_Mark], story: RunStory | None, begins: datetime, now: datetime
) -> Iterator[_Mark]:
    """When nobody had the run: before its first claim, and from the end of a pause to a claim.

    `story` is None of a generation that is over: when it was first claimed is not kept.
    """
    busy = sorted((m.since, m.until) for m in marks if m.kind in _WORK | _REST and m.since)
    claimed = story.claimed_at if story is not None else None
    first = claimed if claimed is not None and claimed >= begins else None
    if first is None:
        first = busy[0][0] if busy else now if story and story.state == RunState.QUEUED else None
    end = None if story is None else story.settled_at or now
    if story is not None and story.state in (RunState.RUNNING, RunState.WAITING):
        end = None  # what goes on since is not known yet
    over = (mark.until for mark in marks if mark.kind in _REST or mark.kind == "crash")
    gaps = [(begins, first)] if first is not None else []
    for begin in sorted(set(over)):
        if any(since <= begin < until for since, until in busy):
            continue
        again = min((since for since, _ in busy if since >= begin), default=end)
        if again is not None:
            gaps.append((begin, again))
    worker = (story.worker_id or "") if story is not None else ""
    for since, until in gaps:
        if (until - since).total_seconds() >= _GAP_S:
            yield _Mark("1", "waiting for a worker", "queued", worker, since, until)


def _states(
    story: RunStory, marks: list[_Mark], begins: datetime, now: datetime
) -> Iterator[_Mark]:
    if story.cancel_requested_at is not None:
        at = story.cancel_requested_at
        yield _Mark("c", "cancel requested", "state", "", at, at)
    at = story.settled_at or now
    known = chain([begins, story.claimed_at or begins], (mark.until for mark in marks))
    since = min(max(known), at)
    if story.state in (RunState.QUEUED, RunState.WAITING):
        since = at
    detail = (story.reason or "") if story.settled_at is not None else "until now"
    yield _Mark("s", story.state, "state", detail, since, at)
