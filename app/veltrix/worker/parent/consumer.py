"""The worker's parent: a Celery consumer with one collector for all queues.

It opens no database connection and starts no thread (mechanics 6): one hub, children behind pipes.
Everything that is waiting goes to the next free child as one list. Messages are acknowledged when
every run they name is settled or handed back; our own are never rejected or requeued.
"""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import state

from veltrix import telemetry
from veltrix.broker.message import limits_of
from veltrix.domain.dead_letters import DeadLetter
from veltrix.leaving import end_within
from veltrix.worker.child.child import run_job
from veltrix.worker.jobs import (
    Job,
    LetterJob,
    ListReport,
    RegisterJob,
    ReleaseJob,
    pack,
    unpack_report,
)
from veltrix.worker.parent.celery_events import (
    forget,
    request_of,
    tell_end,
    tell_received,
    tell_started,
)
from veltrix.worker.parent.collector import Collector, Delivery, InFlight, delivery_of
from veltrix.worker.parent.connected import ConnectedConsumer
from veltrix.worker.parent.consuming import Consuming, children_of, end_all, ready_in
from veltrix.worker.parent.deaths import Death, death_of, release_after
from veltrix.worker.parent.giving_back import GivingBack
from veltrix.worker.parent.guard import Malformed, evidence_of, letter_of, read_message
from veltrix.worker.parent.intake import Intake
from veltrix.worker.parent.parts import Parent
from veltrix.worker.parent.silent import SilentChildren, kill
from veltrix.worker.parent.urgent import Urgent

REAP_S = 0.1
_LAST_S = 1.5  # before the grace is over; what children have goes back 5 s before
_ACKNOWLEDGE_AFTER_S = 60.0
_LETTERS_MAX = 100


