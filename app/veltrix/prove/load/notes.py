"""What workflows of prove write down beside the platform: that a step began, what a workflow saw.

Into files of the folder that VELTRIX_PROVE_EFFECTS names, if one is named. Each line is written by
one system call, so it is there whole or not at all, whatever dies next.
"""

import os
import tempfile
import time
from functools import cache
from pathlib import Path

import msgspec

from veltrix.domain.context import StepContext, step_context
from veltrix.settings.load import load_settings

EFFECTS_FILE = "effects"
SEEN_FILE = "seen"
NOWHERE = "-"  # the position of a step that was begun outside of any run


class Seen(msgspec.Struct, frozen=True):
    """What the run of the event with this sender's id saw at a point of its code."""

    id: str
    point: str
    value: str


_encode = msgspec.json.Encoder().encode


@cache
def _folder() -> Path | None:
    return load_settings().prove_effects


@cache
def _file(name: str) -> int | None:
    folder = _folder()
    if folder is None:
        return None
    return os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def note(key: str = "") -> StepContext:
    """A step begins: run, position, key, attempt, process, nanoseconds of the monotonic clock.

    `key`: what the step was told its idempotency key is, if not by its context.
    """
    context = step_context.get()
    assert context is not None
    _begin(context.run_id, context.position, key or context.idempotency_key, context.attempt)
    return context


def note_of(key: str) -> None:
    """The same, of a step that knows by an argument (the key of a step before it) whose it is."""
    context = step_context.get()
    if context is None:
        _begin(key.partition(":")[0], NOWHERE, key, 0)
    else:
        note()


def _begin(*words: object) -> None:
    file = _file(EFFECTS_FILE)
    if file is not None:
        line = " ".join(map(str, (*words, os.getpid(), time.monotonic_ns()))) + "\n"
        os.write(file, line.encode())


def saw(id_: str, point: str, value: object) -> None:
    """A workflow was given this here; each time its code is run it says so again."""
    file = _file(SEEN_FILE)
    if file is not None:
        os.write(file, _encode(Seen(id_, point, str(value))) + b"\n")


def is_first_time(context: StepContext) -> bool:
    """No process of this machine has been here: the mark outlives the one that is."""
    folder = _folder() or Path(tempfile.gettempdir())
    mark = folder / f"veltrix-prove-{context.run_id}-{context.position}"
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True
