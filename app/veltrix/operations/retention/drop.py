"""Dropping what policies let go: a part of the ledger after the other, each in steps.

copying  -> what stays of the part is copied beside it; whatever changes meanwhile is noted
swapped  -> in one short transaction the copy takes the part's place: the rest is not seen any more
counted  -> what left is in the books (`dropped`), so that counters = rows + dropped
archived -> it is in an archive, read again and compared with the books, if one was asked for
lined    -> a line of each event and run is kept
freed    -> the old tables are gone

Whoever dies in it leaves a drop that is gone on with by the next call. Between `swapped` and
`counted` the part's minutes are not recounted: their rows are in neither place.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from veltrix.access.audit import Audited, append
from veltrix.archive.files import go_on
from veltrix.archive.write import write_part
from veltrix.domain.ids import first_id_at, first_id_of_minute
from veltrix.operations.retention import drop_rows, lines
from veltrix.operations.retention.drop_rows import KEYS, DropRow, LedgerPart
from veltrix.operations.retention.leaving_rows import counts
from veltrix.operations.retention.policies import read
from veltrix.operations.retention.rules import DAY_S, PolicyMap, by_subject, shortest_s
from veltrix.store.history.dropped_rows import IdBounds, note_dropped
from veltrix.store.transactions import (
    is_locked,
    is_transient,
    open_autocommit,
    retry_transient,
    transaction,
)
from veltrix.telemetry import logger

log = logger("retention")

LOCK_MS, PAUSE_S, TRIES_MAX = 200, 0.5, 600
SLICE_MINUTES, PAGE = 30, 1_000
TOUCHED_MAX = 100  # that are copied again while everybody waits
FREE_PAUSE_S = 0.2
WORTH = 0.5  # of a part's events must be able to leave, or it is left for later

Tell = Callable[[str], object]


class DropHeldUp(Exception):
    """Others held a lock each time; the message says on what. The drop can be gone on with."""


class Leaving(msgspec.Struct, frozen=True):
    """A part of the ledger, and how many of its events may leave or stay."""

    part: str
    leaving: int
    staying: int


def drop_next(
    engine: Engine,
    *,
    author: str,
    archive: Path | None = None,
    tell: Tell = lambda _step: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> DropRow | None:
    """Let the oldest part go of which half may leave, or go on with a drop that was not ended.

    The drop as it ended, None: there is nothing to drop. `is_stopped` ends it after a step; it is
    gone on with later. For the tables' owner, one at a time. Raises DropHeldUp, and what the
    archive raises.
    """
    with open_autocommit(engine) as tx:
        tx.exec_driver_sql("set statement_timeout = 0")
        if not drop_rows.lock_drops(tx):  # two would copy into, and swap, each other's tables
            raise DropHeldUp("another drop is at work; this one is left to it")
        try:
            return _drop(engine, tx, author, archive, tell, is_stopped)
        finally:
            tx.exec_driver_sql(f"select pg_advisory_unlock({drop_rows.DROPS_LOCK})")


def _drop(
    engine: Engine,
    tx: Connection,
    author: str,
    archive: Path | None,
    tell: Tell,
    is_stopped: Callable[[], bool],
) -> DropRow | None:
    drop = drop_rows.unfinished(tx)
    if drop is None:
        policies, now = _in_force(tx)
        part = _due(tx, policies, now, tell)
        if part is None:
            return None
        drop = drop_rows.begin(tx, part, author, None if archive is None else str(archive))
        _audit(engine, drop, "retention.drop")
    else:
        tell(f"{drop.name}: going on, it is {drop.state}")
    while drop.state != "freed" and not is_stopped():
        drop = _STEPS[drop.state](engine, drop, tell)
    return drop


def due(engine: Engine, tell: Tell = lambda _step: None) -> Leaving | None:
    """The part that `drop_next` would begin with; None: there is none."""
    with open_autocommit(engine) as tx:
        policies, now = _in_force(tx)
        part = _due(tx, policies, now, tell)
        return None if part is None else _judge(tx, part, policies, now)


def forget_old(engine: Engine, tell: Tell = lambda _step: None) -> None:
    """Forget identities of what left long ago, and lines that no policy keeps any more."""
    with open_autocommit(engine) as tx:
        while identities := lines.forget_identities(tx):
            tell(f"{identities:,} identities of what left are forgotten")
        policies, now = _in_force(tx)
        for part in lines.drop_old(tx, policies, now):
            tell(f"{part}: old lines are dropped")


def _in_force(tx: Connection) -> tuple[PolicyMap, datetime]:
    now: datetime = tx.exec_driver_sql("select now()").scalar_one()
    return by_subject(read(tx)), now


def _due(tx: Connection, policies: PolicyMap, now: datetime, tell: Tell) -> LedgerPart | None:
    shortest = shortest_s(policies)
    if shortest is None:
        return None
    young = first_id_at(now - timedelta(seconds=shortest))
    for part in drop_rows.parts(tx):
        if part.end_id > young:
            break
        found = _judge(tx, part, policies, now)
        tell(f"{part.name}: {found.leaving:,} events may leave, {found.staying:,} stay")
        if found.leaving and found.leaving >= WORTH * (found.leaving + found.staying):
            return part
    return None


def _judge(tx: Connection, part: LedgerPart, policies: PolicyMap, now: datetime) -> Leaving:
    leaving = staying = 0
    for minute, end in _slices(part):
        for one in counts(tx, policies, now, minute, end):
            if one.stays is None:
                leaving += one.events
            else:
                staying += one.events
    return Leaving(part.name, leaving, staying)


def _slices(part: LedgerPart) -> list[tuple[int, int]]:
    return [
        (minute, min(minute + SLICE_MINUTES, part.end_minute))
        for minute in range(part.first_minute, part.end_minute, SLICE_MINUTES)
    ]


# Copying


def _copy(engine: Engine, drop: DropRow, tell: Tell) -> DropRow:
    """What stays is beside the part, and has its place; nothing but that is seen from then on."""
    _uncopied(engine, drop)
    with open_autocommit(engine) as tx:
        tx.exec_driver_sql("set statement_timeout = 0")
        while retry_transient(lambda: drop_rows.place_ended(tx, drop, PAGE)):
            pass
        policies, now = _in_force(tx)
        total = 0
        for minute, end in _slices(drop):
            total += drop_rows.copy(tx, drop, policies, now, minute, end)
        tell(f"{drop.name}: {total:,} events stay, and are copied")
        while not _is_swapped(engine, tx, drop):
            pass  # what changed is copied again first
    tell(f"{drop.name}: out of sight")
    return _read(engine)


def _is_swapped(engine: Engine, tx: Connection, drop: DropRow) -> bool:
    for _ in range(TRIES_MAX):
        touched = {*drop_rows.take_touched(tx, PAGE), *drop_rows.undone(tx, drop)}
        if not touched:
            break
        drop_rows.copy_again(tx, drop, sorted(touched))
    try:
        _again(f"the part {drop.name}", lambda: _swap(engine, drop))
    except _TooMany:
        return False
    return True


def _uncopied(engine: Engine, drop: DropRow) -> None:
    """Tables beside the part, empty, and triggers that note what changes in it from here on."""

    def prepare() -> None:
        with transaction(engine) as tx:
            _lock_soon(tx)
            for whole, key in KEYS.items():
                table = drop.table(whole)
                tx.exec_driver_sql(f"drop table if exists {table}_kept")
                tx.exec_driver_sql(f"create table {table}_kept (like {table} including all)")
                tx.exec_driver_sql(
                    f"alter table {table}_kept add constraint {table}_bounds check ("
                    f"{key} is not null and {key} >= '{drop.first_id}' and {key} < '{drop.end_id}')"
                )
                tx.exec_driver_sql(f"drop trigger if exists retention_touched on {table}")
                tx.exec_driver_sql(
                    f"create trigger retention_touched after insert or update or delete on {table}"
                    f" for each row execute function note_touched('{key}')"
                )
            tx.exec_driver_sql("delete from retention_touched")

    _again(f"the tables of part {drop.name}", prepare)


def _swap(engine: Engine, drop: DropRow) -> None:
    """Milliseconds in which everybody waits: names and bounds change, and a few rows."""
    with transaction(engine) as tx:
        _lock_soon(tx)
        for whole in KEYS:
            tx.exec_driver_sql(f"lock table only {whole} in access exclusive mode")
        for whole in KEYS:
            tx.exec_driver_sql(f"lock table {drop.table(whole)} in access exclusive mode")
        tx.exec_driver_sql("lock table runs_failed in share row exclusive mode")
        touched = {*drop_rows.take_touched(tx, 10 * PAGE), *drop_rows.undone(tx, drop)}
        if len(touched) > TOUCHED_MAX:
            raise _TooMany
        if touched:
            drop_rows.copy_again(tx, drop, sorted(touched))
        stays = drop_rows.count_kept(tx, drop)
        for whole in KEYS:
            _swap_table(tx, drop, whole, has_rows=bool(stays))
        drop_rows.take_failed(tx, drop, has_rows=bool(stays))
        drop_rows.kept(tx, drop, stays)
        size = drop_rows.size(tx, [drop.left(whole) for whole in KEYS])
        drop_rows.step(tx, drop, "swapped", size=size)


class _TooMany(Exception):
    """So much changed that it is copied again first, while nobody waits."""


def _swap_table(tx: Connection, drop: DropRow, whole: str, *, has_rows: bool) -> None:
    table, left = drop.table(whole), drop.left(whole)
    tx.exec_driver_sql(f"alter table {whole} detach partition {table}")
    tx.exec_driver_sql(f"drop trigger retention_touched on {table}")
    tx.exec_driver_sql(f"alter table {table} rename to {left}")
    if has_rows:
        tx.exec_driver_sql(f"alter table {table}_kept rename to {table}")
        tx.exec_driver_sql(
            f"alter table {whole} attach partition {table} for values from ({drop.low})"
            f" to ('{drop.end_id}')"
        )
        tx.exec_driver_sql(f"alter table {table} drop constraint {table}_bounds")
    else:
        tx.exec_driver_sql(f"drop table {table}_kept")


# What follows has time


def _count(engine: Engine, drop: DropRow, tell: Tell) -> DropRow:
    events = 0
    with transaction(engine) as tx:
        tx.exec_driver_sql("set local statement_timeout = 0")
        for minute, end in _slices(drop):
            bounds = IdBounds(first_id_of_minute(minute), first_id_of_minute(end))
            rows = note_dropped(tx, drop.leaving(), drop.id, bounds)
            events += sum(row.accepted for row in rows)
        drop_rows.step(tx, drop, "counted", left=events)
    tell(f"{drop.name}: {events:,} events that left are in the books")
    return _read(engine)


def _archive(engine: Engine, drop: DropRow, tell: Tell) -> DropRow:
    if drop.archive is not None:
        for day in _days(drop):
            part = write_part(
                engine,
                Path(drop.archive),
                day,
                relations=drop.leaving(),
                drop_id=drop.id,
                show=go_on,
            )
            tell(f"{drop.name}: {day} is archived as {part.name}")
    _step(engine, drop, "archived")
    return _read(engine)


def _days(drop: DropRow) -> list[date]:
    first = drop.first_minute * 60 // DAY_S
    end = (drop.end_minute * 60 - 1) // DAY_S
    return [datetime.fromtimestamp(n * DAY_S, UTC).date() for n in range(first, end + 1)]


def _line(engine: Engine, drop: DropRow, tell: Tell) -> DropRow:
    with open_autocommit(engine) as tx:
        tx.exec_driver_sql("set statement_timeout = 0")
        written = lines.write(tx, drop, _slices(drop))
    with transaction(engine) as tx:
        tx.exec_driver_sql("set local statement_timeout = 0")
        lines.place(tx, drop)
        drop_rows.step(tx, drop, "lined")
    tell(f"{drop.name}: {written:,} lines of it are kept")
    return _read(engine)


def _free(engine: Engine, drop: DropRow, tell: Tell) -> DropRow:
    """Indexes, then tables, each by itself: freeing files is what others feel."""
    pause = Event()  # that nobody sets
    with open_autocommit(engine) as tx:
        tx.exec_driver_sql("set statement_timeout = 0")
        for whole in KEYS:
            for statement in drop_rows.freeing(tx, drop.left(whole)):
                tx.exec_driver_sql(statement)
                pause.wait(FREE_PAUSE_S)
    _step(engine, drop, "freed")
    tell(f"{drop.name}: {drop.bytes / 2**20:,.0f} MiB are free")
    log.info("part.dropped", part=drop.name, events=drop.events_left, kept=drop.events_kept)
    with open_autocommit(engine) as tx:
        return drop_rows.latest(tx, 1)[0]


_STEPS: dict[str, Callable[[Engine, DropRow, Tell], DropRow]] = {
    "copying": _copy,
    "swapped": _count,
    "counted": _archive,
    "archived": _line,
    "lined": _free,
}


def _step(engine: Engine, drop: DropRow, to: str) -> None:
    with transaction(engine) as tx:
        drop_rows.step(tx, drop, to)


def _read(engine: Engine) -> DropRow:
    with open_autocommit(engine) as tx:
        found = drop_rows.unfinished(tx)
    assert found is not None
    return found


def _lock_soon(tx: Connection) -> None:
    tx.exec_driver_sql(f"set local lock_timeout = '{LOCK_MS}ms'")


def _audit(engine: Engine, drop: DropRow, action: str) -> None:
    request = {"part": drop.name, "first_id": drop.first_id, "end_id": drop.end_id}
    row = Audited(
        author=drop.author,
        action=action,
        reason="the policies in force",
        target="retention",
        target_id=drop.id,
        request=request | {"archive": drop.archive},
    )
    with transaction(engine) as tx:
        append(tx, [row])


def _again(what: str, do: Callable[[], object]) -> None:
    """Do it, again as long as another session holds a lock. Raises DropHeldUp."""
    pause = Event()  # that nobody sets
    for _ in range(TRIES_MAX):
        try:
            do()
        except DBAPIError as error:
            if not (is_locked(error) or is_transient(error)):
                raise
            pause.wait(PAUSE_S)
        else:
            return
    raise DropHeldUp(
        f"other sessions held {what} for {TRIES_MAX * PAUSE_S:.0f} s; look for long transactions"
        " in pg_stat_activity, and run `veltrix retention drop` again: it goes on"
    )
