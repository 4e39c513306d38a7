"""What the first page shows, as of nearly one moment."""

from datetime import datetime

import msgspec

from veltrix.doctor.watch.report import WatchReport
from veltrix.operations.books import overview
from veltrix.operations.books.books import Balance
from veltrix.operations.books.overview import ChildRow, Minute, QueueRuns
from veltrix.operations.failures.read_urgent import UrgentGroup
from veltrix.operations.runs.read_pace import WorkflowPace

MINUTES = 60


class Figures(msgspec.Struct, frozen=True):
    """What the first page shows, as of nearly one moment; rates are None until two are read.

    `paces`: of all workflows together first, then the slowest.
    """

    books: Balance
    accepted_per_s: float | None
    settled_per_s: float | None
    paces: list[WorkflowPace]
    urgent: list[UrgentGroup]
    queues: list[QueueRuns]
    workers: list[ChildRow]
    minutes: list[Minute]
    unseen_letters: int
    has_broker: bool
    watch: WatchReport

    @property
    def oldest_started_at(self) -> datetime | None:
        """Since when the oldest open run is open."""
        return min((queue.oldest_started_at for queue in self.queues), default=None)

    @property
    def is_more_letters(self) -> bool:
        """Whether dead letters were counted up to a limit only."""
        return self.unseen_letters >= overview.LETTERS_MAX

    @property
    def chart(self) -> str:
        """The minutes as columns of numbers, in JSON: seconds since 1970, accepted, settled."""
        last = int(self.books.as_of.timestamp()) // 60
        by_minute = {m.minute: m for m in self.minutes}
        wanted = range(last - MINUTES + 1, last + 1)
        there = [by_minute.get(minute, Minute(minute, 0, 0, 0)) for minute in wanted]
        columns = [[m.minute * 60 for m in there]]
        columns += [[m.accepted for m in there], [m.settled for m in there]]
        return msgspec.json.encode(columns).decode()
