"""Ids that sort by time and need no second key.

An event's id is a UUIDv7 (RFC 9562, section 5.7) whose last 24 bits are zero. The id of the run
that a workflow starts for an event is the event's id with those bits set from the workflow's name.
So an event starts a workflow once, however often it is tried: the primary key says so, without
another unique index (which time partitions could not have). The runs of an event are one range of
the key.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from threading import Lock
from typing import Annotated

import msgspec

Id = Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]  # of ours, as text

SUFFIX_HEX_LEN = 6
_SUFFIX_ZERO = "0" * SUFFIX_HEX_LEN
_SUFFIX_LAST = "f" * SUFFIX_HEX_LEN
_MS = timedelta(milliseconds=1)
_MS_PER_MINUTE = 60_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# Two looks at a clock may differ by so much; what is further back was set right.
BACK_MS_MAX = 1_000


class EventIds:
    """Makes event ids that do not go back in time within one process, unless its time was wrong.

    `random_bits(n)` must return n random bits. Thread-safe.
    """

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._lock = Lock()
        self._last_ms = 0

    def make(self, unix_ms: int, count: int) -> list[str]:
        """`count` ids of one millisecond (`unix_ms`, or the last one used if that is later).

        Later by a second at most: one wrong reading is forgotten with the next right one.
        """
        with self._lock:
            if unix_ms < self._last_ms <= unix_ms + BACK_MS_MAX:
                unix_ms = self._last_ms
            self._last_ms = unix_ms
        return [self._one(unix_ms) for _ in range(count)]

    def token(self) -> str:
        """A UUIDv4 (RFC 9562, section 5.4), for the runs of one list."""
        bits = self._random_bits(122)
        high = (bits >> 74 << 16) | 0x4000 | (bits >> 62 & 0xFFF)
        low = (0b10 << 62) | (bits & 0x3FFFFFFFFFFFFFFF)
        return _text(high, low)

    def _one(self, unix_ms: int) -> str:
        bits = self._random_bits(50)
        high = (unix_ms << 16) | 0x7000 | (bits >> 38)
        low = (0b10 << 62) | ((bits & 0x3FFFFFFFFF) << 24)
        return _text(high, low)


def _text(high: int, low: int) -> str:
    text = f"{high:016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def workflow_suffix(workflow: str) -> str:
    """The 24 bits, in hex, that a workflow's runs carry. Never zero: zero is the event itself."""
    suffix = blake2b(workflow.encode(), digest_size=3).hexdigest()
    return suffix if suffix != _SUFFIX_ZERO else "000001"


def run_id(event_id: str, suffix: str) -> str:
    """The id of the run of `event_id` for the workflow with this `workflow_suffix`."""
    return event_id[:-SUFFIX_HEX_LEN] + suffix


def event_id_of(run_id_: str) -> str:
    """The event that a run belongs to."""
    return run_id_[:-SUFFIX_HEX_LEN] + _SUFFIX_ZERO


def runs_range(event_id: str) -> tuple[str, str]:
    """First and last possible run id of an event, for a range scan of the primary key."""
    return event_id, event_id[:-SUFFIX_HEX_LEN] + _SUFFIX_LAST


def unix_ms_of(id_: str) -> int:
    """Milliseconds since 1970 at which the event of this event or run id was accepted."""
    return int(id_[:8] + id_[9:13], 16)


def minute_of(id_: str) -> int:
    """The minute of acceptance (minutes since 1970): the key of the books."""
    return unix_ms_of(id_) // _MS_PER_MINUTE


def first_id_of_minute(minute: int) -> str:
    """A bound: every id of this minute is greater than or equal to it, every earlier one less."""
    return _first_id(minute * _MS_PER_MINUTE)


def first_id_at(moment: datetime) -> str:
    """A bound: every id of what is accepted from this moment on is greater than or equal to it.

    Ids tell milliseconds apart, so it is that of the millisecond that the moment is in.
    """
    return _first_id(max(0, (moment - _EPOCH) // _MS))


def _first_id(unix_ms: int) -> str:
    ms = f"{unix_ms:012x}"
    return f"{ms[:8]}-{ms[8:]}-0000-0000-000000000000"
