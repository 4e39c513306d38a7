"""Looks and findings in the database: what the watch writes, and apis and consoles read."""

import hashlib
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.doctor.examine import Finding, NotChecked
from veltrix.store.arrays import TextArray

GONE_SHOWN_MAX = 20
GONE_KEPT_S = 7 * 86_400.0
_QUOTED_OR_NUMBER = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d.,:]*")


class SeenFinding(msgspec.Struct, frozen=True):
    """A finding with its life. `gone_at` None: it is there."""

    key: str
    finding: Finding
    appeared_at: datetime
    seen_at: datetime
    gone_at: datetime | None


class DoctorLook(msgspec.Struct, frozen=True):
    """The last look. Not `is_watched`: no watch has looked for three of its intervals."""

    watcher: str
    looked_at: datetime
    is_watched: bool
    took_ms: int
    held: int
    not_checked: list[NotChecked]


class LookChange(msgspec.Struct, frozen=True):
    """What a look changed: findings that were not there before, and those that are no more."""

    appeared: list[SeenFinding]
    gone: list[SeenFinding]


_TAKE = """
insert into doctor_looks as l (id, watcher, looked_at, expires_at, took_ms, held, not_checked)
values (1, %(watcher)s, '-infinity', now() + %(hold_s)s * interval '1 second', 0, 0, '[]')
on conflict (id) do update
set watcher = excluded.watcher, expires_at = excluded.expires_at
where l.watcher = excluded.watcher or l.expires_at < now()
returning 1
"""
_LEAVE = "update doctor_looks set expires_at = now() where watcher = %(watcher)s"

_BEFORE = "select looked_at::text from doctor_looks where watcher = %(watcher)s for update"
_NOTE = """
update doctor_looks set looked_at = now(), took_ms = %(took_ms)s, held = %(held)s,
    not_checked = %(not_checked)s::json
where watcher = %(watcher)s
"""

# What was gone and is back is new: it is told again.
_SEE = """
insert into doctor_findings as f (key, finding, appeared_at, seen_at)
select key, finding, now(), now() from unnest(%(key)s, %(finding)s::json[]) as t(key, finding)
order by key
on conflict (key) do update
set finding = excluded.finding, seen_at = now(),
    appeared_at = case when f.gone_at is null then f.appeared_at else now() end,
    told_at = case when f.gone_at is null then f.told_at end,
    gone_at = null, gone_told_at = null
returning key, finding::text, appeared_at, seen_at, gone_at, appeared_at = seen_at
"""

# Not what could not be checked at this look; and what is missing once may be back at the next.
_GO = """
update doctor_findings set gone_at = now()
where gone_at is null and seen_at < %(before)s::timestamptz
    and not (finding ->> 'id' = any(%(unknown)s))
returning key, finding::text, appeared_at, seen_at, gone_at
"""

_COLUMNS = "key, finding::text, appeared_at, seen_at, gone_at"
_FORGET = "delete from doctor_findings where gone_at < now() - %(kept_s)s * interval '1 second'"
_THERE = f"select {_COLUMNS} from doctor_findings where gone_at is null"  # noqa: S608 - ours
_GONE = f"""
select {_COLUMNS} from doctor_findings where gone_at is not null
order by gone_at desc limit %(most)s
"""  # noqa: S608 - columns of our own
_LAST = """
select watcher, looked_at, expires_at > now(), took_ms, held, not_checked::text
from doctor_looks where looked_at > '-infinity'
"""
# One that came and went between two tries is told as it was: first that it came.
_UNTOLD = f"""
select {_COLUMNS}, told_at is null from doctor_findings
where told_at is null or gone_at is not null and gone_told_at is null
order by coalesce(gone_at, appeared_at) limit %(most)s
"""  # noqa: S608 - columns of our own
_TOLD = """
update doctor_findings set
    gone_told_at = case when told_at is null then gone_told_at else now() end,
    told_at = coalesce(told_at, now())
where key = %(key)s and appeared_at = %(appeared_at)s
"""


