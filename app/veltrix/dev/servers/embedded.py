"""What the servers of the embedded default have in common."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from veltrix.dev.children import Child, Leash


class EmbeddedServer(ABC):
    """A server in one folder; `with` it, or `start` and `stop` it.

    It ends with the process that started it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._leash = Leash(self.folder)
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its first process's id."""
        assert self._child is not None, "start() comes first"
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """It has been started and has not ended."""
        return self._child is not None and self._child.is_running

    @abstractmethod
    def start(self) -> None:
        """It can be used when this returns. `CannotStart` says what to do."""

    @abstractmethod
    def stop(self) -> None:
        """Nothing is left running."""
