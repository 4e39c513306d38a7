"""Failure groups: kept current beside the path, recounted from rows, and what people decide."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access.audit import Audited, append
from veltrix.domain.failure_groups import RUN_KINDS, GroupKind, GroupState
from veltrix.store import failure_deltas
from veltrix.store.failure_deltas import SHARED_GROUP, Folded, Miscount
from veltrix.store.transactions import open_autocommit, retry_transient, transaction
from veltrix.telemetry import groups_miscounted, logger

SAID_MAX = 20  # of the groups that one fold opened or saw again, each by a line of its own

log = logger("groups")
T = TypeVar("T")


class Moved(msgspec.Struct, frozen=True):
    """The group is in this state now."""

    id: str
    state: GroupState


class NotMoved(msgspec.Struct, frozen=True):
    """The group is in a state from which it cannot come there; None: there is no such group."""

    id: str
    state: GroupState | None
    by: str | None = None


class NoVersion(NotMoved, frozen=True, kw_only=True):
    """What is in the group never came to any code, so it is mended in no version of any."""

    kind: GroupKind

    def __str__(self) -> str:
        return (
            f"group {self.id} is of kind {self.kind}, which comes to no code and is mended in no"
            " version of it: resolve it without one; nothing was done"
        )


class Noted(msgspec.Struct, frozen=True):
    """The note is kept under this id."""

    id: str
    note: int


def fold_groups_once(engine: Engine, list_max: int = 10_000) -> int:
    """Move up to `list_max` deltas into their groups; how many (0: none, or another folds).

    One transaction: a failure is counted once, by whichever process, whenever one dies.
    """

    def _fold() -> Folded:
        with open_autocommit(engine) as look:
            if not failure_deltas.has_deltas(look):
                return Folded()
        with transaction(engine, snapshot=True) as tx:
            return failure_deltas.fold(tx, list_max) if failure_deltas.lock_groups(tx) else Folded()

    folded = retry_transient(_fold)
    for group_id in folded.opened[:SAID_MAX]:
        log.warning("group.opened", group=group_id)
    for group_id in folded.regressed[:SAID_MAX]:
        log.error("group.regressed", group=group_id)
    if more := len(folded.opened[SAID_MAX:]) + len(folded.regressed[SAID_MAX:]):
        log.warning("groups.more", groups=more, see="veltrix failures list --order first_seen")
    if SHARED_GROUP in folded.opened:
        log.error(
            "groups.unrouted_full",
            group=SHARED_GROUP,
            cure="who sends so many sources or types that nobody subscribes to? if they are meant,"
            " raise VELTRIX_UNROUTED_GROUPS_MAX",
        )
    return folded.deltas


def check_groups(
    engine: Engine, *, is_corrected: bool = False, is_patient: bool = True
) -> list[Miscount]:
    """The groups whose counts are not those of the rows, in one snapshot; empty: all agree.

    `is_corrected` writes what makes them agree; of several processes one after the other does, or,
    where it is not `is_patient`, this one leaves it to the one that is at it. Failures from before
    there were groups are found, and taken in, the same way.
    """

    def _check() -> list[Miscount] | None:
        with transaction(engine, snapshot=True) as tx:
            if is_corrected and not failure_deltas.take_turn(tx, is_patient=is_patient):
                return None
            found = failure_deltas.miscounts(tx)
            if is_corrected and found:
                failure_deltas.correct(tx, found)
            return found

    found = retry_transient(_check)
    if found is None:
        return []
    groups_miscounted.set(sum(not one.is_new for one in found))
    return found


def resolve(
    engine: Engine, group_id: str, version: str | None, reason: str, author: str
) -> Moved | NotMoved:
    """The group is resolved, in this version of the code: a later failure of it regresses.

    Without a version any later failure does. A group that is not of runs takes none: NoVersion.
    """
    return _move(engine, group_id, GroupState.RESOLVED, "group.resolve", reason, author, version)


def ignore(engine: Engine, group_id: str, reason: str, author: str) -> Moved | NotMoved:
    """The group is ignored: still counted, and in no default list."""
    return _move(engine, group_id, GroupState.IGNORED, "group.ignore", reason, author)


def reopen(engine: Engine, group_id: str, reason: str, author: str) -> Moved | NotMoved:
    """The group is open again."""
    return _move(engine, group_id, GroupState.OPEN, "group.reopen", reason, author)


def note(engine: Engine, group_id: str, text: str, author: str) -> Noted | NotMoved:
    """The text is kept beside the group, with its author, for ever."""

    def _note(tx: Connection) -> Noted | NotMoved:
        written = failure_deltas.note(tx, group_id, author, text)
        return NotMoved(group_id, None) if written is None else Noted(group_id, written)

    return _audited(engine, group_id, "group.note", text, author, {}, _note)


def _move(
    engine: Engine,
    group_id: str,
    to: GroupState,
    action: str,
    reason: str,
    author: str,
    version: str | None = None,
) -> Moved | NotMoved:
    def _moved(tx: Connection) -> Moved | NotMoved:
        if failure_deltas.move(tx, group_id, to, version=version, author=author, reason=reason):
            return Moved(group_id, to)
        now = failure_deltas.standing(tx, group_id)
        if now is None:
            return NotMoved(group_id, None)
        if version is not None and now.kind not in RUN_KINDS:
            return NoVersion(group_id, now.state, now.by, kind=now.kind)
        return NotMoved(group_id, now.state, now.by)

    request = {} if version is None else {"version": version}
    return _audited(engine, group_id, action, reason, author, request, _moved)


def _audited(
    engine: Engine,
    group_id: str,
    action: str,
    reason: str,
    author: str,
    request: dict[str, str],
    act: Callable[[Connection], T],
) -> T:
    """What `act` answers, with its audit row in its transaction."""

    def _once() -> T:
        with transaction(engine) as tx:
            answer = act(tx)
            row = Audited(
                author=author,
                action=action,
                reason=reason,
                target="group",
                target_id=group_id,
                request=request,
                result=msgspec.to_builtins(answer),
                is_refused=isinstance(answer, NotMoved),
            )
            append(tx, [row])
            return answer

    answer = retry_transient(_once)
    log.info(
        "group.not_moved" if isinstance(answer, NotMoved) else "group.moved",
        group=group_id,
        action=action,
        author=author,
    )
    return answer
