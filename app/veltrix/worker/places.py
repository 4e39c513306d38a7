"""Which step each child runs, in shared memory: the parent reads it when the child has died.

A slot per child, the same as its stamp's: half of it for the main thread, half for async steps. It
is written at the begin and end of every step, with no system call, and read only after a death.
"""

import mmap
from pathlib import Path

import msgspec

from veltrix.pipeline.execute.coroutines.execution import PendingStep
from veltrix.worker.stamps import SLOTS_MAX

_HALF = 2_048
_SLOT = 2 * _HALF
_HEADER = 8  # the length of what follows; 0: nothing
_BYTES_MAX = _HALF - _HEADER
_CUT_CHARS = 200


class Place(msgspec.Struct, array_like=True):
    """A step that a child ran when it died. `began` is monotonic, `flying` how many async ones."""

    run_id: str
    position: str
    step: str
    attempt: int
    began: float
    arguments: str | None
    flying: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Place)


class Places:
    """The memory, as the parent sees it. Made before the fork."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(_SLOT * SLOTS_MAX)  # sparse: only slots that are used take memory
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), _SLOT * SLOTS_MAX)
        self.lengths = memoryview(self.memory).cast("q")

    def of(self, slot: int) -> "ChildPlace":
        """For a child: where it says what it does. Nothing is said yet."""
        return ChildPlace(self, slot)

    def read(self, slot: int) -> Place | None:
        """The step that the child of this slot was in; None: in none that is known."""
        return self._half(2 * slot) or self._half(2 * slot + 1)

    def _half(self, half: int) -> Place | None:
        start = half * _HALF
        length = self.lengths[start // 8]
        if not 0 < length <= _BYTES_MAX:
            return None
        try:
            return _decoder.decode(self.memory[start + _HEADER : start + _HEADER + length])
        except msgspec.DecodeError:
            return None  # it died while it wrote


class ChildPlace:
    """What one child says of itself (`Whereabouts`)."""

    def __init__(self, places: Places, slot: int) -> None:
        self._memory, self._lengths = places.memory, places.lengths
        self._main, self._loop = 2 * slot * _HALF, (2 * slot + 1) * _HALF
        self._main_length = self._main // 8
        self._lengths[self._main_length] = self._lengths[self._loop // 8] = 0

    def begin(self, step: PendingStep) -> None:
        """The main thread runs this step from now on."""
        self._write(self._main, step, 0)

    def end(self) -> None:
        """The main thread runs no step."""
        self._lengths[self._main_length] = 0

    def fly(self, step: PendingStep | None, flying: int) -> None:
        """So many async steps are under way, this one among them; None: nobody knows of one."""
        if step is None:
            self._lengths[self._loop // 8] = 0
        else:
            self._write(self._loop, step, flying)

    def _write(self, start: int, step: PendingStep, flying: int) -> None:
        run_id, name, arguments = step.execution.claim.run_id, step.call.step.name, step.arguments
        told = (run_id, step.position, name, step.attempt, step.started, arguments, flying)
        encoded = _encode(told)
        if len(encoded) > _BYTES_MAX:
            encoded = _encode(
                (
                    run_id,
                    step.position[:_CUT_CHARS],
                    name[:_CUT_CHARS],
                    step.attempt,
                    step.started,
                    f"{arguments[:_CUT_CHARS]}…" if arguments else None,
                    flying,
                )
            )
        # The length last: what is torn by a death is not read.
        self._lengths[start // 8] = 0
        self._memory[start + _HEADER : start + _HEADER + len(encoded)] = encoded
        self._lengths[start // 8] = len(encoded)
