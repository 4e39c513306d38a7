"""What becomes of a failed attempt: decided purely, written once."""

import re
from hashlib import blake2b
from traceback import FrameSummary, extract_tb
from types import TracebackType

from app.domain.workflows import RetryPolicy

_VARIABLE_PARTS = re.compile(
    r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+|'[^']*'|\"[^\"]*\""
)
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_FRAMES_MAX = 30


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


def fingerprint(step: str, type_: str, message: str, traceback: TracebackType | None) -> str:
    """16 hex digits that equal failures share: step, type, message without variables, place."""
    last: FrameSummary | None = next(reversed(extract_tb(traceback)), None) if traceback else None
    place = f"{last.filename.rpartition('/')[2]}:{last.name}" if last else ""
    text = "\x1f".join((step, type_, _VARIABLE_PARTS.sub("#", message[:500]), place))
    return blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()
