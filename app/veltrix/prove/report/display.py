"""What a person sees while a proof runs: how far it is, and each fault as it strikes."""

from threading import Lock
from types import TracebackType
from typing import Self

from rich.console import Console

from veltrix.dev.progress import DemoProgress
from veltrix.prove.report.samples import ProofSample


class Display:
    """On standard error, inside `with`; shown by one thread and spoken to by another."""

    def __init__(self, events: int) -> None:
        self._lock = Lock()
        self._is_open = True
        self._progress = DemoProgress(events, Console(stderr=True))
        self._settled = self._open = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def show(self, sample: ProofSample) -> None:
        """Where things are; while the database is away, where they were."""
        self._settled = self._settled if sample.settled is None else sample.settled
        self._open = self._open if sample.open is None else sample.open
        with self._lock:
            if self._is_open:
                self._progress.show(sample.accepted, self._settled, self._open)

    def say(self, line: str) -> None:
        """A line of its own."""
        with self._lock:
            self._progress.say(line)

    def close(self) -> None:
        """No more bar."""
        with self._lock:
            self._is_open = False
            self._progress.close()