def take(tx: Connection, watcher: str, hold_s: float) -> bool:
    """Whether this watcher is the one that looks, for so long; another one's time must be over."""
    keys = {"watcher": watcher, "hold_s": hold_s}
    return tx.exec_driver_sql(_TAKE, keys).first() is not None


def leave(tx: Connection, watcher: str) -> None:
    """Let another one look at once."""
    tx.exec_driver_sql(_LEAVE, {"watcher": watcher})


def note(
    tx: Connection,
    watcher: str,
    findings: Sequence[Finding],
    not_checked: Sequence[NotChecked],
    *,
    held: int,
    took_ms: int,
) -> LookChange:
    """Write a look; what it changed. What two looks in a row did not see is gone.

    Not what this one could not check.

    Nothing is written by a watch whose turn another one has taken meanwhile.
    """
    before = tx.exec_driver_sql(_BEFORE, {"watcher": watcher}).scalar()
    if before is None:
        return LookChange([], [])
    by_key = {key_of(one): one for one in findings}
    keys: dict[str, Any] = {
        "watcher": watcher,
        "held": held,
        "took_ms": took_ms,
        "not_checked": msgspec.json.encode(not_checked).decode(),
        "key": TextArray(list(by_key)),
        "finding": TextArray([msgspec.json.encode(one).decode() for one in by_key.values()]),
        "before": before,
        "unknown": TextArray(sorted({one.id for one in not_checked})),
        "kept_s": GONE_KEPT_S,
    }
    tx.exec_driver_sql(_NOTE, keys)
    seen = tx.exec_driver_sql(_SEE, keys).all() if by_key else []
    gone = tx.exec_driver_sql(_GO, keys).all()
    tx.exec_driver_sql(_FORGET, keys)
    return LookChange([_seen(row[:5]) for row in seen if row[5]], [_seen(row) for row in gone])


def key_of(finding: Finding) -> str:
    """What stays the same of a finding from look to look: all but the numbers beside names."""
    text = _QUOTED_OR_NUMBER.sub(
        lambda found: found[0] if found[0][0] in "'\"" else "#", finding.found
    )
    digest = hashlib.blake2b(f"{finding.subject}\n{text}".encode(), digest_size=8)
    return f"{finding.id}-{digest.hexdigest()}"


def there(tx: Connection) -> list[SeenFinding]:
    """What was found and is not gone, the worst first."""
    found = [_seen(row) for row in tx.exec_driver_sql(_THERE)]
    return sorted(
        found,
        key=lambda one: (
            one.finding.accepted is not None,
            one.finding.severity.rank,
            one.finding.id,
            one.key,
        ),
    )


def gone(tx: Connection, most: int = GONE_SHOWN_MAX) -> list[SeenFinding]:
    """What went last, the newest first."""
    return [_seen(row) for row in tx.exec_driver_sql(_GONE, {"most": most})]


def last(tx: Connection) -> DoctorLook | None:
    """The last look; None: nobody has ever watched."""
    row = tx.exec_driver_sql(_LAST).first()
    if row is None:
        return None
    not_checked = msgspec.json.decode(row[5], type=list[NotChecked])
    watcher, looked_at, is_watched, took_ms, held, _ = row
    return DoctorLook(watcher, looked_at, is_watched, took_ms, held, not_checked)


def untold(tx: Connection, most: int) -> list[tuple[SeenFinding, bool]]:
    """Findings of which the webhook does not know: (finding, whether it is that it appeared)."""
    return [(_seen(row[:5]), row[5]) for row in tx.exec_driver_sql(_UNTOLD, {"most": most})]


def note_told(tx: Connection, told: Collection[SeenFinding]) -> None:
    """The webhook knows that these appeared or, where it knew that already, that they are gone."""
    for one in told:
        tx.exec_driver_sql(_TOLD, {"key": one.key, "appeared_at": one.appeared_at})


def _seen(row: Sequence[Any]) -> SeenFinding:
    key, finding, *times = row
    return SeenFinding(key, msgspec.json.decode(finding, type=Finding), *times)
