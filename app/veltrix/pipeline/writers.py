"""Two writers of one process: who sends little does not wait until what is large is committed.

A list is answered when all of it is committed, and PostgreSQL takes as long for a payload of a MiB
as for a hundred usual events. So what is large is written by a thread and a connection of its own.
"""

import asyncio
from collections.abc import Callable, Sequence

from sqlalchemy import Engine

from veltrix.domain.due import DueRun
from veltrix.domain.ids import EventIds
from veltrix.pipeline.accept import Acceptor
from veltrix.pipeline.accept_list import Answer, Submission, bytes_of
from veltrix.settings import Settings
from veltrix.telemetry import accept_waiting_bytes, accept_waiting_events

# What PostgreSQL commits within about 10 ms: one event of so much, or a batch of 200 usual ones.
SMALL_BYTES_MAX = 128 * 1024


class Writers:
    """The writers of an api, each with an engine of its own; arguments as those of an Acceptor.

    Each may hold half of the bytes that may wait, so that neither is full because of the other.
    """

    def __init__(
        self,
        engines: tuple[Engine, Engine],
        settings: Settings,
        new_ids: EventIds,
        unix_ms: Callable[[], int],
        take_room: Callable[[str, int], int],
        hint: Callable[[list[DueRun]], None],
    ) -> None:
        self.new_ids = new_ids
        self._small, self._large = (
            Acceptor(
                engine,
                settings,
                new_ids,
                unix_ms,
                take_room,
                hint,
                name=name,
                waiting_bytes_max=settings.accept_waiting_bytes_max // 2,
                is_kept_ready=is_kept_ready,
            )
            for engine, name, is_kept_ready in zip(
                engines, ("accept", "accept-large"), (True, False), strict=True
            )
        )

    def start(self) -> None:
        """Begin to write."""
        self._small.start()
        self._large.start()
        accept_waiting_events.set_function(lambda: self._waiting(0))
        accept_waiting_bytes.set_function(lambda: self._waiting(1))

    def stop(self) -> None:
        """Answer all that waits, refuse what comes later, and end the threads."""
        self._small.stop()
        self._large.stop()

    def _waiting(self, which: int) -> int:
        return self._small.waiting[which] + self._large.waiting[which]

    @property
    def is_writing(self) -> bool:
        """Whether both would write what comes now."""
        return self._small.is_writing and self._large.is_writing

    @property
    def clock_trouble(self) -> str | None:
        """Why this machine's clock is not fit, as of the last look."""
        return self._small.clock_trouble

    def submit(self, submissions: Sequence[Submission]) -> "asyncio.Future[list[Answer]]":
        """As `Acceptor.submit`."""
        size = sum(map(bytes_of, submissions))
        writer = self._small if size <= SMALL_BYTES_MAX else self._large
        return writer.submit(submissions)

    def count_refused(self, count: int) -> None:
        """As `Acceptor.count_refused`."""
        self._small.count_refused(count)
