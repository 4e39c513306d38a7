"""Removing what proofs left in a database: the books balance before, after and in between.

Batches of rows go with a delta that takes them out of the counters, in one transaction. What finds
them is the account and its minutes in the books, so these go last, together: whoever dies on the
way leaves books that balance, and the next call finds the rest.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Engine, text

from veltrix.dev.children import CannotStart, wait_for
from veltrix.domain.ids import first_id_of_minute
from veltrix.operations.books.counter_rows import lock_books
from veltrix.pipeline.accept.startable_rows import FIRST_ID
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.failure_deltas import LEAVE_GROUPS, SHARED_GROUP, UNROUTED_GROUP, lock_groups
from veltrix.store.transactions import retry_transient, transaction

PREFIX = "/veltrix/prove/"
BATCH_EVENTS_MAX = 500
_BOOKS_WAIT_S = 60.0
T = TypeVar("T")
_LAST = "\U0010ffff"  # behind every text that begins with the prefix

_ACCOUNTS = "select id from accounts where source >= %(first)s and source < %(last)s order by id"
# Those of the accounts, and what edits made of theirs.
_OPEN = """
with recursive made(run_id) as (
    select d.run_id from edits d join runs r on r.id = d.origin_run_id
    where r.account_id = any(%(accounts)s)
    union
    select d.run_id from made join edits d on d.origin_run_id = made.run_id
)
select (select count(*) from runs where due_at is not null and account_id = any(%(accounts)s))
    + (select count(*) from runs where due_at is not null and id in (select run_id from made))
