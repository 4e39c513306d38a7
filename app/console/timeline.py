"""The course of a run as a picture: a line for each thing that happened, drawn to scale.

What is recorded is when things ended. A bar begins at the last moment known before its end: when
the run was accepted, claimed or replayed, an entry before it was recorded, or a back-off was over.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from app.store.reads import Attempt, RunStory

LINES_MAX = 60
_WIDTH = 1_000.0
_BAR_MIN = 4.0


class Line(msgspec.Struct, frozen=True):
    """A line: what, from when to when, and its bar on a scale of 1,000.

    `kind` is how it is drawn: event, queued, step, sleep, value, wait, failed, kept, state.
    """

    label: str
    kind: str
    detail: str
    since: datetime
    until: datetime
    x: float
    width: float

    @property
    def took_s(self) -> float:
        """How long it was."""
        return (self.until - self.since).total_seconds()


class Course(msgspec.Struct, frozen=True):
    """One generation of a run. `left` lines are not drawn: there are too many."""

    generation: int
    begins: datetime
    ends: datetime
    lines: list[Line]
    left: int


class _Mark(msgspec.Struct):
    label: str
    kind: str
    detail: str
    since: datetime | None
    until: datetime


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
    marks = sorted(_marks(story, generation, begins, now), key=lambda mark: mark.until)
    ends = max([begins, *(mark.until for mark in marks)])
    scale = _WIDTH / max((ends - begins).total_seconds(), 1e-6)
    lines, known = [], begins
    for mark in marks:
        since = max(begins, known if mark.since is None else mark.since)
        until = max(mark.until, since)
        x = min((since - begins).total_seconds() * scale, _WIDTH - _BAR_MIN)
        width = max((until - since).total_seconds() * scale, _BAR_MIN)
        width = round(min(width, _WIDTH - x), 1)
        lines.append(Line(mark.label, mark.kind, mark.detail, since, until, round(x, 1), width))
        known = max(known, mark.until)
    return Course(generation, begins, ends, lines[:LINES_MAX], max(0, len(lines) - LINES_MAX))


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


def _marks(story: RunStory, generation: int, begins: datetime, now: datetime) -> Iterator[_Mark]:
    is_current = generation == story.generation
    if generation == 0:
        yield _Mark("accepted", "event", "the event", begins, begins)
    if is_current and story.claimed_at is not None and story.claimed_at >= begins:
        label = "claimed" if story.attempt <= 1 else f"claimed, attempt {story.attempt}"
        yield _Mark(label, "queued", story.worker_id or "", None, story.claimed_at)
    # Attempts that one commit recorded have one time.
    for attempt in sorted(story.failed_attempts, key=lambda one: (one.failed_at, one.attempt)):
        if attempt.generation == generation:
            yield from _attempt(attempt)
    for step in story.steps:
        if step.generation != generation:
            continue
        kind = "failed" if step.error is not None else step.kind
        kept = step.recorded_at < begins
        detail = "kept from the generation before" if kept else f"at {step.position}"
        until = max(step.recorded_at, begins)
        yield _Mark(step.name, "kept" if kept else kind, detail, None, until)
    if not is_current:
        return
    if story.cancel_requested_at is not None:
        at = story.cancel_requested_at
        yield _Mark("cancel requested", "state", "", at, at)
    if story.settled_at is not None:
        yield _Mark(story.state, "state", story.reason or "", None, story.settled_at)
    else:
        yield _Mark(story.state, "state", "until now", None, now)


def _attempt(attempt: Attempt) -> Iterator[_Mark]:
    detail = f"attempt {attempt.attempt} failed"
    yield _Mark(attempt.step, "failed", detail, None, attempt.failed_at)
    if attempt.retry_delay_s:
        over = attempt.failed_at + timedelta(seconds=attempt.retry_delay_s)
        yield _Mark(attempt.step, "wait", "back-off", attempt.failed_at, over)
