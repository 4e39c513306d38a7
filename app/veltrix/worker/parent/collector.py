"""The collector: one line of waiting runs per queue, and the lists it makes of them.

Pure: it decides what goes to which free child and what may be acknowledged; the consumer does it.
A list takes runs of one queue only; queues are served in turn, the one that holds the fewest
children first, so that no queue takes the last child while another waits (mechanics 19).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from veltrix.broker.message import ListLimits
from veltrix.domain.dead_letters import DeadLetter
from veltrix.worker.jobs import ListJob, ListReport
from veltrix.worker.occupied import Occupied
from veltrix.worker.parent.guard import RelayMessage

RETURNS_MAX = 8  # RabbitMQ 4 takes 20 for too many where no policy says otherwise


class Delivery:
    """A message and the runs it names. Acknowledged when `open_runs` is empty, or given back.

    `again` are those that were in the batch of a child that died: each goes alone, before others.
    `handed` is what it carries of runs that are handed over as claimed, under `token`; a child had
    those in `plain` before, so they are claimed.
    """

    __slots__ = (
        "again",
        "bytes_per_run",
        "delivered",
        "delivery_id",
        "handed",
        "is_acknowledged",
        "is_alone",
        "letter",
        "open_runs",
        "outcomes",
        "plain",
        "queue",
        "request",
        "returns",
        "started",
        "token",
        "waiting",
        "workflow",
    )

    def __init__(
        self,
        *,
        delivery_id: str,
        run_ids: list[str],
        workflow: str,
        queue: str,
        payload_bytes: int,
        is_alone: bool,
        delivered: float,
        request: Any = None,
        letter: DeadLetter | None = None,
        returns: int = 0,
        token: str | None = None,
        handed: bytes | None = None,
    ) -> None:
        self.delivery_id, self.workflow, self.queue = delivery_id, workflow, queue
        self.waiting = deque(run_ids)
        self.again: deque[str] = deque()
        self.open_runs = set(run_ids)
        self.bytes_per_run = payload_bytes / max(1, len(run_ids))
        self.is_alone = is_alone
        self.delivered, self.returns = delivered, returns
        self.request, self.letter = request, letter
        self.outcomes: dict[str, str] = {}
        self.token, self.handed = token, handed
        self.plain: set[str] = set()
        self.is_acknowledged = False
        self.started: float | None = None


def delivery_of(
    order: RelayMessage, queue: str, delivered: float, request: Any, letter: DeadLetter | None
) -> Delivery:
    """A message of the relay that came by this queue at this monotonic time."""
    return Delivery(
        delivery_id=order.delivery_id,
        run_ids=order.run_ids,
        workflow=order.task,
        queue=queue,
        payload_bytes=order.payload_bytes,
        is_alone=order.is_alone,
        delivered=delivered,
        request=request,
        letter=letter,
        returns=order.returns,
        token=order.token,
        handed=order.handed,
    )


class InFlight:
    """A list that a child has, or is about to have. `is_alone`: of one run that must be alone."""

    __slots__ = ("deliveries", "is_alone", "job", "queue", "runs", "tokens")

    def __init__(
        self, job: ListJob, queue: str, runs: list[tuple[Delivery, str]], *, is_alone: bool
    ) -> None:
        self.job, self.queue, self.runs, self.is_alone = job, queue, runs, is_alone
        self.deliveries = list(dict.fromkeys(delivery for delivery, _ in runs))
        # Not of a message that somebody had before: he may have its runs by that token.
        handed = (d.token for d in self.deliveries if d.handed is not None)
        self.tokens = sorted({token for token in handed if token is not None})


class Collector:
    """All waiting runs of all queues, and what is in flight."""

    def __init__(self, limits: ListLimits, new_token: Callable[[], str]) -> None:
        self._limits, self._new_token = limits, new_token
        self._lines: dict[str, deque[Delivery]] = {}
        self._turn: deque[str] = deque()
        self._occupied = Occupied()
        self.in_flight: dict[str, InFlight] = {}

    def add(self, delivery: Delivery) -> None:
        """A message has arrived."""
        line = self._lines.get(delivery.queue)
        if line is None:
            line = self._lines[delivery.queue] = deque()
            self._turn.append(delivery.queue)
        line.append(delivery)

    def waiting(self) -> int:
        """Messages with runs that no child has."""
        return sum(len(line) for line in self._lines.values())

    def queues(self) -> set[str]:
        """The queues of which a run waits or is in flight."""
        in_flight = {one.queue for one in self.in_flight.values()}
        return in_flight | {queue for queue, line in self._lines.items() if line}

    def held_since(self, time: float) -> list[Delivery]:
        """Messages that came before that time, of which a child has runs, not acknowledged yet."""
        held = (delivery for one in self.in_flight.values() for delivery in one.deliveries)
        return [d for d in held if d.delivered < time and not d.is_acknowledged]

    def forget_waiting(self) -> list[Delivery]:
        """The channel is gone: what waits is delivered again; what children have stays theirs."""
        forgotten = [d for line in self._lines.values() for d in line]
        for line in self._lines.values():
            line.clear()
        return forgotten

    def take_back(self) -> list[tuple[Delivery, list[str]]]:
        """The messages that wait and may be given back, out of their lines now, and their runs.

        Not those whose runs were in the batch of a child that died: they are the next to go here,
        and due for others. Not those that were given back often: RabbitMQ counts, and at its limit
        makes them dead letters; their runs come due for whoever is free.
        """
        taken: list[Delivery] = []
        for line in self._lines.values():
            kept: list[Delivery] = []
            for delivery in line:
                is_ours = delivery.again or delivery.is_acknowledged
                (kept if is_ours or delivery.returns >= RETURNS_MAX else taken).append(delivery)
            line.clear()
            line.extend(kept)
        found = [(delivery, list(delivery.waiting)) for delivery in taken]
        for delivery in taken:
            delivery.is_acknowledged = True
            delivery.open_runs.difference_update(delivery.waiting)
            delivery.outcomes.update(dict.fromkeys(delivery.waiting, "queued"))
            delivery.waiting.clear()
        return found

    def next_list(self) -> InFlight | None:
        """The next list for a free child, now in flight; None if nothing waits."""
        waiting = [queue for queue in self._turn if self._lines[queue]]
        if not waiting:
            return None
        held = dict.fromkeys(waiting, 0)
        for one in self.in_flight.values():
            if one.queue in held:
                held[one.queue] += 1
        queue = min(waiting, key=held.__getitem__)
        self._turn.remove(queue)
        self._turn.append(queue)
        line = self._lines[queue]
        is_alone = _goes_alone(line[0])
        runs = self._take(line)
        first = _first_named(runs)
        letters = {d.delivery_id: d.letter for d in first.values() if d.letter is not None}
        named = [(run_id, delivery.delivery_id) for run_id, delivery in first.items()]
        handed = {d.delivery_id: d.handed for d in first.values() if d.handed is not None}
        plain = [run_id for run_id, delivery in first.items() if run_id in delivery.plain]
        job = ListJob(self._new_token(), named, letters, handed, plain)
        in_flight = InFlight(job, queue, runs, is_alone=is_alone)
        self.in_flight[job.token] = in_flight
        return in_flight

    def _take(self, line: deque[Delivery]) -> list[tuple[Delivery, str]]:
        """As many runs as one list may have: bounded by count, estimated work and payload.

        A run that a copy of its message names again costs nothing and is in the answer again, so
        that the copy is acknowledged with the list.
        """
        limits = self._limits
        runs: list[tuple[Delivery, str]] = []
        work_s, payload = 0.0, 0.0
        taken: set[str] = set()
        while line and len(taken) < limits.runs_max:
            delivery = line[0]
            is_alone = _goes_alone(delivery)
            if is_alone and runs:
                break
            cost_s = self._cost_s(delivery.workflow)
            if runs and (
                work_s + cost_s > limits.work_s
                or payload + delivery.bytes_per_run > limits.bytes_max
            ):
                break
            run_id = (delivery.again or delivery.waiting).popleft()
            runs.append((delivery, run_id))
            if run_id not in taken:
                taken.add(run_id)
                work_s += cost_s
                payload += delivery.bytes_per_run
            if not delivery.again and not delivery.waiting:
                line.popleft()
            if is_alone:
                break
        return runs

    def _cost_s(self, workflow: str) -> float:
        measured = self._occupied.of(workflow)
        return self._limits.work_s / self._limits.runs_unmeasured if measured is None else measured

    def finished(self, token: str, report: ListReport, *, may_try_again: bool = True) -> None:
        """A child is free again: the runs' outcomes are noted on their messages.

        Runs that were lost to it are next in their line: a database that crashed forgets claims, as
        their commit is not durable, and nobody has those. What somebody has is not claimed then.
        """
        in_flight = self.in_flight.pop(token)
        self._occupied.note(report.occupied)
        first = _first_named(in_flight.runs)
        for delivery, run_id in reversed(in_flight.runs):
            outcome = report.outcomes.get(run_id, "lost")
            if outcome == "lost" and may_try_again and first[run_id] is delivery:
                delivery.waiting.appendleft(run_id)
                delivery.plain.add(run_id)
                self._put_first(delivery)
            else:
                delivery.open_runs.discard(run_id)
                delivery.outcomes[run_id] = outcome

    def _put_first(self, delivery: Delivery) -> None:
        line = self._lines[delivery.queue]
        if delivery not in line:
            line.appendleft(delivery)

    def lost(self, token: str) -> InFlight:
        """The child died, or failed; what it had, for `take_again` or `give_up`."""
        return self.in_flight.pop(token)

    def put_back(self, in_flight: InFlight) -> None:
        """No child ever had this list: its runs wait as they did before."""
        first = _first_named(in_flight.runs)
        for delivery, run_id in reversed(in_flight.runs):
            if first[run_id] is delivery:
                (delivery.again if in_flight.is_alone else delivery.waiting).appendleft(run_id)
                self._put_first(delivery)
            else:  # a copy of its message is done with it
                delivery.open_runs.discard(run_id)
                delivery.outcomes[run_id] = "lost"

    def take_again(self, in_flight: InFlight) -> None:
        """The runs of a lost list are next in their line, before what has waited longer."""
        first = _first_named(in_flight.runs)
        for delivery, run_id in reversed(in_flight.runs):
            if first[run_id] is delivery:
                delivery.again.appendleft(run_id)
                delivery.plain.add(run_id)
                self._put_first(delivery)
            else:  # a copy of its message is done with it
                delivery.open_runs.discard(run_id)
                delivery.outcomes[run_id] = "lost"

    def give_up(self, in_flight: InFlight) -> None:
        """The runs of a lost list are somebody else's: their messages are done with them."""
        for delivery, run_id in in_flight.runs:
            delivery.open_runs.discard(run_id)
            delivery.outcomes[run_id] = "lost"


def _goes_alone(delivery: Delivery) -> bool:
    return delivery.is_alone or bool(delivery.again)


def _first_named(runs: list[tuple[Delivery, str]]) -> dict[str, Delivery]:
    """Two copies of one message: one claim."""
    first: dict[str, Delivery] = {}
    for delivery, run_id in runs:
        first.setdefault(run_id, delivery)
    return first