"""
_MINUTES = """
select minute from counters where account_id = any(%(accounts)s)
union select minute from counter_deltas where account_id = any(%(accounts)s)
order by minute
"""
# Of runs too: one whose event is gone must go as well.
_EVENT_IDS = """
select id::text from (
    (select id from events where id > %(after)s::uuid and id >= %(first)s::uuid
         and id < %(last)s::uuid and account_id = any(%(accounts)s) order by id limit %(max)s)
    union
    (select event_id from runs where id > %(after)s::uuid and id >= %(first)s::uuid
         and id < %(last)s::uuid and account_id = any(%(accounts)s)
         and event_id > %(after)s::uuid order by id limit %(max)s)
) as both_tables order by id limit %(max)s
"""
# Events first, then runs, each in the order of ids: as everyone locks them who starts runs.
_LOCK_EVENTS = """
select id from events where id = any(%(events)s::uuid[]) order by id for update
"""
_LOCK_RUNS = """
select r.id::text, r.due_at is not null
from unnest(%(events)s::uuid[]) as e(id)
join runs r on r.id > e.id and r.id <= (left(e.id::text, 30) || 'ffffff')::uuid
order by r.id for update of r
"""
# Events that edits made of these events' runs, and of those: of accounts that all edits share.
_EDITED = """
with recursive made(run_id) as (
    select d.run_id from unnest(%(events)s::uuid[]) as e(id)
    join edits d on d.origin_run_id > e.id
        and d.origin_run_id <= (left(e.id::text, 30) || 'ffffff')::uuid
    union
    select d.run_id from made join edits d on d.origin_run_id = made.run_id
)
select distinct (left(run_id::text, 30) || '000000') from made
"""
_REMOVED_WITH_RUNS = {
    "edits": "delete from edits where run_id = any(%(runs)s::uuid[])",
    "steps": "delete from journal where run_id = any(%(runs)s::uuid[])",
    "failed_attempts": "delete from failed_attempts where run_id = any(%(runs)s::uuid[])",
    "actions": "delete from actions where run_id = any(%(runs)s::uuid[])",
}
# Before all else: whoever moves the runs of a replay has its row locked first.
_LOCK_REPLAYS = """
select id from replays where id in (
    select p.replay_id from unnest(%(events)s::uuid[]) as e(id)
    join replay_runs p on p.run_id > e.id and p.run_id <= (left(e.id::text, 30) || 'ffffff')::uuid
) order by id for update
"""
# A replay of others' runs too keeps these, and counts that agree with them.
_REPLAYS = """
with gone as (
    delete from replay_runs where run_id = any(%(runs)s::uuid[]) returning replay_id, state
), less as (
    select replay_id, count(*) as planned,
        count(*) filter (where state not in ('planned', 'skipped')) as replayed,
        count(*) filter (where state = 'succeeded') as succeeded,
        count(*) filter (where state = 'failed_again') as failed_again,
        count(*) filter (where state = 'cancelled') as cancelled,
        count(*) filter (where state = 'skipped') as skipped
    from gone group by replay_id
), kept as (
    update replays r set planned = r.planned - less.planned,
        replayed = r.replayed - less.replayed, succeeded = r.succeeded - less.succeeded,
        failed_again = r.failed_again - less.failed_again,
        cancelled = r.cancelled - less.cancelled, skipped = r.skipped - less.skipped,
        canary_to = greatest(r.canary_to - less.replayed, 0),
        judged_succeeded = least(r.judged_succeeded, r.succeeded - less.succeeded),
        judged_failed_again = least(r.judged_failed_again, r.failed_again - less.failed_again)
    from less where r.id = less.replay_id and r.planned > less.planned
), emptied as (
    delete from replays r using less
    where r.id = less.replay_id and r.planned <= less.planned returning r.id
)
select (select count(*) from gone), (select count(*) from emptied)
"""
_EFFECTS = """
delete from prove_effects e using unnest(%(runs)s) as r(id)
where e.key >= r.id || ':' and e.key < r.id || ';'
"""
_RUNS = f"""
with gone as (
    delete from runs where id = any(%(runs)s::uuid[])
    returning account_id, minute, state, workflow, fingerprint, reason, archived_at
), ungrouped as (
    {LEAVE_GROUPS.format(rows="gone where state = 'failed'")}
), counted as (
    insert into counter_deltas (account_id, minute, started, succeeded, failed, cancelled)
    select account_id, minute, -count(*), -count(*) filter (where state = 'succeeded'),
        -count(*) filter (where state = 'failed'), -count(*) filter (where state = 'cancelled')
    from gone group by account_id, minute
)
select count(*) from gone
"""  # noqa: S608 - put together from constants
_EVENTS = """
with gone as (
    delete from events where id = any(%(events)s::uuid[])
    returning account_id, minute, unrouted, source, sender_id
), known as (
    delete from identities i using gone
    where i.source = gone.source and i.sender_id = gone.sender_id
    returning i.event_id
), counted as (
    insert into counter_deltas (account_id, minute, accepted, routed, unrouted)
    select account_id, minute, -count(*), -count(*) filter (where not unrouted),
        -count(*) filter (where unrouted)
    from gone group by account_id, minute
)
select (select count(*) from gone), (select count(*) from known)
"""
# Whose event is gone: nothing counts them.
_IDENTITIES = """
delete from identities where (source, sender_id) in (
    select source, sender_id from identities i
    where source >= %(first)s and source < %(last)s
      and not exists (select from events e where e.id = i.event_id)
    order by source, sender_id limit %(max)s
)
"""
# Of events without a run, whose counts go with the books. Those that share a group leave it.
_UNROUTED_GROUPS = f"""
with ours as (
    select {UNROUTED_GROUP} as id from accounts where id = any(%(accounts)s)
), shared as (
    insert into failure_deltas (group_id, kind, source, event_type, count, seen)
    select '{SHARED_GROUP}', 'unrouted', '', '', -sum(unrouted), 0
    from (
        select account_id, unrouted from counter_totals
        union all
        select account_id, unrouted from counters where not is_sealed
    ) as counted join accounts a on a.id = counted.account_id and not a.has_unrouted_group
    where a.id = any(%(accounts)s)
    having sum(unrouted) <> 0
), deltas as (
    delete from failure_deltas where group_id in (select id from ours)
), hours as (
    delete from failure_hours where group_id in (select id from ours)
)
delete from failure_groups where id in (select id from ours)
"""  # noqa: S608 - as _RUNS
_BOOKS = {
    "counters": "delete from counters where account_id = any(%(accounts)s)",
    "counter_deltas": "delete from counter_deltas where account_id = any(%(accounts)s)",
    "counter_totals": "delete from counter_totals where account_id = any(%(accounts)s)",
    "dropped": "delete from dropped where account_id = any(%(accounts)s)",
    "accounts": "delete from accounts where id = any(%(accounts)s)",
}


class Removed(msgspec.Struct):
    """How many rows of each table are gone; `steps` are those of the journal."""

    events: int = 0
    identities: int = 0
    runs: int = 0
    steps: int = 0
    failed_attempts: int = 0
    actions: int = 0
    edits: int = 0
    replay_runs: int = 0
    replays: int = 0
    effects: int = 0
    counters: int = 0
    counter_deltas: int = 0
    counter_totals: int = 0
    dropped: int = 0
    accounts: int = 0

    def add(self, table: str, rows: int) -> None:
        """So many more."""
        setattr(self, table, getattr(self, table) + rows)

    def __str__(self) -> str:
        counts = msgspec.structs.asdict(self).items()
        told = [f"{rows:,} {table.replace('_', ' ')}" for table, rows in counts if rows]
        return f"removed {', '.join(told)}" if told else "there was nothing to remove"


class NotOver(CannotStart):
    """A proof is not over, or was given up with runs still open; nothing open is removed."""

    def __init__(self, runs: int) -> None:
        super().__init__(
            f"{runs:,} runs of proofs are open; wait until they have ended, or cancel them with"
            " `veltrix cancel`, and remove them then"
        )


def clean(engine: Engine, source_prefix: str = PREFIX) -> Removed:
    """Nothing is left of sources with this prefix; what was removed. Not while a proof runs.

    Raises NotOver while such a run is open. Killed at any moment, it is called again. Counted
    beside the books, what was refused for want of a readable source stays: it names none.
    """
    if not source_prefix.startswith(PREFIX):
        raise ValueError(f"{source_prefix!r}: only what begins with {PREFIX} is of a proof")
    return Cleaning(engine, source_prefix).run()


class Cleaning:
    """Removes batch by batch. `after_batch` is called after each commit."""

    def __init__(
        self, engine: Engine, prefix: str, after_batch: Callable[[], object] = lambda: None
    ) -> None:
        self._engine, self._after_batch = engine, after_batch
        self._sources = {"first": prefix, "last": prefix + _LAST}
        self._accounts = IntArray([])
        self._has_effects = False
        self.removed = Removed()

    def run(self) -> Removed:
        """See `clean`."""
        with transaction(self._engine) as tx:
            ids = tx.exec_driver_sql(_ACCOUNTS, self._sources).scalars().all()
            self._accounts = IntArray(ids)
            self._refuse_open(tx)
            there = tx.execute(text("select to_regclass('prove_effects')")).scalar_one()
            self._has_effects = there is not None
        while self._remove_rows():  # until a pass finds none: what came meanwhile goes too
            pass
        while self._commit(self._remove_identities):
            pass
        if not wait_for(self._is_closed, deadline_s=_BOOKS_WAIT_S):
            raise CannotStart(
                f"the books were being folded or recounted for {_BOOKS_WAIT_S:g} s: all but the"
                " accounts is removed, and the same command removes these"
            )
        return self.removed

    def _is_closed(self) -> bool:
        return self._remove_rows() == 0 and self._commit(self._close_books)

    def _commit(self, stage: Callable[[Connection, Removed], T]) -> T:
        """One transaction; what the stage says. It is counted when it is committed."""

        def once() -> tuple[T, Removed]:
            removed = Removed()
            with transaction(self._engine) as tx:
                return stage(tx, removed), removed

        answer, removed = retry_transient(once)
        for table, rows in msgspec.structs.asdict(removed).items():
            self.removed.add(table, rows)
        self._after_batch()
        return answer

    def _refuse_open(self, tx: Connection) -> None:
        open_ = tx.exec_driver_sql(_OPEN, {"accounts": self._accounts}).scalar_one()
        if open_:
            raise NotOver(open_)

    def _remove_rows(self) -> int:
        """Every event and run of every minute of the accounts; how many events and runs."""
        with transaction(self._engine) as tx:
            keys = {"accounts": self._accounts}
            minutes = tx.exec_driver_sql(_MINUTES, keys).scalars().all()
        return sum(map(self._remove_minute, minutes))

    def _remove_minute(self, minute: int) -> int:
        """In batches in the order of ids: none reads again what the one before it removed."""
        removed, after = 0, FIRST_ID
        while True:
            keys = {
                "accounts": self._accounts,
                "after": after,
                "first": first_id_of_minute(minute),
                "last": first_id_of_minute(minute + 1),
                "max": BATCH_EVENTS_MAX,
            }
            with transaction(self._engine) as tx:
                ids = tx.exec_driver_sql(_EVENT_IDS, keys).scalars().all()
            if not ids:
                return removed
            batch = partial(_remove, event_ids=ids, has_effects=self._has_effects)
            removed += self._commit(batch)
            after = ids[-1]

    def _remove_identities(self, tx: Connection, removed: Removed) -> int:
        keys = {**self._sources, "max": BATCH_EVENTS_MAX}
        rows = tx.exec_driver_sql(_IDENTITIES, keys).rowcount
        removed.add("identities", rows)
        return rows

    def _close_books(self, tx: Connection, removed: Removed) -> bool:
        """The accounts and all their counts are gone together; False: someone is at the books."""
        if not (lock_books(tx) and lock_groups(tx)):
            return False
        self._refuse_open(tx)
        tx.exec_driver_sql(_UNROUTED_GROUPS, {"accounts": self._accounts})
        for table, statement in _BOOKS.items():
            rows = tx.exec_driver_sql(statement, {"accounts": self._accounts}).rowcount
            removed.add(table, rows)
        return True


def _remove(
    tx: Connection, removed: Removed, *, event_ids: Sequence[str], has_effects: bool
) -> int:
    """These events, all that came of them, and their counts. Raises NotOver if a run is open.

    What edits made of their runs came of them too.
    """
    ids = {*event_ids, *_edited(tx, event_ids)}
    events = {"events": TextArray(sorted(ids))}
    tx.exec_driver_sql(_LOCK_REPLAYS, events)
    tx.exec_driver_sql(_LOCK_EVENTS, events)
    found = tx.exec_driver_sql(_LOCK_RUNS, events).all()
    made_meanwhile = set(_edited(tx, event_ids)) - ids  # no more once their origins are locked
    if open_ := sum(is_open for _, is_open in found) + len(made_meanwhile):
        raise NotOver(open_)
    runs = {"runs": TextArray([run_id for run_id, _ in found])}
    for table, statement in _REMOVED_WITH_RUNS.items():
        removed.add(table, tx.exec_driver_sql(statement, runs).rowcount)
    for table, rows in zip(
        ("replay_runs", "replays"), tx.exec_driver_sql(_REPLAYS, runs).one(), strict=True
    ):
        removed.add(table, rows)
    if has_effects:
        removed.add("effects", tx.exec_driver_sql(_EFFECTS, runs).rowcount)
    removed.add("runs", tx.exec_driver_sql(_RUNS, runs).scalar_one())
    gone, known = tx.exec_driver_sql(_EVENTS, events).one()
    removed.add("events", gone)
    removed.add("identities", known)
    return removed.events + removed.runs


def _edited(tx: Connection, event_ids: Sequence[str]) -> Sequence[str]:
    return tx.exec_driver_sql(_EDITED, {"events": TextArray(event_ids)}).scalars().all()
