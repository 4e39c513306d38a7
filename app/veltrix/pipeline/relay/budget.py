"""How much each queue may still be given: flow control in seconds of work.

A queue holds at most what was claimed from it in the last seconds, and at least some lists per
worker child, counted as runs in the database. The backlog waits in PostgreSQL, not in broker memory
(mechanics 13).
"""

import math
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection

from veltrix.broker.message import limits_of
from veltrix.pipeline.relay.due_rows import (
    LONG_AGO,
    QueueDepth,
    QueueShare,
    depths,
    queues_subscribed,
    queues_with_open_runs,
)
from veltrix.settings.fields import Settings
from veltrix.store.loads import Load, current

# Of a queue that keeps up, per worker child: with one, the first seconds of a flood came due and
# were handed over by the relay (decision 41).
IDLE_LISTS = 8
LOAD_S = 0.5
QUEUES_S = 1.0
# Every so often indexes are read from their beginning: a floor alone would overlook what committed
# late (loss mode D09), or was locked when its turn came.
FLOORS_S = 10.0
# How late a transaction may commit a `due_at` without being overlooked until then.
MARGIN = timedelta(seconds=1)
_SPARE_ROWS = 2_000
# Queues of which no run was due at the last look, in one scan: by turns, and half of it at most.
UNSEEN_QUEUES_MAX = 100
# Due runs are counted as far as they would have fitted at the look before, but so many at least,
# for there may be room since; and so many at most, for what a look may cost.
DUE_COUNTED_MIN, DUE_COUNTED_MAX = 1_000, 20_000


