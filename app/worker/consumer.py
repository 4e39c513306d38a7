"""The worker's parent: a Celery consumer with one collector for all queues.

It opens no database connection and starts no thread (mechanics 6): one hub, children behind pipes.
Everything that is waiting goes to the next free child as one list. Messages are acknowledged when
every run they name is settled or handed back; our own are never rejected or requeued.
"""

import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from celery.worker import state
from celery.worker.request import Request
from celery.worker.state import (
    requests,
    reserved_requests,
    task_accepted,
    task_ready,
    task_reserved,
)

from app import telemetry
from app.domain.dead_letters import DeadLetter
from app.settings import Settings
from app.worker.celery_events import tell_end
from app.worker.child import run_job
from app.worker.collector import Bounds, Collector, Delivery, InHand
from app.worker.connected import ConnectedConsumer
from app.worker.guard import Malformed, letter_of, read_message
from app.worker.jobs import (
    Job,
    LetterJob,
    ListReport,
    RegisterJob,
    ReleaseJob,
    pack,
    unpack_report,
)
from app.worker.stamps import PARENT, Stamps

REAP_S = 0.1
_ACKNOWLEDGE_AFTER_S = 60.0
_LETTERS_MAX = 100


class Parent:
    """What the consumer needs and Celery does not pass on; set on the Celery app."""

    def __init__(
        self,
        settings: Settings,
        queues: list[str],
        stamps: Stamps,
        new_token: Callable[[], str],
        monotonic: Callable[[], float],
    ) -> None:
        self.settings, self.queues, self.stamps = settings, queues, stamps
        self.new_token, self.monotonic = new_token, monotonic


