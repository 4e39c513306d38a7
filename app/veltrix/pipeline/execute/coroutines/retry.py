"""What becomes of a failed attempt: decided purely, written once."""

import re
from collections.abc import Callable
from hashlib import blake2b
from traceback import extract_tb, format_exception, format_tb
from types import TracebackType
from typing import NamedTuple

from veltrix.authoring.flow import type_and_message
from veltrix.authoring.steps import RetryPolicy
from veltrix.domain.text import storable_text

# What tells one failure from another of the same kind: quoted values, addresses of people, machines
# and memory, ids, and every word with a digit in it.
_VARIABLE_PARTS = re.compile(
    r"(?<!\w)'[^']*'|\"[^\"]*\"|\S+@\S+|\w+://\S+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\w*\d[\w.:+-]*"
)
# Code of others: ours, and what is installed. An author's failure is told by his own.
_OURS = __file__.rpartition("pipeline")[0]
_INSTALLED = re.compile(r"/(?:site|dist)-packages/|/lib/python\d|^<frozen ")
_FRAMES_MAX = 8
_MESSAGE_CHARS_MAX = 500


def retry_delay_s(
    policy: RetryPolicy, attempt: int, jitter: float, *, is_final: bool = False
) -> float | None:
    """Seconds until the attempt after `attempt` (1 is the first), or None if none follows.

    Exponential back-off with equal jitter: between half and all of the nominal pause, by `jitter`
    in [0, 1) (source: AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    if is_final or attempt > policy.retries:
        return None
    try:
        nominal = policy.backoff_s * policy.backoff_factor ** (attempt - 1)
    except OverflowError:
        nominal = policy.backoff_s_max
    return min(nominal, policy.backoff_s_max) * (0.5 + jitter / 2)


class Described(NamedTuple):
    """An exception as it is kept: storable texts, and what tells it from others."""

    type: str
    message: str
    traceback: str
    fingerprint: str


def described(
    error: BaseException, workflow: str, step: str, chars_max: int, type_: str | None = None
) -> Described:
    """What can be said of an error, whatever its class does when it is asked. Never raises.

    `type_` is what it is called instead of its class.
    """
    name, text = type_and_message(error)
    name, message = storable_text(type_ or name, 200), storable_text(text, chars_max)
    traceback = _traceback_of(error)
    trace = storable_text(_traceback_text(error, traceback, name, message), chars_max)
    return Described(name, message, trace, fingerprint(workflow, step, name, message, traceback))


# Not as an attribute of the error: its class may make anything of that.
_traceback_of: Callable[[BaseException], TracebackType | None]
_traceback_of = vars(BaseException)["__traceback__"].__get__


def _traceback_text(
    error: BaseException, traceback: TracebackType | None, name: str, message: str
) -> str:
    if traceback is None:
        return ""
    try:
        return "".join(format_exception(error))
    except BaseException as broken:  # noqa: BLE001 - it asks for attributes, and a proxy may raise
        said = f"{name}: {message}\n(cut short: {type(broken).__name__} while it was described)\n"
        return "Traceback (most recent call last):\n" + "".join(format_tb(traceback)) + said


def is_ours(filename: str) -> bool:
    """Code of the platform."""
    return filename.startswith(_OURS)


def is_authors(filename: str) -> bool:
    """Code of the author, neither ours nor installed."""
    return not is_ours(filename) and not _INSTALLED.search(filename)


def fingerprint(
    workflow: str, step: str, type_: str, message: str, traceback: TracebackType | None
) -> str:
    """16 hex digits that equal failures share, whichever run, machine or version they happened in.

    Made of workflow, step, exception type, the first line of the message without its variable
    parts, and the innermost functions of the author's code, without line numbers.
    """
    first_line = message[:_MESSAGE_CHARS_MAX].partition("\n")[0]
    text = _VARIABLE_PARTS.sub("#", first_line)
    parts = (workflow, step, type_, " ".join(text.split()), *_places(traceback))
    return blake2b("\x1f".join(parts).encode(errors="replace"), digest_size=8).hexdigest()


def _places(traceback: TracebackType | None) -> list[str]:
    """`file:function` of the innermost frames of the author; of any, if there is none of his.

    A function that calls itself counts once, however deep it was.
    """
    frames = list(extract_tb(traceback)) if traceback is not None else []
    own = [f for f in frames if is_authors(f.filename)]
    places = [f"{f.filename.rpartition('/')[2]}:{f.name}" for f in own or frames[-1:]]
    return list(dict.fromkeys(reversed(places)))[:_FRAMES_MAX]
