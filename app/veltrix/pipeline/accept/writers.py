"""Two writers of one process: who sends little does not wait until what is large is committed.

A list is answered when all of it is committed, and PostgreSQL takes as long for a payload of a MiB
as for a hundred usual events. So what is large is written by a thread and a connection of its own.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Engine

from veltrix.domain.due import DueRun
from veltrix.domain.ids import EventIds
from veltrix.pipeline.accept.acceptor import Acceptor
from veltrix.pipeline.accept.event_list import Answer, Submission, bytes_of
from veltrix.settings.fields import Settings
from veltrix.telemetry import accept_waiting_bytes, accept_waiting_events

# What PostgreSQL commits within about 10 ms: one event of so much, or a batch of 200 usual ones.
SMALL_BYTES_MAX = 128 * 1024
# And of what is small together: eight of the largest, 2,000 of the usual ones.
SMALL_LIST_BYTES_MAX = 1024 * 1024


class Writers:
    """The writers of an api, each with an engine of its own; arguments as those of an Acceptor.

    Each may hold half of the bytes that may wait, so that neither is full because of the other; and
    the largest batch, so that it is taken where nothing else waits.
    """

    def __init__(
        self,
        engines: tuple[Engine, Engine],
        settings: Settings,
        new_ids: EventIds,
        unix_ms: Callable[[], int],
        take_credit: Callable[[str, int], int],
        hint: Callable[[list[DueRun]], None],
    ) -> None:
        self.new_ids = new_ids
        half = settings.accept_waiting_bytes_max // 2
        make = partial(Acceptor, settings=settings, new_ids=new_ids, unix_ms=unix_ms)
        make = partial(make, take_credit=take_credit, hint=hint)
        self._small = make(
            engines[0],
            waiting_bytes_max=half,
            list_bytes_max=min(SMALL_LIST_BYTES_MAX, settings.accept_list_bytes_max),
        )
        self._large = make(
            engines[1],
            name="accept-large",
            waiting_bytes_max=max(half, settings.batch_bytes_max),
            is_kept_ready=False,
        )
        # Identities that the large writer has now, with how often. For the event loop.
        self._in_large: Counter[tuple[str, str]] = Counter()

    def start(self) -> None:
        """Begin to write."""
        self._small.start()
        self._large.start()
        accept_waiting_events.set_function(lambda: self._waiting(0))
        accept_waiting_bytes.set_function(lambda: self._waiting(1))

    def stop(self) -> None:
        """Answer all that waits, refuse what comes later, and end the threads."""
        self._large.begin_to_stop()
        self._small.stop()
        self._large.stop()

    def _waiting(self, which: int) -> int:
        return self._small.waiting[which] + self._large.waiting[which]

    @property
    def is_writing(self) -> bool:
        """Whether what is small would be written now, and all that waits will be answered."""
        return self._small.is_writing and self._large.is_alive

    @property
    def is_writing_large(self) -> bool:
        """Whether what is large would be written now, as far as its writer knows."""
        return self._large.is_writing

    @property
    def clock_trouble(self) -> str | None:
        """Why this machine's clock is not fit, as of the last look."""
        return self._small.clock_trouble

    def submit(self, submissions: Sequence[Submission]) -> "asyncio.Future[list[Answer]]":
        """As `Acceptor.submit`."""
        size = sum(map(bytes_of, submissions))
        if size <= SMALL_BYTES_MAX and not self._meets_large(submissions):
            return self._small.submit(submissions)
        answers = self._large.submit(submissions)
        identities = [(one.event.source, one.event.id) for one in submissions]
        self._in_large.update(identities)
        answers.add_done_callback(partial(self._forget, identities))
        return answers

    def _meets_large(self, submissions: Sequence[Submission]) -> bool:
        """One of its identities is being written there: all of its list would wait for that."""
        if not self._in_large:
            return False
        return any((one.event.source, one.event.id) in self._in_large for one in submissions)

    def _forget(self, identities: list[tuple[str, str]], _answers: object) -> None:
        for identity in identities:
            if self._in_large[identity] > 1:
                self._in_large[identity] -= 1
            else:
                del self._in_large[identity]

    def count_refused(self, count: int) -> None:
        """As `Acceptor.count_refused`."""
        self._small.count_refused(count)