class Budget:
    """A view of all queues, as of its last `refresh`. Times are the caller's monotonic seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = limits_of(settings)
        self._load = Load({}, {}, {})
        self._load_at = self._queues_at = self._floors_at = -math.inf
        self._workflows: dict[str, list[str]] = {}
        self._handed_floors: dict[str, datetime] = {}
        self.due_floors: dict[str, datetime] = {}
        self.depths: dict[str, QueueDepth] = {}
        self._due_max: dict[str, int] = {}
        self._lefts: dict[str, int] = {}
        self._with_due: set[str] = set()
        self._behind: set[str] = set()  # more was handed over than is claimed in time
        self._has_given = self._was_quiet = False
        self._turn = 0

    @property
    def queues(self) -> Collection[str]:
        """Every queue with a subscription, a worker or an open run."""
        return self._workflows.keys()

    @property
    def occupied_s(self) -> dict[str, float]:
        """How long a run of each measured workflow occupies a worker child."""
        return self._load.occupied_s

    def refresh(self, tx: Connection, now: float) -> None:
        """Look again; `tx` may be an AUTOCOMMIT connection."""
        self._refresh_queues(tx, now)
        if now - self._load_at >= LOAD_S:
            self._load = current(tx)
            self._load_at = now
        if not self._workflows:
            return
        bounds = {queue: self.bound(queue) for queue in self._workflows}
        self._due_max = {
            queue: max(DUE_COUNTED_MIN, min(self.left(queue), DUE_COUNTED_MAX))
            for queue in self._workflows
        }
        self.depths = depths(
            tx,
            self._workflows,
            floors=self._handed_floors,
            due_floors=self.due_floors,
            hold_s_max=self._settings.hold_s_max,
            rows_max=max(bounds.values()) + _SPARE_ROWS,
            due_max=self._due_max,
        )
        hold = timedelta(seconds=self._settings.hold_s)
        for queue, depth in self.depths.items():
            self._handed_floors[queue] = depth.first_handed or depth.now + hold - MARGIN
            self.due_floors[queue] = depth.first_due or depth.now - MARGIN
            self._note_behind(queue, depth, hold)
            bounds[queue] = max(0, self.bound(queue) - depth.handed)
        # At once: what each round asks of every queue is kept, a thousand of them may be here.
        self._lefts = bounds
        self._with_due = {queue for queue, depth in self.depths.items() if depth.due}
        self._was_quiet = all(depth.is_quiet for depth in self.depths.values())
        self._has_given = False

    def _note_behind(self, queue: str, depth: QueueDepth, hold: timedelta) -> None:
        """Whether what is handed over waits for longer than it may, until nothing waits any more.

        The quickest workflow says how much an idle queue may hold. Beside slow ones that is many
        seconds of work: one worker takes all of it, and the children of another have none.
        """
        first = depth.first_handed
        if first is None and depth.first_due is None:
            self._behind.discard(queue)
        elif first is not None:
            waited = depth.now + hold - first
            if waited > timedelta(seconds=self._settings.queue_bound_s):
                self._behind.add(queue)

    def _refresh_queues(self, tx: Connection, now: float) -> None:
        known: Collection[str] = self._workflows
        if now - self._floors_at >= FLOORS_S:
            self._floors_at, self._queues_at = now, -math.inf
            self._handed_floors, self.due_floors = {}, {}
            known = queues_with_open_runs(tx)
        if now - self._queues_at >= QUEUES_S:
            # At once, for another thread may ask for `queues`.
            served: dict[str, list[str]] = {queue: [] for queue in (*known, *self._load.children)}
            self._workflows = served | queues_subscribed(tx)
            self._queues_at = now

    def bound(self, queue: str) -> int:
        """Runs the queue may hold, handed over and not claimed."""
        claimed = self._load.claimed_2s.get(queue, 0) * self._settings.queue_bound_s / 2
        lists = 1 if queue in self._behind else IDLE_LISTS
        workflows = self._workflows.get(queue, ())
        rooms = [self._idle_room(self.occupied_s.get(w), lists) for w in workflows]
        room = max(rooms, default=self._limits.runs_of(None))
        return max(math.ceil(claimed), room * max(1, self._load.children.get(queue, 0)))

    def _idle_room(self, occupied_s: float | None, lists: int) -> int:
        """Runs of a workflow for each child of an idle queue: a list, and more while it is quick.

        No further list of one that nobody has measured: they may all be slow.
        """
        list_runs = self._limits.runs_of(occupied_s)
        if occupied_s is None:
            return list_runs
        in_bound = int(self._settings.queue_bound_s / max(occupied_s, 1e-9))
        return max(list_runs, min(lists * list_runs, in_bound))

    def left(self, queue: str) -> int:
        """Runs the queue may be given now, by the last refresh and what `give` was told since."""
        left = self._lefts.get(queue)
        return self.bound(queue) if left is None else left

    @property
    def is_full(self) -> bool:
        """A queue has no room left."""
        return 0 in self._lefts.values()

    def wanted(self, queues: Iterable[str], runs_max: int) -> list[QueueShare]:
        """What to look for in these queues: what each may be given, in even shares.

        What a queue does not need is left to those that need more. Queues of which nothing is known
        to be due get half of it at most, by turns: what became due there is known at the next look.
        """
        rooms = [(left, queue) for queue in queues if (left := self.left(queue)) > 0]
        unseen = [room for room in rooms if room[1] not in self._with_due]
        seen = [room for room in rooms if room[1] in self._with_due]
        if len(unseen) > UNSEEN_QUEUES_MAX:
            self._turn = (self._turn + UNSEEN_QUEUES_MAX) % len(unseen)
            unseen = (unseen + unseen)[self._turn : self._turn + UNSEEN_QUEUES_MAX]
        unseen_max = runs_max // 2 if seen else runs_max
        found = self._shared(unseen, unseen_max)
        return found + self._shared(seen, runs_max - sum(one.runs_max for one in found))

    def _shared(self, rooms: list[tuple[int, str]], runs_max: int) -> list[QueueShare]:
        found = []
        rooms.sort()
        for index, (left, queue) in enumerate(rooms):
            runs = min(left, max(1, runs_max // (len(rooms) - index)))
            if runs_max <= 0:
                break
            runs_max -= runs
            found.append(QueueShare(queue, runs, self.due_floors.get(queue, LONG_AGO)))
        return found

    def left_beside_due(self, queue: str) -> int:
        """Runs the queue may be given that are not due: what is due has the room first.

        0 when not all that is due was counted: a backlog.
        """
        depth = self.depths.get(queue)
        if depth is None or depth.due >= self._due_max[queue]:
            return 0
        return max(0, self.left(queue) - depth.due)

    def give(self, queue: str, runs: int) -> None:
        """The queue is being given this many runs, that were due."""
        self._lefts[queue] = max(0, self.left(queue) - runs)
        self._with_due.add(queue)
        self._has_given = True

    @property
    def is_quiet(self) -> bool:
        """The last look saw no run due or about to be, and nothing was given since."""
        return self._was_quiet and not self._has_given

    @property
    def has_given(self) -> bool:
        """Something was given since the last refresh."""
        return self._has_given
