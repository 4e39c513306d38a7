"""Running the authors' functions: sync ones here, `async def` ones on a loop in its own thread.

A limit on every one: SIGALRM around a sync function only, so that it can interrupt a loop or a
sleep but nothing of ours; a time-out on the event loop for the others.
"""

import asyncio
import math
import signal
import sys
import threading
from _signal import getsignal as _handler_of  # type: ignore[import-not-found] # fast: no enum
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import uvloop

from veltrix import telemetry
from veltrix.authoring.copies import are_fixed, given
from veltrix.authoring.encoding import Unstorable, digest_and_json, encode
from veltrix.authoring.flow import NonRetryable, type_and_message
from veltrix.domain.context import StepContext, step_context
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines import forks, moves
from veltrix.pipeline.execute.coroutines.contexts import own
from veltrix.pipeline.execute.coroutines.execution import PendingStep, StepTimeout

Finished = tuple[PendingStep, Any, BaseException | None]
_SIGALRM = int(signal.SIGALRM)
_REPEAT_S = 1.0  # an author's bare `except` may eat one alarm; the next comes
_LATE_S = 0.25  # after which an alarm that has not rung will not
_REVIVE_S = 0.01  # before an event loop that has ended goes on; longer if it ends again at once


class Alarm:
    """SIGALRM as a limit for code of the main thread. One per process.

    The timer is left running from step to step of a list and set anew only for an earlier end: two
    system calls per step would be a tenth of the time of a short one.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._limit_s = 0.0
        self._ends_at = self._rings_at = math.inf  # of the step; of the timer
        self._nudged = -math.inf
        self._is_paused = False
        self._handler = self._ring

    def install(self) -> None:
        """Take over SIGALRM. Call it in the main thread."""
        signal.signal(signal.SIGALRM, self._handler)

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

    def arm(self, limit_s: float, now: float) -> None:
        """Raise StepTimeout in the main thread after `limit_s` from now, and again every second."""
        if _handler_of(_SIGALRM) is not self._handler:  # a step left one of its own
            self.install()
            self._rings_at = math.inf
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

    def nudge(self, now: float) -> None:
        """Ring if it should have rung: a step's own `signal.alarm` takes the timer. Any thread."""
        late = now - _LATE_S
        if self._ends_at < late and self._rings_at < late and now - self._nudged >= _REPEAT_S:
            self._nudged = now
            main = threading.main_thread().ident
            if main is not None and _handler_of(_SIGALRM) is self._handler:
                signal.pthread_kill(main, _SIGALRM)

    def put_away(self) -> None:
        """No step follows soon: a timer that rang while the process ends would be its end."""
        if self._rings_at != math.inf:
            self._set(math.inf, 0.0)


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
        step=step.call.step.name,
    )


def finish(step: PendingStep, value: Any, error: BaseException | None) -> None:
    """Give a step's end to its execution: output encoded, checked and bounded, or the error."""
    execution = step.execution
    if execution.is_over:
        return
    if error is NOT_BEGUN:
        moves.withdraw(execution, 1)
        return
    if error is not None:
        moves.fail_step(step, error)
        return
    try:
        text = encode(value, execution.limits.output_bytes_max)
    except Unstorable as unstorable:
        moves.fail_unstorable(step, unstorable)
        return
    moves.finish_step(step, step.call.step.codec.output(value, text), text)


def call_author(step: PendingStep, *leading: Any) -> Any:
    """What the author's function makes of the step's arguments, with `leading` before them.

    It sees what its workflow has set in context variables, and what it sets is seen by nobody else.
    """
    known, call, context = context_of(step), step.call, own(step.branch.context.copy())
    arguments, keywords = call.arguments, call.keywords
    try:
        context.run(step_context.set, known)
        if not are_fixed(arguments, keywords):
            arguments, keywords = context.run(arguments_of, step)
        return context.run(call.step.function, *leading, *arguments, **keywords)
    finally:
        if forks.this.is_copy:
            forks.end_copy(sys.exc_info()[1])
        known.is_over = True


class ArgumentsChanged(NonRetryable):
    """What a step was called with was changed by another branch before the step began."""


