"""How a child died and in which step, as its parent can tell."""

import re

import msgspec
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import EX_RECYCLE

from veltrix.store.crashes import Crash
from veltrix.worker.jobs import ReleaseJob
from veltrix.worker.parent.collector import InFlight
from veltrix.worker.parent.parts import Parent
from veltrix.worker.parent.silent import SilentChildren
from veltrix.worker.places import Place

_DEATHS = (WorkerLostError, Terminated, TimeLimitExceeded)  # of a child; all else it raised itself
_SAID = re.compile(r"prematurely: (?:signal|exitcode) (.+?) Job:")


class Death(msgspec.Struct):
    """A child ended: how, when (monotonic), and in which step, if that is known."""

    how: str
    at: float
    place: Place | None = None
    worker_id: str = ""
    is_recycled: bool = False  # it went between two jobs, as it should: this one it never began

    @property
    def message(self) -> str:
        """One sentence for the run."""
        place = self.place
        if place is None:
            return f"its worker process {self.how} outside of any step"
        message = f"its worker process {self.how} in step {place.step} at {place.position}"
        if place.flying > 1:
            message += f", or in one of the {place.flying - 1} other async steps under way"
        return message

    def crash_of(self, run_ids: list[str]) -> Crash | None:
        """What to keep of it with which of these runs; None: nobody knows which was it."""
        place = self.place
        if place is not None and place.run_id in run_ids:
            return Crash(
                run_id=place.run_id,
                message=self.message,
                position=place.position,
                step=place.step,
                began=place.began,
                took_ms=round((self.at - place.began) * 1000),
                arguments=place.arguments,
                worker_id=self.worker_id,
            )
        if len(run_ids) != 1 or place is not None:
            return None
        return Crash(run_id=run_ids[0], message=self.message, worker_id=self.worker_id)


def death_of(
    einfo: ExceptionInfo, pid: int | None, node: str, parent: Parent, silent: SilentChildren
) -> Death | None:
    """What the pool says of the child's death; None: it lives, and raised an error."""
    if not issubclass(einfo.type, _DEATHS):  # of the exception there is only a wrapping
        return None
    said = _SAID.search(str(einfo.exception))
    how = f"exited {said[1]}" if said is not None else f"ended: {einfo.type.__name__}"
    if said is not None and said[1] == str(EX_RECYCLE):
        return Death(how, parent.monotonic(), is_recycled=True)
    if silent.has_ended(pid):
        how += ", ended by its worker for giving no sign of life,"
    slot = None if pid is None else parent.stamps.slot_of(pid)
    place = None if slot is None else parent.places.read(slot)
    return Death(how, parent.monotonic(), place, f"{node}/{pid}")


def release_after(death: Death | None, in_flight: InFlight, due_in_s: float) -> ReleaseJob:
    """What frees the runs of a list whose child died; None: it raised an error, and lives."""
    run_ids = sorted({run_id for _, run_id in in_flight.runs})
    crash = None if death is None else death.crash_of(run_ids)
    token = in_flight.job.token
    return ReleaseJob(token, run_ids, due_in_s, death is not None, crash, in_flight.tokens)
