"""What is open inside `with` and closed after it, however it ends."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Opened(ABC):
    """Ready inside `with`; nothing of it is left after it, nor when it could not be opened."""

    def __enter__(self) -> Self:
        try:
            self._make_ready()
        except BaseException:
            self._give_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Nothing of it runs any more; also of what was opened half-way."""

    @abstractmethod
    def _make_ready(self) -> None:
        """Open it, and wait until it can be used."""

    def _give_up(self) -> None:
        """It could not be opened: nobody waits for a good end."""
        self.close()