def arguments_of(step: PendingStep) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the step is given: copies, so that nothing it changes is seen by its workflow.

    Raises ArgumentsChanged: after a crash the call would be made with other arguments.
    """
    call = step.call
    arguments, keywords = given(call.arguments, call.keywords)
    is_in_branch = step.branch.parent is not None
    if is_in_branch and arguments is not call.arguments and step.digest is not None:
        now, _ = digest_and_json(arguments, keywords)
        if now != step.digest:
            raise ArgumentsChanged(
                f"an argument of step {call.step.name!r} was changed after the call, by another"
                " branch of its gather; give each branch an object of its own"
            )
    return arguments, keywords


def run_sync(step: PendingStep, batch: Batch, alarm: Alarm) -> Finished:
    """Run a sync step that has begun, within its limit."""
    batch.current = step
    try:
        try:
            alarm.arm(step.limit_s, step.started)
            value = call_author(step)
        finally:
            alarm.disarm()
    except BaseException as error:  # noqa: BLE001 - whatever the author's code raises is the attempt's end
        return step, None, error
    finally:
        batch.end_current()
    return step, value, None


class _NotBegun(Exception):
    """The step was refused at the gate when its turn came: nothing of it has run."""


NOT_BEGUN = _NotBegun()


class AsyncSteps:
    """An event loop in a thread of its own, started when first needed.

    What steps leave behind may stop the loop or raise out of it (`sys.exit` in a callback): it goes
    on, with all that was under way. If it is closed, another takes its place, and the attempts that
    were under way have failed.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], PendingStep] = {}
        # The step that started a task, or that started the one that did.
        self._parents: WeakKeyDictionary[asyncio.Task[Any], PendingStep] = WeakKeyDictionary()
        self._given: dict[PendingStep, Batch] = {}  # and not ended
        self._finished: SimpleQueue[Finished] = SimpleQueue()
        self._pause = threading.Event()

    def start(self, batch: Batch, steps: list[PendingStep]) -> None:
        """Begin these steps, concurrently."""
        self._ensure_open()
        self._given.update(dict.fromkeys(steps, batch))
        with suppress(RuntimeError):  # it was closed just now: whoever opens another begins these
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._start, batch, steps)

    def call(self, function: Callable[[], Awaitable[Any]], timeout_s: float) -> None:
        """Await what a function of the author gives, which is no step, on this loop. Raises it."""
        loop = self._ensure_open()

        async def await_it() -> None:
            await asyncio.wait_for(function(), timeout_s)

        # Longer: what blocks the loop is not heard by its time-out.
        asyncio.run_coroutine_threadsafe(await_it(), loop).result(timeout_s + _LATE_S)

    def _ensure_open(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = self._open()
            threading.Thread(target=self._keep_running, name="async-steps", daemon=True).start()
        return self._loop

    def finished(self, timeout_s: float = 0.0) -> list[Finished]:
        """All that have ended since the last call; waits up to `timeout_s` for the first."""
        found: list[Finished] = []
        try:
            found.append(self._finished.get(timeout_s > 0, timeout_s or None))
            while True:
                found.append(self._finished.get_nowait())
        except Empty:
            return found

    def has_ended(self, step: PendingStep) -> bool:
        """It waits in `finished`: nothing of it runs any more."""
        return step not in self._given

    def holder(self) -> PendingStep | None:
        """The step that has the event loop at this moment, by itself or by a task it started."""
        task = asyncio.current_task(self._loop) if self._loop is not None else None
        if task is None:
            return None
        return self._tasks.get(task) or self._parents.get(task)

    def ask(self) -> threading.Event:
        """Set when the loop has come to all that it had to do before this question."""
        answer = threading.Event()
        with suppress(RuntimeError):  # closed: what it had to do has come to an end
            assert self._loop is not None
            self._loop.call_soon_threadsafe(answer.set)
        return answer

    def _open(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        loop.set_task_factory(self._make_task)
        return loop

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        parent = self.holder()
        if parent is not None:
            self._parents[task] = parent
        return task

    def _keep_running(self) -> None:
        """The thread of the loop: whatever ends the loop, one goes on."""
        pause_s = _REVIVE_S
        while True:
            loop, began = self._loop, self._monotonic()
            assert loop is not None
            try:
                loop.run_forever()
                why = "stopped"
            except BaseException as error:  # noqa: BLE001 - the thread may not end
                why = type_and_message(error)[0]
            if loop.is_closed():
                self._replace()
            telemetry.loops_revived.inc()
            telemetry.logger("steps").warning(
                "loop.ended", why=why, cure="some async step stops, closes or exits the event loop"
            )
            pause_s = _REVIVE_S if self._monotonic() - began > 1.0 else min(pause_s * 2, 1.0)
            self._pause.wait(pause_s)

    def _replace(self) -> None:
        """Another loop; attempts that had begun on the closed one have failed, others begin."""
        self._loop, self._tasks = self._open(), {}
        for step, batch in tuple(self._given.items()):
            if step.started:
                self._end(step, None, RuntimeError("the event loop of async steps was closed"))
            else:
                self._loop.call_soon_threadsafe(self._start, batch, [step])

    def _end(self, step: PendingStep, value: Any, error: BaseException | None) -> None:
        if self._given.pop(step, None) is not None:
            self._finished.put((step, value, error))

    def _start(self, batch: Batch, steps: list[PendingStep]) -> None:
        loop = self._loop
        assert loop is not None
        known = set(self._tasks.values()) if len(self._tasks) else ()
        for step in steps:
            if step in known or step not in self._given:
                continue  # given to this loop already, when it took another's place
            task = loop.create_task(self._run(batch, step), context=own(step.branch.context.copy()))
            self._tasks[task] = step
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        step = self._tasks.pop(task, None)
        if step is not None:  # it was thrown away before its first line, or after its last
            self._end(step, None, RuntimeError("the task of this step was ended from outside"))

    async def _run(self, batch: Batch, step: PendingStep) -> None:
        if not batch.begin(step, self._monotonic()):
            self._end(step, None, NOT_BEGUN)
            return
        known = context_of(step)
        step_context.set(known)
        limit = asyncio.timeout(step.limit_s)
        try:
            async with limit:
                try:
                    arguments, keywords = arguments_of(step)
                    value = await step.call.step.function(*arguments, **keywords)
                finally:
                    if forks.this.is_copy:
                        forks.end_copy(sys.exc_info()[1])
        except TimeoutError as error:
            if limit.expired():
                text = f"the step took longer than its limit of {step.limit_s:g} s"
                self._end(step, None, StepTimeout(text))
            else:
                self._end(step, None, error)
        except BaseException as error:  # noqa: BLE001 - whatever the author's code raises ends the attempt
            self._end(step, None, error)
        else:
            self._end(step, value, None)
        finally:
            known.is_over = True
