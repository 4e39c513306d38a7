"""What the parent asks of a child, and what it is told back; packed to cross the pipe."""

from typing import Any

import msgspec

from veltrix.domain.dead_letters import DeadLetter
from veltrix.store.crashes import Crash


class ListJob(msgspec.Struct, tag="list"):
    """Claim, execute and settle these runs under `token`: (run id, delivery id) pairs.

    `letters` are the messages, by delivery id, that name a task this worker does not know: if none
    of their runs exists they become dead letters. `handed` is what messages of runs that are handed
    over as claimed carry, by delivery id; the runs in `plain` are claimed all the same: somebody
    had them before. `is_again`: this very child had, and what it said of them is taken back.
    """

    token: str
    deliveries: list[tuple[str, str]]
    letters: dict[str, DeadLetter] = {}
    handed: dict[str, bytes] = {}
    plain: list[str] = []
    is_again: bool = False

    @property
    def run_ids(self) -> list[str]:
        """The runs of the list."""
        return [run_id for run_id, _ in self.deliveries]


class ReleaseJob(msgspec.Struct, tag="release"):
    """The child that held `token` died: free its runs, each alone from now on.

    `tokens` are those on the runs that it had as claimed.

    Due in `due_in_s` at the latest, if nobody has taken them up before. Not `is_death`: the child
    lives and could not go on with them, which is no fault of theirs. `crash` is kept with the run
    that it was in, if one is known.
    """

    token: str
    run_ids: list[str]
    due_in_s: float
    is_death: bool = True
    crash: Crash | None = None
    tokens: list[str] = []


class LetterJob(msgspec.Struct, tag="letter"):
    """Make these messages dead-letter rows."""

    letters: list[DeadLetter]


class RegisterJob(msgspec.Struct, tag="register"):
    """Write the subscriptions of this worker's workflows."""


Job = ListJob | ReleaseJob | LetterJob | RegisterJob


class ListReport(msgspec.Struct):
    """What became of each run of a list, and how long its runs occupied the child."""

    outcomes: dict[str, str]  # run id -> state, or "lost", or "absent" (not claimed)
    occupied: dict[str, tuple[float, int]]  # workflow -> (seconds, runs)


_job_decoder: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
_report_decoder = msgspec.msgpack.Decoder(ListReport)


def pack(value: Any) -> bytes:
    """The bytes that cross the pipe."""
    return msgspec.msgpack.encode(value)


def unpack_job(packed: bytes) -> Job:
    """A job from its bytes."""
    return _job_decoder.decode(packed)


def unpack_report(packed: bytes) -> ListReport:
    """A list's report from its bytes."""
    return _report_decoder.decode(packed)
