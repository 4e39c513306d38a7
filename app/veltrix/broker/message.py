"""What travels to a worker: a Celery message (protocol 2) whose arguments are run ids.

Of runs that are handed over as claimed it carries the events too, beside what Celery puts there.
Grouped by queue and workflow, because a message names one Celery task; at most one list of a worker
child each, because a message cannot be spread over workers (mechanics 16).
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from amqp.serialization import dumps

from veltrix.broker.handed import hand
from veltrix.domain.due import DueRun, Lease
from veltrix.settings.fields import Settings

ARGSREPR_CHARS_MAX = 1_000
# RabbitMQ takes no message with more (`max_message_size`). One of ours with as many runs as
# VELTRIX_LIST_RUNS_MAX may be has a fifth of it, and so have answers to `inspect`.
MESSAGE_BYTES_MAX = 1024 * 1024
# AMQP 0-9-1 property flags: content-type, content-encoding, headers, delivery-mode, message-id.
_START = 0xF080.to_bytes(2, "big") + dumps("ss", ["application/json", "utf-8"])
# Of events that one message carries; it has the rest of MESSAGE_BYTES_MAX for ids and headers.
HANDED_BYTES_MAX = 512 * 1024
HANDED = "veltrix"  # beside Celery's words in the third part of a body
# A quorum queue writes down all that it is given; a classic one need not: what it loses comes due.
_TRANSIENT = 1
_EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, gc=False, frozen=True):
    """One list of runs, encoded: `properties` are the AMQP property flags and list."""

    id: str
    queue: str
    workflow: str
    run_ids: list[str]
    properties: bytes
    body: bytes


class ListLimits(msgspec.Struct, frozen=True):
    """What one list of a worker child may hold."""

    runs_max: int
    runs_unmeasured: int
    bytes_max: int
    work_s: float

    def runs_of(self, occupied_s: float | None) -> int:
        """Runs in one list of a workflow that occupies a child for `occupied_s` per run.

        None: nobody has measured it yet.
        """
        if occupied_s is None:
            return min(self.runs_unmeasured, self.runs_max)
        if occupied_s * self.runs_max <= self.work_s:
            return self.runs_max
        return max(1, int(self.work_s / occupied_s))


def limits_of(settings: Settings) -> ListLimits:
    """What one list may hold, from the settings."""
    return ListLimits(
        runs_max=settings.list_runs_max,
        runs_unmeasured=settings.list_runs_unmeasured,
        bytes_max=settings.list_bytes_max,
        work_s=settings.list_work_s,
    )


def messages_for(
    runs: Iterable[DueRun],
    origin: str,
    limits: ListLimits,
    occupied_s: Mapping[str, float],
    key: bytes | None = None,
) -> list[Message]:
    """The messages that carry these runs, each run in exactly one; order within a workflow is kept.

    A run that must travel alone gets a message of its own. `occupied_s` is what a run of each
    measured workflow costs a child; `origin` names the relay. `key` signs what is handed over.
    """
    groups: dict[tuple[str, str, Lease | None], list[DueRun]] = {}
    messages = []
    for run in runs:
        if run.alone:
            messages.append(_message([run], origin, key))
        else:
            groups.setdefault((run.queue, run.workflow, run.lease), []).append(run)
    for (_, workflow, _), group in groups.items():
        runs_max = limits.runs_of(occupied_s.get(workflow))
        parts = _lists(group, runs_max, limits.bytes_max)
        messages.extend(_message(part, origin, key) for part in parts)
    return messages


def run_ids_of(messages: Iterable[Message]) -> list[str]:
    """All that they carry."""
    return [run_id for message in messages for run_id in message.run_ids]


def run_ids_in(body: bytes) -> list[str]:
    """The run ids a body of ours names; empty if it is not of that shape. Never raises."""
    try:
        (run_ids,), _, _ = msgspec.json.decode(body)
        if isinstance(run_ids, list) and all(_is_uuid(run_id) for run_id in run_ids):
            return run_ids
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError, RecursionError):
        pass
    return []


def without_events(body: bytes) -> bytes:
    """A body of ours without the events that it carries; any other as it is. Never raises."""
    try:
        args, kwargs, embed = msgspec.json.decode(body)
        if embed[HANDED]["events"]:
            embed[HANDED]["events"] = []
            return _encode([args, kwargs, embed])
    except (msgspec.MsgspecError, UnicodeError, ValueError, TypeError, LookupError, RecursionError):
        pass
    return body


def _is_uuid(value: object) -> bool:
    try:
        return isinstance(value, str) and len(value) == 36 and bool(UUID(value))
    except ValueError:
        return False


def _lists(runs: list[DueRun], runs_max: int, bytes_max: int) -> Iterator[list[DueRun]]:
    part: list[DueRun] = []
    part_bytes = packed_bytes = 0
    for run in runs:
        part_bytes += run.payload_bytes
        packed_bytes += len(run.packed)
        is_full = part_bytes > bytes_max or packed_bytes > HANDED_BYTES_MAX
        if part and (is_full or len(part) == runs_max):
            yield part
            part, part_bytes, packed_bytes = [], run.payload_bytes, len(run.packed)
        part.append(run)
    yield part


def _message(runs: list[DueRun], origin: str, key: bytes | None) -> Message:
    run_ids = [run.id for run in runs]
    first = runs[0]
    told = {
        "id": first.id,
        "root_id": first.id,
        "argsrepr": ",".join(run_ids)[:ARGSREPR_CHARS_MAX],
        "veltrix_bytes": sum(run.payload_bytes for run in runs),
        "veltrix_alone": first.alone,
    }
    embed: dict[str, Any] = _EMBED
    if first.lease is not None:
        told["veltrix_token"] = first.lease.token
        packed = [run.packed for run in runs if run.packed]
        embed = _EMBED | {HANDED: hand(first.lease, first.workflow, first.queue, packed, key)}
    headers = _common_headers(first.workflow, origin) + _encode_headers(told)
    return Message(
        first.id,
        first.queue,
        first.workflow,
        run_ids,
        b"".join(
            (_START, len(headers).to_bytes(4, "big"), headers, dumps("os", [_TRANSIENT, first.id]))
        ),
        _encode([[run_ids], {}, embed]),
    )


@lru_cache(maxsize=1_000)
def _common_headers(workflow: str, origin: str) -> bytes:
    """What the messages of a workflow all say: encoded for each, it took most of the time."""
    return _encode_headers(
        {
            "lang": "py",
            "task": workflow,
            "parent_id": None,
            "group": None,
            "kwargsrepr": "{}",
            "origin": origin,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "ignore_result": True,
        }
    )


def _encode_headers(headers: dict[str, Any]) -> bytes:
    """The inside of an AMQP table: without its length, so that two make one."""
    return bytes(dumps("F", [headers]))[4:]
