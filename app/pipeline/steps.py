"""Running the authors' functions: sync ones here, `async def` ones on a loop in its own thread.

A limit on every one: SIGALRM around a sync function only, so that it can interrupt a loop or a
sleep but nothing of ours; a time-out on the event loop for the others.
"""

import asyncio
import math
import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import uvloop

from app.domain.encoding import Unstorable, encode
from app.domain.flow import StepContext, step_context
from app.pipeline.frames import PendingStep, StepTimeout
from app.pipeline.hand import Hand

Finished = tuple[PendingStep, Any, BaseException | None]
_REPEAT_S = 1.0  # an author's bare `except` may eat one alarm; the next comes


class Alarm:
    """SIGALRM as a limit for code of the main thread. One per process.

    The timer is left running from step to step and set anew only for an earlier end: two system
    calls per step would be a tenth of the time of a short one.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._limit_s = 0.0
        self._ends_at = self._rings_at = math.inf  # of the step; of the timer
        self._is_paused = False

    def install(self) -> None:
        """Take over SIGALRM. Call it in the main thread."""
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        now = self._monotonic()
        if self._ends_at > now:
            self._set(self._ends_at, now)  # it was set for a step that is over
            return
        self._rings_at = now + _REPEAT_S
        if not self._is_paused:
            raise StepTimeout(f"the step took longer than its limit of {self._limit_s:g} s")

    def _set(self, rings_at: float, now: float) -> None:
        self._rings_at = rings_at
        if rings_at == math.inf:
            signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            signal.setitimer(signal.ITIMER_REAL, max(rings_at - now, 1e-6), _REPEAT_S)

    def arm(self, limit_s: float) -> None:
        """Raise StepTimeout in the main thread after `limit_s`, and again every second."""
        now = self._monotonic()
        self._limit_s, self._ends_at, self._is_paused = limit_s, now + limit_s, False
        if self._ends_at < self._rings_at or self._rings_at < now:
            self._set(self._ends_at, now)

    def pause(self) -> None:
        """Not now: a statement runs, which has a limit of its own."""
        self._is_paused = True

    def go_on(self) -> None:
        """The statement is over: ring at the next tick if the limit has passed meanwhile."""
        self._is_paused = False

    def disarm(self) -> None:
        """The step is over."""
        self._ends_at = math.inf


def context_of(step: PendingStep) -> StepContext:
    """What the step may know of its attempt."""
    claim = step.execution.claim
    return StepContext(
        run_id=claim.run_id,
        workflow=claim.workflow,
        position=step.position,
        attempt=step.attempt,
        idempotency_key=f"{claim.run_id}:{step.position}",
        traceparent=claim.traceparent,
    )


def finish(step: PendingStep, value: Any, error: BaseException | None) -> None:
    """Give a step's end to its execution: output encoded, checked and bounded, or the error."""
    execution = step.execution
    if execution.is_over:
        return
    if error is not None:
        execution.fail_step(step, error)
        return
    try:
        text = encode(value, execution.limits.output_bytes_max)
    except Unstorable as unstorable:
        execution.fail_unstorable(step, unstorable)
        return
    execution.finish_step(step, step.call.step.codec.output(value, text), text)


def run_sync(
    step: PendingStep, hand: Hand, alarm: Alarm, monotonic: Callable[[], float]
) -> Finished:
    """Run a sync step now, within its limit."""
    call = step.call
    context = step_context.set(context_of(step))
    step.started = monotonic()
    hand.current = step
    try:
        try:
            alarm.arm(step.limit_s)
            value = call.step.function(*call.arguments, **call.keywords)
        finally:
            alarm.disarm()
    except BaseException as error:  # noqa: BLE001 - whatever the author's code raises is the attempt's end
        return step, None, error
    finally:
        hand.current = None
        step_context.reset(context)
    return step, value, None


class AsyncSteps:
    """An event loop in a thread of its own, started when first needed."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], PendingStep] = {}
        self._finished: SimpleQueue[Finished] = SimpleQueue()

    def start(self, steps: list[PendingStep]) -> None:
        """Begin these steps, concurrently."""
        if self._loop is None:
            self._loop = uvloop.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="async-steps", daemon=True).start()
        self._loop.call_soon_threadsafe(self._start, steps)

    def finished(self, timeout_s: float = 0.0) -> list[Finished]:
        """All that have ended since the last call; waits up to `timeout_s` for the first."""
        found: list[Finished] = []
        try:
            found.append(self._finished.get(timeout_s > 0, timeout_s or None))
            while True:
                found.append(self._finished.get_nowait())
        except Empty:
            return found

    def stuck_step(self) -> PendingStep | None:
        """The step that keeps the event loop from going on, if one does."""
        if self._loop is None:
            return None
        task = asyncio.current_task(self._loop)
        return self._tasks.get(task) if task is not None else None

    def _start(self, steps: list[PendingStep]) -> None:
        loop = self._loop
        assert loop is not None
        for step in steps:
            if step.execution.is_over:
                self._finished.put((step, None, None))
                continue
            task = loop.create_task(self._run(step))
            self._tasks[task] = step
            task.add_done_callback(self._tasks.pop)

    async def _run(self, step: PendingStep) -> None:
        call = step.call
        step_context.set(context_of(step))
        step.started = self._monotonic()
        step.execution.has_begun = True
        limit = asyncio.timeout(step.limit_s)
        try:
            async with limit:
                value = await call.step.function(*call.arguments, **call.keywords)
        except TimeoutError as error:
            if limit.expired():
                text = f"the step took longer than its limit of {step.limit_s:g} s"
                self._finished.put((step, None, StepTimeout(text)))
            else:
                self._finished.put((step, None, error))
        except BaseException as error:  # noqa: BLE001 - whatever the author's code raises ends the attempt
            self._finished.put((step, None, error))
        else:
            self._finished.put((step, value, None))
