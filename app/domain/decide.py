"""What becomes of a failed attempt: decided purely, written once."""

import re
from hashlib import blake2b
from traceback import extract_tb
from types import TracebackType

from app.domain.workflows import RetryPolicy

# What tells one failure from another of the same kind: quoted values, addresses of people, machines
# and memory, ids, and every word with a digit in it.
_VARIABLE_PARTS = re.compile(
    r"(?<!\w)'[^']*'|\"[^\"]*\"|\S+@\S+|\w+://\S+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\w*\d[\w.:+-]*"
)
# Code of others: ours, and what is installed. An author's failure is told by his own.
_OURS = __file__.rpartition("domain")[0]
_INSTALLED = re.compile(r"/(?:site|dist)-packages/|/lib/python\d|^<frozen ")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
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


def storable_text(text: str, chars_max: int) -> str:
    """`text` without what PostgreSQL cannot store (NUL, lone surrogates), cut if long."""
    text = _UNSTORABLE.sub("\ufffd", text)
    if len(text) <= chars_max:
        return text
    half = (chars_max - 30) // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"


def message_of(error: BaseException, chars_max: int) -> str:
    """The error's own text, storable; a class whose `str` fails has none."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the author's __str__ may raise anything
        text = f"(no message: {type(broken).__name__} in its __str__)"
    return storable_text(text, chars_max)


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
    own = [
        f for f in frames if not f.filename.startswith(_OURS) and not _INSTALLED.search(f.filename)
    ]
    places = [f"{f.filename.rpartition('/')[2]}:{f.name}" for f in own or frames[-1:]]
    return list(dict.fromkeys(reversed(places)))[:_FRAMES_MAX]
