"""The watch of a child: a thread for its leases, its sign of life, and the limits of its steps.

It has a connection of its own and never waits for the database: what fails is tried at the next
tick.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app import telemetry
from app.domain.decide import retry_delay_s
from app.domain.states import RunState
from app.pipeline import failures
from app.pipeline.execution import Execution
from app.pipeline.frames import PendingStep, StepTimeout
from app.pipeline.hand import Hand
from app.pipeline.settle import settle
from app.pipeline.steps import AsyncSteps
from app.settings import Settings
from app.store import leases, loads
from app.store.transactions import Link
from app.worker.occupied import Occupied

TICK_S = 0.05
_IDLE_REPORT_S = 5.0
_BUSY_REPORT_S = 1.0
_LAST_S = 5.0  # before the end of the grace time the rest is handed back


class _Away(Exception):
    """The database did not answer; the next tick tries again."""


def _give_up(_seconds: float) -> None:
    raise _Away


class Watch:
    """Watches one child. `begin` and `end` are called by its main thread around each list."""

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        node: str,
        make_link: Callable[[Callable[[float], object]], Link],
        async_steps: AsyncSteps,
        stamp: Callable[[], None],
        monotonic: Callable[[], float],
        queues: list[str],
    ) -> None:
        self._settings, self._worker_id, self._node = settings, worker_id, node
        self._async_steps, self._stamp, self._monotonic = async_steps, stamp, monotonic
        self._link = make_link(_give_up)
        self._queues = queues
        self._hand: Hand | None = None
        self._to_hand_back: list[tuple[str, list[str]]] = []
        self._renewed = 0.0
        self._reported = 0.0
        self._leave_by: float | None = None
        self._claimed: deque[tuple[float, str, int]] = deque()
        self._occupied = Occupied()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def begin(self, hand: Hand) -> None:
        """A list is in hand; its leases have just been set."""
        self._renewed = self._monotonic()
        self._hand = hand

    def end(self, queue_runs: dict[str, int], occupied: dict[str, tuple[float, int]]) -> None:
        """The list is done: so many runs per queue; by workflow (seconds, runs)."""
        self._hand = None
        now = self._monotonic()
        self._claimed.extend((now, queue, runs) for queue, runs in queue_runs.items())
        self._occupied.note(occupied)

    def leave(self, grace_s: float) -> None:
        """The worker shuts down: shortly before the grace time ends hand back what is left."""
        if self._leave_by is None:
            self._leave_by = self._monotonic() + max(0.0, grace_s - _LAST_S)

    def _run(self) -> None:
        while not self._stopped.wait(TICK_S):
            self._stamp()
            try:
                self.once()
            except _Away:
                continue
            except Exception as error:  # noqa: BLE001 - the watch goes on whatever one tick met
                telemetry.logger("watch").error("watch.failed", error=repr(error))

    def once(self) -> None:
        """One tick. Public for tests."""
        now, hand = self._monotonic(), self._hand
        if hand is not None:
            self._limit(hand, now)
            if now - self._renewed >= self._settings.hold_s / 3:
                self._renewed = now
                ids = hand.open_ids()
                self._link.call(lambda tx: leases.renew(tx, hand.token, ids, self._settings.hold_s))
        while self._to_hand_back:
            token, run_ids = self._to_hand_back[0]
            self._link.call(partial(_hand_back, token=token, run_ids=run_ids))
            self._to_hand_back.pop(0)
        self._report(now)

    def _limit(self, hand: Hand, now: float) -> None:
        step = hand.current
        if step is not None and now - step.started >= self._settings.hand_back_after_s:
            taken = hand.take_not_begun()
            if taken:
                self._to_hand_back.append((hand.token, taken))
        offender = self._offender(hand, now)
        if offender is not None:
            self._end_child(hand, offender, "overrun")
        elif self._leave_by is not None and now >= self._leave_by:
            self._end_child(hand, None, "grace")

    def _offender(self, hand: Hand, now: float) -> PendingStep | Execution | None:
        over = self._settings.step_overrun_s
        step = hand.current
        if step is not None and now - step.started > step.limit_s + over:
            return step
        for flying in tuple(hand.flying):
            if flying.started and now - flying.started > flying.limit_s + over:
                return self._async_steps.stuck_step() or flying
        advancing = hand.advancing
        if advancing is not None and now - advancing[1] > self._settings.step_timeout_s + over:
            return advancing[0]
        return None

    def _end_child(self, hand: Hand, offender: PendingStep | Execution | None, why: str) -> None:
        """Write the failed attempt, give everything else back, and end this process."""
        hand.is_leaving = True
        executions = [e for e in hand.executions.values() if not e.is_over]
        if isinstance(offender, PendingStep):
            _fail_overrun(offender)
        elif offender is not None:
            failures.fail_workflow(offender, _too_long(self._settings.step_timeout_s))
        for execution in executions:
            if execution.settlement is None:
                execution.settle(RunState.QUEUED, wait_s=0.0)
        telemetry.children_killed.labels(why).inc()
        telemetry.logger("watch").warning(
            "child.ended",
            reason=why,
            worker_id=self._worker_id,
            run_ids=[e.claim.run_id for e in executions][:10],
        )
        try:
            settle(self._link, hand.token, self._worker_id, executions)
        except (_Away, DBAPIError):
            pass  # the leases end by themselves
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def _report(self, now: float) -> None:
        while self._claimed and self._claimed[0][0] < now - 2.0:
            self._claimed.popleft()
        pause = _BUSY_REPORT_S if self._claimed else _IDLE_REPORT_S
        if now - self._reported < pause and not (self._claimed and self._reported == 0.0):
            return
        self._reported = now
        claimed: dict[str, int] = dict.fromkeys(self._queues, 0)
        for _, queue, runs in tuple(self._claimed):
            claimed[queue] = claimed.get(queue, 0) + runs
        load: dict[str, Any] = {
            "queues": {queue: {"claimed_2s": runs} for queue, runs in claimed.items()},
            "workflows": {w: {"occupied_s": s} for w, s in self._occupied.means().items()},
            "children": 1,
        }
        self._link.call(lambda tx: loads.report(tx, self._worker_id, self._node, load))


def _hand_back(tx: Connection, token: str, run_ids: list[str]) -> set[str]:
    return leases.hand_back(tx, token, run_ids)


def _too_long(limit_s: float) -> StepTimeout:
    return StepTimeout(f"it overran its limit of {limit_s:g} s and its worker child was ended")


def _fail_overrun(step: PendingStep) -> None:
    """The attempt failed as a time-out; if it was the last, the workflow hears so in another."""
    execution, policy = step.execution, step.call.step.policy
    delay_s = retry_delay_s(policy, step.attempt, execution.limits.jitter())
    failed = failures.note_attempt(
        execution,
        step.position,
        step.call.step.name,
        step.attempt,
        _too_long(step.limit_s),
        delay_s,
    )
    if delay_s is not None:
        execution.settle(RunState.WAITING, wait_s=delay_s)
        return
    error = failures.error_text(failed.type, failed.message, failed.fingerprint)
    execution.journal(step, None, error)
    execution.settle(RunState.QUEUED, wait_s=0.0)