class ListConsumer(ConnectedConsumer):
    """Celery's consumer, with lists instead of tasks and rows instead of rejected messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parent: Parent = kwargs["app"].veltrix_parent
        settings = parent.settings
        self._parent = parent
        self._monotonic = parent.monotonic
        bounds = Bounds(
            settings.list_runs_max,
            settings.list_work_s,
            settings.list_bytes_max,
            settings.list_runs_unmeasured,
        )
        self.collector = Collector(bounds, parent.new_token)
        self._urgent: deque[Job] = deque([RegisterJob()])
        self._lost: dict[str, InHand] = {}  # by the token of a dead child, until it is released
        self._letters: list[tuple[DeadLetter, Any]] = []
        self._busy: dict[object, int | None] = {}  # jobs in flight -> child pid, once accepted
        self._killed: set[int] = set()
        self._is_dispatch_planned = False
        self._is_leaving = False
        self._is_looping = False
        self._listening = None
        self._log = telemetry.logger("worker")
        super().__init__(*args, **kwargs)

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
            self.listen(self._on_message, self._monotonic())
        return self._on_message

    def on_send_event_buffered(self) -> None:
        """`_tick` sends what Flower is to see, so that a run waits for no write of an event.

        Sent at each turn of the loop, events were a third of this process's time at 300 runs/s.
        """

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """kombu could not decompress or decode it."""
        self._refuse(message, "undecodable", str(exc))

    def on_close(self) -> None:
        """The connection is gone: so are the messages that wait. What children do goes on."""
        self._is_looping = False
        telemetry.broker_up.set(0)
        for delivery in self.collector.forget_waiting():
            if delivery.request is not None:
                reserved_requests.discard(delivery.request)
                requests.pop(delivery.request.id, None)
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
            delivery = Delivery(
                delivery_id=order.delivery_id,
                run_ids=order.run_ids,
                workflow=order.task,
                queue=queue,
                payload_bytes=order.payload_bytes,
                is_alone=order.is_alone,
                delivered=self._monotonic(),
                request=self._request(message, order),
                letter=letter,
            )
        except Malformed as malformed:
            self._refuse(message, malformed.reason, str(malformed))
        except Exception as error:  # noqa: BLE001 - no message may end the parent (W11)
            self._refuse(message, "unreadable", repr(error))
        else:
            request = delivery.request
            task_reserved(request)
            request.send_event(
                "task-received",
                name=request.name,
                args=request.argsrepr,
                kwargs=request.kwargsrepr,
                root_id=request.root_id,
                parent_id=None,
                retries=0,
                eta=None,
                expires=None,
            )
            self.collector.add(delivery)
            self._plan_dispatch()

    def _request(self, message: Any, order: Any) -> Any:
        task = self.app.tasks.get(order.task, self.app.tasks["celery.accumulate"])
        return Request(
            message,
            app=self.app,
            task=task,
            body=order.body,
            decoded=True,
            hostname=self.hostname,
            eventer=self.event_dispatcher,
            connection_errors=self.connection_errors,
        )

    def _queue_of(self, message: Any) -> str:
        queue = (message.delivery_info or {}).get("routing_key")
        return queue if queue in self._parent.queues else self._parent.queues[0]

    def _refuse(self, message: Any, reason: str, detail: str) -> None:
        """A row first, then the acknowledgement: a dead letter is never lost."""
        try:
            letter = letter_of(message, self._queue_of(message), reason, detail)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is evidence
            letter = DeadLetter(queue="", reason=reason, detail=ascii(error)[:1_000])
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
        free = self.pool.num_processes - len(self._busy)
        while free > 0:
            if self._letters:
                self._submit_letters()
            elif self._urgent:
                self._submit_urgent(self._urgent.popleft())
            elif self._is_leaving:
                return
            else:
                in_hand = self.collector.next_list()
                if in_hand is None:
                    return
                self._submit_list(in_hand)
            free -= 1

    def _submit_urgent(self, job: Job) -> None:
        self._submit(job, lambda _packed: self._done(job), lambda: self._urgent.append(job))

    def _done(self, job: Job) -> None:
        in_hand = self._lost.pop(job.token, None) if isinstance(job, ReleaseJob) else None
        if in_hand is not None:
            self.collector.take_again(in_hand)
            self._close(in_hand.deliveries)

    def _submit_letters(self) -> None:
        taken, self._letters = self._letters[:_LETTERS_MAX], self._letters[_LETTERS_MAX:]
        job = LetterJob([letter for letter, _ in taken])

        def done(_packed: bytes) -> None:
            for _, message in taken:
                self.acknowledge(message)

        def failed() -> None:
            self._letters = taken + self._letters

        self._submit(job, done, failed)

    def _submit_list(self, in_hand: InHand) -> None:
        token = in_hand.job.token
        self._submit(
            in_hand.job,
            lambda packed: self._finish(in_hand, unpack_report(packed)),
            lambda: self._lose(in_hand),
            lambda: self._started(in_hand),
            token,
        )

    def _submit(
        self,
        job: Job,
        done: Callable[[bytes], None],
        failed: Callable[[], None],
        started: Callable[[], None] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Give a job to a free child. The callbacks are total: the child is freed first."""
        key = object()

        def on_accept(pid: int, _time: float) -> None:
            self._busy[key] = pid
            if started is not None:
                self._guarded(started)

        def on_done(packed: bytes) -> None:
            self._busy.pop(key, None)
            self._plan_dispatch()
            self._guarded(lambda: done(packed))

        def on_error(einfo: Any) -> None:
            self._busy.pop(key, None)
            self._plan_dispatch()
            self._log.warning(
                "job.failed", job=type(job).__name__, error=str(einfo.exception)[:500]
            )
            self._guarded(failed)

        self._busy[key] = None
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
            self._log.error("callback.failed", error=repr(error))

    # ---- lists back

    def _started(self, in_hand: InHand) -> None:
        now = self._monotonic()
        for delivery in in_hand.deliveries:
            if delivery.started is None:
                delivery.started = now
                task_accepted(delivery.request)
                delivery.request.send_event("task-started")

    def _finish(self, in_hand: InHand, report: ListReport) -> None:
        self.collector.finished(in_hand.job.token, report, may_try_again=not self._is_leaving)
        self._close(in_hand.deliveries)

    def _lose(self, in_hand: InHand) -> None:
        """The child died, or failed: another frees its runs, and then they are the next to go.

        They are first in line here, however many messages wait in the queue; should we die as well,
        they come due. Due at once, for the relay to see, are those of a worker that leaves, and a
        run that was alone: it may be what kills children.
        """
        token = in_hand.job.token
        self.collector.lost(token)
        is_over = self._is_leaving or in_hand.is_alone
        if is_over:
            self.collector.give_up(in_hand)
            self._close(in_hand.deliveries)
        else:
            self._lost[token] = in_hand
        run_ids = sorted({run_id for _, run_id in in_hand.runs})
        due_in_s = 0.0 if is_over else self._parent.settings.hold_s
        self._urgent.append(ReleaseJob(token, run_ids, due_in_s))
        self._plan_dispatch()

    def _close(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.open_runs:
                continue
            if not delivery.is_acknowledged:
                delivery.is_acknowledged = True
                self.acknowledge(delivery.request.message)
            task_ready(delivery.request)
            tell_end(delivery, self._monotonic())

    # ---- children

    def _tick(self) -> None:
        """Every 100 ms: reap dead children at once (mechanics 4), end silent ones, stamp."""
        now = self._monotonic()
        self._parent.stamps.stamp(PARENT, os.getpid(), now)
        self.pool.maintain_pool()
        for pid in [pid for pid in self._busy.values() if pid is not None]:
            seen = self._parent.stamps.seen(pid)
            silent_s = 2 * self._parent.settings.hold_s
            if seen is not None and now - seen > silent_s and pid not in self._killed:
                self._log.warning("child.silent", pid=pid, seconds=round(now - seen, 1))
                telemetry.children_killed.labels("silent").inc()
                self._killed.add(pid)
                _kill(pid, signal.SIGKILL)
        for in_hand in self.collector.in_hand.values():
            for delivery in in_hand.deliveries:
                age_s = now - delivery.delivered
                if age_s > _ACKNOWLEDGE_AFTER_S and not delivery.is_acknowledged:
                    delivery.is_acknowledged = True
                    self.acknowledge(delivery.request.message)
        self._guarded(self._flush_events)
        if not self._is_leaving:
            self._guarded(lambda: self.listen_anew(self.collector.queues(), now))
        if self._is_leaving and not self._busy and not self._letters:
            self.say_goodbye_soon()
            state.should_stop = os.EX_OK
        if self.collector.waiting() or self._urgent or self._letters:
            self._dispatch()

    def leave(self) -> None:
        """SIGTERM: take no more, let children settle or hand back, then shut down warmly."""
        self._is_leaving = True
        self._log.info("worker.leaving", busy=len(self._busy))
        for process in tuple(self.pool._pool._pool):  # noqa: SLF001 - billiard has no public list
            _kill(process.pid, signal.SIGUSR2)
        if not self._is_looping:
            state.should_stop = os.EX_OK
        else:
            self.hub.call_soon(self.take_no_more)


def _kill(pid: int, signal_: int) -> None:
    try:
        os.kill(pid, signal_)
    except ProcessLookupError:
        return
