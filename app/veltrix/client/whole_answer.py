"""The end of an answer that comes a piece at a time: a timeout is of each, and never strikes."""

from collections.abc import Callable
from threading import Timer
from types import TracebackType
from typing import Self


class WholeAnswer:
    """In the block `hang_up` is called when it has lasted so long; `is_late` then.

    From another thread: it ends what waits for the next piece, which comes or times out.
    """

    def __init__(self, seconds: float, hang_up: Callable[[], object]) -> None:
        self.is_late = False
        self._hang_up = hang_up
        self._timer = Timer(seconds, self._strike)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    def _strike(self) -> None:
        self.is_late = True
        self._hang_up()
