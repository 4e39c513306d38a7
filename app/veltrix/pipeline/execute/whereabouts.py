"""Where a child is in its list, told to whoever outlives it: a crash leaves no other trace."""

from typing import Protocol

from veltrix.pipeline.execute.coroutines.execution import PendingStep


class Whereabouts(Protocol):
    """What the engine says of the steps it runs. Called for every step: it has to be cheap."""

    def begin(self, step: PendingStep) -> None:
        """The main thread runs this step from now on."""

    def end(self) -> None:
        """The main thread runs no step."""

    def fly(self, step: PendingStep | None, flying: int) -> None:
        """So many async steps are under way, this one among them; None: nobody knows of one."""


class Untold:
    """Nobody is told."""

    def begin(self, step: PendingStep) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def fly(self, step: PendingStep | None, flying: int) -> None:
        """Nothing."""
