"""The workload's own record: every request and every answer, on disk before it counts.

Lines of JSON. A request is written and flushed to disk before it is sent, its answer before it is
believed; one whose answer never came has no second line, and may be in the ledger or not. Lines
that wait are written together, with one fsync: the more there are, the cheaper each is.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

import msgspec


class Asked(msgspec.Struct, tag="asked", frozen=True):
    """A request is about to be sent: the identities, contents and types in it, in order."""

    request: int
    at: float  # seconds since 1970
    api: str
    mode: str
    ids: list[str]
    digests: list[str]
    types: list[str]
    flaws: list[str]  # "" where the event is as it should be


class Told(msgspec.Struct, tag="told", frozen=True):
    """Its answer came: a status for each event, and the ledger's id for those that were taken."""

    request: int
    at: float
    statuses: list[int]
    event_ids: list[str | None]
    duplicates: list[bool]


class Unanswered(msgspec.Struct, tag="unanswered", frozen=True):
    """No answer came, and why; the events may have been taken or not."""

    request: int
    at: float
    why: str


class NotedReplaying(msgspec.Struct, tag="replaying", frozen=True):
    """A failed run is about to be replayed."""

    run_id: str
    at: float
    mode: str


class NotedReplay(msgspec.Struct, tag="replayed", frozen=True):
    """The generation that the answer named; None: there was no such answer, and why."""

    run_id: str
    at: float
    generation: int | None
    why: str = ""


class Cancelling(msgspec.Struct, tag="cancelling", frozen=True):
    """An open run is about to be cancelled."""

    run_id: str
    at: float


class NotedCancel(msgspec.Struct, tag="cancelled", frozen=True):
    """The state that the answer named; "": there was no such answer, and why."""

    run_id: str
    at: float
    state: str
    why: str = ""


class NotedPlan(msgspec.Struct, tag="planned", frozen=True):
    """A planned replay of these runs, each in its generation, was started, says the answer."""

    generations: dict[str, int]
    at: float


class Archived(msgspec.Struct, tag="archived", frozen=True):
    """These failed runs were archived, and that was answered."""

    run_ids: list[str]
    at: float


class Edited(msgspec.Struct, tag="edited", frozen=True):
    """A failed run's payload was edited, and that was answered with this new run."""

    run_id: str
    new_run_id: str
    at: float


Operated = NotedReplaying | NotedReplay | Cancelling | NotedCancel | NotedPlan | Archived | Edited
Line = Asked | Told | Unanswered | Operated
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Record:
    """Writes the record, inside `with`. Any thread may write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._thread = Thread(target=self._write, name="record", daemon=True)
        self.error: OSError | None = (
            None  # it could not be written, and proves nothing from then on
        )

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._file.close()

    def write(self, line: Line) -> Future[None]:
        """Done when the line is on disk."""
        done: Future[None] = Future()
        self._waiting.put((_encode(line) + b"\n", done))
        return done

    def _write(self) -> None:
        is_open = True
        while is_open:
            taken = [self._waiting.get()]
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            is_open = None not in taken
            lines = [entry for entry in taken if entry is not None]
            try:
                self._file.write(b"".join(line for line, _ in lines))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self.error = error
                for _, done in lines:
                    if done.set_running_or_notify_cancel():
                        done.set_exception(error)
            else:
                for _, done in lines:
                    if done.set_running_or_notify_cancel():
                        done.set_result(None)


def read_record(path: Path) -> Iterator[Line]:
    """The lines, in the order they were written."""
    with path.open("rb") as file:
        for line in file:
            yield _decode(line)
