"""The watch of a child: a thread for its leases, its sign of life, and the limits of its steps.

It has a connection of its own and never waits for the database: what fails is tried at a later
tick, after a growing pause.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix import telemetry
from veltrix.domain.backoff import Backoff
from veltrix.domain.states import RunState
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines import endings
from veltrix.pipeline.execute.coroutines.execution import Execution, PendingStep
from veltrix.pipeline.execute.lease_rows import Tokens
from veltrix.pipeline.execute.settle import handed_of, settle
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps
from veltrix.settings.agreed import agreed_of
from veltrix.settings.fields import Settings
from veltrix.store import loads
from veltrix.store.transactions import Link
from veltrix.worker.occupied import Occupied

TICK_S = 0.05
_IDLE_REPORT_S = 5.0
_BUSY_REPORT_S = 1.0
_PAUSE_S_MAX = 1.0  # between tries, while the database cannot serve
_LOCKED_S = 0.25  # between tries to give back what a transactional step locks
_LAST_S = 5.0  # before the end of the grace time the rest is handed back


class _Away(Exception):
    """The database did not answer; the next tick tries again."""


def give_up(_seconds: float) -> None:
    """How the link of a watch waits: not at all."""
    raise _Away


class ChildWatch:
    """Watches one child. `begin` and `end` are called by its main thread around each list.

    `take_returned` says what its parent hands back though it is busy (see `Mailbox`).
    `link` is for it alone, and waits by `give_up`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        worker_id: str,
        node: str,
        link: Link,
        async_steps: AsyncSteps,
        alarm: Alarm,
        stamp: Callable[[], None],
        monotonic: Callable[[], float],
        queues: list[str],
        release: str,
        take_returned: Callable[[], tuple[str, list[str]] | None],
    ) -> None:
        self._settings, self._worker_id, self._node = settings, worker_id, node
        self._async_steps, self._alarm = async_steps, alarm
        self._stamp, self._monotonic = stamp, monotonic
        self._link, self._queues, self._release = link, queues, release
        self._agreed, self._take_returned = agreed_of(settings), take_returned
        self._batch: Batch | None = None
        self._to_hand_back: list[tuple[Tokens, list[str], bool]] = []
        self._claim: tuple[str, list[str]] | None = None
        self._backoff = Backoff(TICK_S, _PAUSE_S_MAX)
        self._renewed = self._began = self._hand_back_at = 0.0
        self._holder: tuple[PendingStep | None, float] = None, 0.0  # of the loop, since
        self._asked: tuple[PendingStep, threading.Event, float] | None = None  # whether it turns
        self._reported = 0.0
        self._leave_by: float | None = None
        self._has_left = False
        self._claimed: deque[tuple[float, str, int]] = deque()
        self._occupied = Occupied()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def claimed(self, token: str, run_ids: list[str]) -> None:
        """These leases have just been set: they are renewed from now on.

        What their runs did before is read now, which may take longer than a lease.
        """
        self._renewed = self._monotonic()
        self._claim = token, sorted(run_ids)

    def begin(self, batch: Batch, handed_s: float = 0.0) -> None:
        """The list is being executed. What came as claimed was given its leases `handed_s` ago."""
        self._began = self._monotonic()
        set_at = self._began - handed_s
        self._renewed = set_at if self._claim is None else min(self._renewed, set_at)
        self._batch, self._claim = batch, None

    def end(self, queue_runs: dict[str, int], occupied: dict[str, tuple[float, int]]) -> None:
        """The list is done: so many runs per queue; by workflow (seconds, runs)."""
        self._batch = self._claim = None
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
            except Exception as error:  # noqa: BLE001 - the watch goes on whatever one tick met
                self._backoff.extend(self._monotonic())
                telemetry.logger("watch").error("watch.failed", error=repr(error))

    def once(self) -> None:
        """One tick. Public for tests."""
        now, batch = self._monotonic(), self._batch
        if batch is not None:
            self._limit(batch, now)
        while (returned := self._take_returned()) is not None:
            self._to_hand_back.append((*returned, False))
        if not self._backoff.is_over(now):
            return
        try:
            self._write(batch, now)
        except _Away:
            self._backoff.extend(now)
        else:
            self._backoff.reset()

    def _write(self, batch: Batch | None, now: float) -> None:
        """What the database is to know, if it can serve: leases, runs handed back, a report."""
        if now - self._renewed >= self._settings.hold_s / 3 or self._is_slow(batch, now):
            self._renew(batch)
            self._renewed = now
        while self._to_hand_back and now >= self._hand_back_at:
            tokens, run_ids, is_attempt = self._to_hand_back[0]
            give_back = partial(_hand_back, tokens=tokens, run_ids=run_ids, is_attempt=is_attempt)
            locked = self._link.call(give_back)
            if locked:
                self._to_hand_back[0] = tokens, locked, is_attempt
                self._hand_back_at = now + _LOCKED_S
            else:
                self._to_hand_back.pop(0)
        self._report(now)

    def _is_slow(self, batch: Batch | None, now: float) -> bool:
        """What came as claimed is not over soon: it is no run that waits in its queue any more."""
        return (
            batch is not None
            and now - self._began >= self._settings.hand_back_after_s
            and any(
                not (e.is_announced or e.is_over or e.is_lost)
                for e in tuple(batch.executions.values())
            )
        )

    def _renew(self, batch: Batch | None) -> None:
        """Extend the leases; no step begins any more of a run that somebody else has."""
        if batch is None:
            if self._claim is not None:
                token, run_ids = self._claim
                hold_s = self._settings.hold_s
                self._link.call(lambda tx: lease_rows.renew(tx, token, run_ids, hold_s))
            return
        ids = batch.open_ids()
        renewed = self._link.call(partial(self._renew_rows, batch=batch, run_ids=ids))
        missing = [run_id for run_id in ids if run_id not in renewed]
        if missing:
            still = self._link.call(lambda tx: lease_rows.held(tx, batch.tokens, missing))
            batch.lose(run_id for run_id in missing if run_id not in still)

    def _renew_rows(self, tx: Connection, batch: Batch, run_ids: list[str]) -> set[str]:
        """Those renewed; of what came as claimed the row says from now on that it is run here."""
        tokens, hold_s = batch.tokens, self._settings.hold_s
        quiet = [e for id_ in run_ids if not (e := batch.executions[id_]).is_announced]
        known = {e.claim.run_id for e in quiet}
        renewed = lease_rows.renew(tx, tokens, [i for i in run_ids if i not in known], hold_s)
        if quiet:
            handed = handed_of(quiet, self._monotonic())
            announced = lease_rows.announce(tx, tokens, self._worker_id, handed, hold_s)
            for execution in quiet:
                execution.is_announced = execution.claim.run_id in announced
            renewed |= announced
        return renewed

    def _limit(self, batch: Batch, now: float) -> None:
        if now - self._began >= self._settings.hand_back_after_s:
            taken = batch.take_not_begun()
            written = [run_id for run_id in taken if batch.executions[run_id].has_journal]
            unwritten = [run_id for run_id in taken if run_id not in written]
            for run_ids, is_attempt in ((unwritten, False), (written, True)):
                if run_ids:
                    self._to_hand_back.append((batch.tokens, run_ids, is_attempt))
        self._alarm.nudge(now)
        offender = self._offender(batch, now)
        if offender is not None:
            self._end_child(batch, offender, "overrun")
        elif self._leave_by is not None and now >= self._leave_by:
            self._end_child(batch, None, "grace")

    def _offender(
        self, batch: Batch, now: float
    ) -> PendingStep | Execution | Literal["loop"] | None:
        """Who has overrun its limit. "loop": a callback, of whichever step."""
        over = self._settings.step_overrun_s
        step = batch.current
        if step is not None and now - step.started > step.limit_s + over:
            return step
        holder = self._async_steps.holder() if batch.flying else None
        if holder is not self._holder[0]:
            self._holder = holder, now
        for flying in tuple(batch.flying):
            is_late = now - (flying.started or flying.given) > flying.limit_s + over
            if is_late and not self._async_steps.has_ended(flying):
                return self._culprit(flying, now)
        advancing = batch.advancing
        if advancing is not None and now - advancing[1] > self._settings.step_timeout_s + over:
            return advancing[0]
        return None

    def _culprit(self, late: PendingStep, now: float) -> PendingStep | Literal["loop"] | None:
        """Who keeps `late` from its end: who has the event loop and does not give it back.

        "loop": somebody, but no step. None: nobody; `late` waits for its turn among many.
        """
        over = self._settings.step_overrun_s
        holder, since = self._holder
        is_held = now - since > over
        if holder is not None and is_held:
            return holder
        if self._asked is None or self._asked[0] is not late:
            self._asked = late, self._async_steps.ask(), now
            return None
        _, answer, asked_at = self._asked
        if answer.is_set():  # the loop could have ended it meanwhile
            return late if late.started else None
        return "loop" if is_held and now - asked_at > over else None

    def _end_child(
        self, batch: Batch, offender: PendingStep | Execution | Literal["loop"] | None, why: str
    ) -> None:
        """Write the failed attempt, give everything else back, and end this process.

        Runs of which one may have done it, nobody knows which, are left to whoever finds us dead:
        each travels alone from then on, and the one that ends its child again is known.
        """
        batch.is_leaving = True
        suspects = _begun_async(batch) if offender == "loop" else set()
        executions = [e for e in batch.executions.values() if not (e.is_over or e in suspects)]
        if isinstance(offender, PendingStep):
            offender.execution.end(endings.overrun(offender))
        elif isinstance(offender, Execution):
            error = endings.overran(self._settings.step_timeout_s)
            offender.end(endings.failure(offender, error))
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
            settle(self._link, batch.tokens, self._worker_id, executions)
        except (_Away, DBAPIError):
            pass  # the leases end by themselves
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def _report(self, now: float) -> None:
        while self._claimed and self._claimed[0][0] < now - 2.0:
            self._claimed.popleft()
        if self._leave_by is not None:
            self._say_goodbye()
            return
        pause = _BUSY_REPORT_S if self._claimed else _IDLE_REPORT_S
        if now - self._reported < pause and not (self._claimed and self._reported == 0.0):
            return
        load = self._load()
        self._link.call(lambda tx: loads.report(tx, self._worker_id, self._node, load))
        self._reported = now

    def _say_goodbye(self) -> None:
        """It takes nothing any more: who looks for whom serves this queue or code need not wait."""
        if not self._has_left:
            load = self._load() | {"left": True}
            self._link.call(lambda tx: loads.report(tx, self._worker_id, self._node, load))
            self._has_left = True

    def _load(self) -> dict[str, Any]:
        claimed: dict[str, int] = dict.fromkeys(self._queues, 0)
        for _, queue, runs in tuple(self._claimed):
            claimed[queue] = claimed.get(queue, 0) + runs
        return {
            "queues": {queue: {"claimed_2s": runs} for queue, runs in claimed.items()},
            "workflows": {w: {"occupied_s": s} for w, s in self._occupied.means().items()},
            "children": 1,
            "release": self._release,
            "settings": self._agreed,
        }


def _hand_back(
    tx: Connection, tokens: Tokens, run_ids: list[str], *, is_attempt: bool
) -> list[str]:
    """Those that cannot be given back now: a transactional step of this child locks them."""
    back = lease_rows.hand_back(tx, tokens, run_ids, waits=False, is_attempt=is_attempt)
    left = [run_id for run_id in run_ids if run_id not in back]
    return sorted(lease_rows.held(tx, tokens, left)) if left else []


def _begun_async(batch: Batch) -> set[Execution]:
    return {step.execution for step in tuple(batch.flying) if step.started}
