"""Samples of how far everything is, taken while it runs: for the display and for the picture."""

import time
from collections.abc import Callable

import msgspec

from veltrix.prove.load.background import Background

LOOK_S = 0.25


class ProofSample(msgspec.Struct, frozen=True):
    """One look; None where the database did not answer."""

    at: float  # seconds since 1970
    sent: int
    accepted: int
    settled: int | None
    open: int | None


class Look(msgspec.Struct, frozen=True):
    """What a look finds out."""

    sent: int
    accepted: int
    settled: int | None
    open: int | None


class Watch(Background):
    """Looks every quarter of a second inside `with`, from a thread of its own."""

    def __init__(self, look: Callable[[], Look], show: Callable[[ProofSample], None]) -> None:
        super().__init__("watch")
        self._look, self._show = look, show
        self.samples: list[ProofSample] = []
        self.error: Exception | None = None  # the last look that failed

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                found = self._look()
                sample = ProofSample(
                    time.time(), found.sent, found.accepted, found.settled, found.open
                )
                self.samples.append(sample)
                self._show(sample)
            except Exception as error:  # noqa: BLE001 - a picture with a hole beats no verdict
                self.error = error
            # Looking costs the database something: never more than a tenth of the time.
            pause_s = max(LOOK_S, 10 * (time.monotonic() - began))
            if self._stop.wait(pause_s):
                return
