"""Troubles: what a process of this worker is stuck on, for `/readyz` and the metrics.

Files in the worker's private folder, one for each trouble of each process: the parent may have no
thread, its children come and go, and the health sidecar is a process of its own.
"""

import os
import time
from pathlib import Path

import msgspec

from veltrix import telemetry


class Trouble(msgspec.Struct, frozen=True):
    """Something that a process cannot do now. `stops_work`: runs wait until it can.

    `until` is when it is believed no longer, in monotonic seconds of this machine.
    """

    name: str
    detail: str
    pid: int
    stops_work: bool = True
    until: float | None = None


_decode = msgspec.json.Decoder(Trouble).decode
# Of a list that failed others have the runs: nobody may be stuck on it here for long.
_FADES_S = {"list": 30.0}


class Troubles:
    """The troubles of a worker's processes in `folder`, made before the fork.

    A process says its own with `set` and `clear`; what a dead process said is gone. Neither raises:
    a disk that is full is no reason to stand still. Both are cheap when nothing has changed, so a
    loop may say the same at every turn.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said: dict[str, Trouble] = {}
        self._unwritten: set[str] = set()  # said in the log, once
        folder.mkdir(exist_ok=True)

    def set(
        self, name: str, detail: str, *, stops_work: bool = True, fades_s: float | None = None
    ) -> None:
        """This process has the trouble `name` (a word), with one sentence of what and why.

        `stops_work`: the worker is not ready until it is cleared, or was not said for `fades_s`.
        """
        if fades_s is None:
            fades_s = _FADES_S.get(name)
        until = None if fades_s is None else time.monotonic() + fades_s
        trouble = Trouble(name, detail, os.getpid(), stops_work, until)
        if self._said.get(name) == trouble:
            return
        path = self._path(name)
        written = path.with_suffix(".new")
        try:
            written.write_bytes(msgspec.json.encode(trouble))
            written.replace(path)
        except OSError as error:
            self._say_unwritten(trouble, error)
        else:
            self._said[name] = trouble
            self._unwritten.discard(name)

    def clear(self, name: str) -> None:
        """This process does not have the trouble `name`, or no longer."""
        said = self._said.pop(name, None)
        if said is None or said.pid != os.getpid():
            return  # what the parent said before the fork is the parent's
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            self._said[name] = said
            self._say_unwritten(said, error)

    def read(self) -> list[Trouble]:
        """The troubles of all living processes, by name; those of dead ones are removed."""
        found = []
        for path in self._folder.glob("*.trouble"):
            try:
                trouble = _decode(path.read_bytes())
                if not _is_alive(trouble.pid):
                    path.unlink(missing_ok=True)
                elif trouble.until is None or time.monotonic() < trouble.until:
                    found.append(trouble)
            except FileNotFoundError:
                continue  # cleared meanwhile
        return sorted(found, key=lambda trouble: (trouble.name, trouble.pid))

    def _say_unwritten(self, trouble: Trouble, error: OSError) -> None:
        if trouble.name not in self._unwritten:
            self._unwritten.add(trouble.name)
            telemetry.logger("worker").warning(
                "trouble.unwritten", name=trouble.name, detail=trouble.detail, error=str(error)
            )

    def _path(self, name: str) -> Path:
        return self._folder / f"{os.getpid()}-{name}.trouble"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