class ListConsumer(ConnectedConsumer):
    """Celery's consumer, with lists instead of tasks and rows instead of rejected messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parent: Parent = kwargs["app"].veltrix_parent
        settings, self._parent = parent.settings, parent
        self._monotonic, self._log = parent.monotonic, telemetry.logger("worker")
        self.collector = Collector(limits_of(settings), parent.new_token)
        width = kwargs["app"].conf.worker_prefetch_multiplier * settings.worker_children
        self._intake = Intake(parent.queues, width, settings.hand_back_after_s)
        self._urgent, self._letters = Urgent([RegisterJob()]), list[tuple[DeadLetter, Any]]()
        self._lost: dict[str, InFlight] = {}  # by the token of a dead child, until it is released
        self._busy: dict[object, int | None] = {}  # jobs in flight -> child pid, once accepted
        self._silent = SilentChildren(parent.stamps, 2 * settings.hold_s)
        self._consuming = Consuming(parent)
        self._giving_back = GivingBack(parent.mailbox, self.give_back, self.acknowledge)
        self._is_dispatch_planned = self._is_leaving = self._is_looping = False
        super().__init__(*args, **kwargs)
        self.may_do_without_control(parent.troubles)

    # ---- what Celery calls

    def update_strategies(self) -> None:
        """No strategies: one handler takes every message."""
        self.strategies.clear()

    def create_task_handler(self, promise: Any = None) -> Callable[[Any], None]:
        """Called for each new connection: from here on it gives messages."""
        del promise
        self._is_looping = True
        telemetry.broker_up.set(1)
        self.hub.call_repeatedly(REAP_S, self._tick)
        # A connection that ends takes along what the hub was about to call: the plan may be lost.
        self._is_dispatch_planned = False
        self._plan_dispatch()
        if not self._is_leaving:
            self.listen(self._on_message, self._intake.widths, self._monotonic())
        return self._on_message

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """kombu could not decompress or decode it."""
        self._refuse(message, "undecodable", str(exc))

    def on_close(self) -> None:
        """The connection is gone: so are the messages that wait. What children do goes on."""
        self._is_looping = False
        telemetry.broker_up.set(0)
        for delivery in self.collector.forget_waiting():
            self._giving_back.hand_back(delivery, list(delivery.waiting))
            forget(delivery.request)
        self._letters.clear()

    # ---- messages in

    def _on_message(self, message: Any) -> None:
        try:
            order = read_message(message)
            queue = self._queue_of(message)
            letter = None
            if order.task not in self.app.tasks:
                detail = f"no workflow {order.task!r} in this worker"
                letter = letter_of(message, queue, "unknown_task", detail)
            request = request_of(self, message, order)
            delivery = delivery_of(order, queue, self._monotonic(), request, letter)
        except Malformed as malformed:
            self._refuse(message, malformed.reason, str(malformed))
        except Exception as error:  # noqa: BLE001 - no message may end the parent (W11)
            self._refuse(message, "unreadable", repr(error))
        else:
            tell_received(delivery.request)
            self.collector.add(delivery)
            self._intake.received(delivery.queue)
            self._plan_dispatch()

    def _queue_of(self, message: Any) -> str:
        queue = (message.delivery_info or {}).get("routing_key")
        return queue if queue in self._parent.queues else self._parent.queues[0]

    def _refuse(self, message: Any, reason: str, detail: str) -> None:
        """A row first, then the acknowledgement: a dead letter is never lost."""
        letter = evidence_of(message, self._queue_of, reason, detail)
        self._log.warning("message.refused", reason=reason, detail=detail[:200])
        self._letters.append((letter, message))
        self._plan_dispatch()

    # ---- lists out

    def _plan_dispatch(self) -> None:
        """Once per turn of the loop, so that all messages read in it go together."""
        if not self._is_dispatch_planned:
            self._is_dispatch_planned = True
            self.hub.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_dispatch_planned = False
        self._guarded(self._hand_out)

    def _hand_out(self) -> None:
        if state.should_stop is not None:
            return  # the pool is closed, or about to be
        free = self._free()
        while free > 0:
            if self._letters and self._urgent.may_go(self._monotonic()):
                self._submit_letters()
            elif (job := self._urgent.take(self._monotonic())) is not None:
                self._submit_urgent(job)
            elif self._is_leaving:
                return
            else:
                in_flight = self.collector.next_list()
                if in_flight is None:
                    self._take_again(free)
                    return
                self._submit_list(in_flight)
            free -= 1

    def _free(self) -> int:
        return int(self.pool.num_processes) - len(self._busy)

    def _take_again(self, free: int) -> None:
        """Nothing waits here and children are free: take messages, if none were taken."""
        if not self._intake.widths and not self._is_leaving:
            now = self._monotonic()
            self.take(self._intake.open(free, now), now)

    def _steer(self, now: float) -> None:
        """Every tick: what no child here is about to have goes to whoever is free (decision 21)."""
        intake = self._intake
        if not intake.is_stuck(now):
            self.take(intake.widen(self._free(), now), now)
            return
        if intake.close():
            self.take_no_more()
        self._give_back_waiting()

    def _give_back_waiting(self) -> None:
        self._close(self._giving_back.give_back(self.collector))

    def _freed(self, key: object) -> None:
        self._busy.pop(key, None)
        self._note_children()
        self._plan_dispatch()

    def _note_children(self) -> None:
        self._intake.note(self._free(), self._monotonic())

    def _submit_urgent(self, job: Job) -> None:
        self._submit(
            job,
            lambda packed: self._done(job, packed),
            lambda death: self._put_off(job, death is not None),
        )

    def _put_off(self, job: Job, died: bool) -> None:
        if not self._is_leaving:
            self._urgent.put_off(job, None if died else self._monotonic())

    def _done(self, job: Job, packed: bytes) -> None:
        self._urgent.done()
        if packed:  # what could not be registered
            self._log.error("workflows.refused", detail=packed.decode())
            self._parent.troubles.set("register", packed.decode())
        in_flight = self._lost.pop(job.token, None) if isinstance(job, ReleaseJob) else None
        if in_flight is not None:
            self.collector.take_again(in_flight)
            self._close(in_flight.deliveries)

    def _submit_letters(self) -> None:
        taken, self._letters = self._letters[:_LETTERS_MAX], self._letters[_LETTERS_MAX:]
        job = LetterJob([letter for letter, _ in taken])

        def done(_packed: bytes) -> None:
            for _, message in taken:
                self.acknowledge(message)

        def failed(death: Death | None) -> None:
            if not self._is_leaving:  # else others get these messages
                self._letters = taken + self._letters
            if death is None:
                self._urgent.failed(self._monotonic())

        self._submit(job, done, failed)

    def _submit_list(self, in_flight: InFlight) -> None:
        token = in_flight.job.token
        self._submit(
            in_flight.job,
            lambda packed: self._finish(in_flight, unpack_report(packed)),
            lambda death: self._lose(in_flight, death),
            lambda pid: self._started(in_flight, pid),
            token,
        )

    def _submit(
        self,
        job: Job,
        done: Callable[[bytes], None],
        failed: Callable[[Death | None], None],
        started: Callable[[int], None] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Give a job to a free child. The callbacks are total: the child is freed first.

        `failed` is told how the child died; None: it raised an error and lives.
        """
        key, trouble = object(), f"{job.__struct_config__.tag}"

        def on_accept(pid: int, _time: float) -> None:
            self._busy[key] = pid
            if started is not None:
                self._guarded(lambda: started(pid))

        def on_done(packed: bytes) -> None:
            self._consuming.worked(self._busy.get(key), self._monotonic())
            self._freed(key)
            self._parent.troubles.clear(trouble)
            self._guarded(lambda: done(packed))

        def on_error(einfo: Any) -> None:
            pid = self._busy.get(key)
            self._freed(key)
            death = death_of(einfo, pid, self.hostname, self._parent, self._silent)
            name = type(job).__name__
            error = str(einfo.exception)[:500] if death is None else death.message
            if death is None or not death.is_recycled:
                self._log.warning("job.failed", job=name, error=error, child_died=death is not None)
            if death is None:
                self._parent.troubles.set(trouble, error.partition("\n")[0])
            self._guarded(lambda: failed(death))

        self._busy[key] = None
        self._note_children()
        self.pool.apply_async(
            run_job,
            (pack(job),),
            accept_callback=on_accept,
            callback=on_done,
            error_callback=on_error,
            correlation_id=correlation_id,
        )

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - billiard would swallow it, and what comes after
            self._log.exception("callback.failed", error=repr(error))

    # ---- lists back

    def _started(self, in_flight: InFlight, pid: int) -> None:
        now = self._monotonic()
        for delivery in in_flight.deliveries:
            if delivery.started is None:
                delivery.started = now
                tell_started(delivery.request, pid)

    def _finish(self, in_flight: InFlight, report: ListReport) -> None:
        self.collector.finished(in_flight.job.token, report, may_try_again=not self._is_leaving)
        self._close(in_flight.deliveries)

    def _lose(self, in_flight: InFlight, death: Death | None) -> None:
        """The child died: another frees its runs, and then they are the next to go.

        They are first in line here; should we die as well, they come due. Due at once, for relays,
        are those of a worker that leaves, and a run that was alone: it may be what kills children.
        A child that raised an error lives: its runs are freed, and due after a hold.
        """
        token = in_flight.job.token
        self.collector.lost(token)
        if death is not None and death.is_recycled:  # before it had seen this list
            self.collector.put_back(in_flight)
            self._plan_dispatch()
            return
        is_over = self._is_leaving or in_flight.is_alone or death is None
        if is_over:
            self.collector.give_up(in_flight)
            self._close(in_flight.deliveries)
        else:
            self._lost[token] = in_flight
        due_in_s = 0.0 if is_over and death else self._parent.settings.hold_s
        self._urgent.add(release_after(death, in_flight, due_in_s))
        self._plan_dispatch()

    def _close(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.open_runs:
                continue
            if not delivery.is_acknowledged:
                delivery.is_acknowledged = True
                self.acknowledge(delivery.request.message)
            tell_end(delivery, self._monotonic())

    # ---- children

    def _tick(self) -> None:
        """Every 100 ms: reap dead children at once (mechanics 4), end silent ones, look around."""
        now = self._monotonic()
        self._consuming.keep_children(self.pool)
        self._urgent.meet(children_of(self.pool))
        self._silent.end([pid for pid in self._busy.values() if pid is not None], now)
        for delivery in self.collector.held_since(now - _ACKNOWLEDGE_AFTER_S):
            delivery.is_acknowledged = True
            self.acknowledge(delivery.request.message)
        self.tell_loop(now)
        self._guarded(self._flush_events)
        if not self._is_leaving:
            self._guarded(lambda: self._steer(now))
            self._guarded(lambda: self.listen_anew(self.collector.queues(), now))
            self._guarded(lambda: self._note_consuming(now))
        else:
            self._guarded(self._give_back_waiting)
            self._end_if_done()
        self._giving_back.flush()
        if self.collector.waiting() or self._urgent or self._letters:
            self._dispatch()

    def _end_if_done(self) -> None:
        if not self._busy and not self._letters and self._giving_back.is_done:
            self.say_goodbye_soon()
            state.should_stop = 0  # the exit code

    def _note_consuming(self, now: float) -> None:
        """A worker that cannot have its children any more leaves, for another to be started."""
        wanted = self._parent.queues if self._free() > 0 else tuple(self._intake.widths)
        if not self._consuming.note(ready_in(self.pool), self.deaf(wanted), now):
            self._parent.exit_code = 1
            self.leave()

    def leave(self) -> None:
        """SIGTERM: take no more, let children settle or hand back, then shut down warmly.

        By force at the end of the grace: a child that hangs in a job without a list, a loop that
        waits for an answer, a pool that cannot be joined, none of them is waited for.
        """
        if not self._is_leaving:
            within_s = self._parent.settings.grace_s - _LAST_S
            end_within(within_s, partial(end_all, self.pool), code=self._parent.exit_code)
        self._is_leaving = True
        self._urgent.leave()
        self._log.info("worker.leaving", busy=len(self._busy))
        for pid in children_of(self.pool):
            kill(pid, signal.SIGUSR2)
        if not self._is_looping:
            state.should_stop = 0  # the exit code
        else:
            self.hub.call_soon(self.take_no_more)
