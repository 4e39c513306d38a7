"""What leaves the small tables: dead letters, failure groups, retired versions, old minutes.

Only while a policy of retention is in force: without one everything is kept. Each statement takes
a list, by itself, and says where the next one goes on, so that what stays is looked at once. Who
loses a race for a row leaves it to the winner. Sessions, answers, workers and releases are
forgotten by their own duties, sooner; failure hours too. The audit is never touched.

Dead letters. The books count them by minute, and a recount compares. So a letter that leaves is
noted in `dropped` by the same statement: counters = rows + dropped, in every snapshot.

Failure groups. Those without members, so nobody's failure loses its group. A delta that is folded
later makes the group anew. Notes stay: they are kept for ever, and stand beside the group if it
comes again.

Retired versions. Not the newest of its workflow, whose name says that the ids of its runs are
taken; and none of a workflow with a group that is resolved in a version, where their order says
what is older.

Old minutes. `counter_totals` hold what is sealed, so a minute's counters are needed only to compare
it with its rows again. That happens when something of it moves: a run that is replayed, an event
that is routed late. In a minute of which no event, no run and no dead letter is left nothing can
move, so its counters are folded into a row a day and account, with what was dropped of it. Then
`counter_totals` = sealed `counters` + `counter_days`, as before with nothing in the latter. A
refusal or duplicate that is counted in such a minute later makes a new row, which agrees with the
rows (there are none), is sealed and added to the totals. The lock of the books keeps folds and
recounts away meanwhile.
"""

from datetime import datetime
from uuid import uuid4

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.domain.ids import first_id_of_minute
from veltrix.operations.books.counter_rows import lock_books
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.tables import COUNTED
from veltrix.store.transactions import open_autocommit, retry_transient, transaction
from veltrix.telemetry import logger

log = logger("retention")

LIST_MAX = 1_000
LETTERS_DAYS = 90  # since somebody has seen them
GROUPS_DAYS = 90  # since they were last seen, and last decided about
RETIRED_DAYS = 30
MINUTES_DAYS = 400  # as long as lines

_COLUMNS = ", ".join(COUNTED)
_SUMS = ", ".join(f"sum({name})::bigint" for name in COUNTED)
_ADDED = ", ".join(f"{name} = d.{name} + excluded.{name}" for name in COUNTED)

_HAS_POLICY = "select exists (select from retention_policies where content_s is not null)"

_LETTERS = """
with old as materialized (
    select id from dead_letters
    where received_at >= coalesce(%(after)s::timestamptz, '-infinity')
        and received_at < now() - %(days)s * interval '1 day'
        and seen_at < now() - %(days)s * interval '1 day'
    order by received_at, id limit %(list_max)s for update skip locked
), gone as (
    delete from dead_letters d using old where d.id = old.id returning d.received_at
), noted as (
    insert into dropped (minute, account_id, drop_id, dead_letters)
    select floor(extract(epoch from received_at) / 60)::int, 0, %(drop)s::uuid, count(*)
    from gone group by 1
)
select count(*), max(received_at) from gone
"""

_GROUPS = """
with old as materialized (
    select id from failure_groups g
    where count = 0 and archived = 0 and id > %(after)s
        and last_seen_at < now() - %(days)s * interval '1 day'
        and state_changed_at < now() - %(days)s * interval '1 day'
        and not exists (select from failure_deltas d where d.group_id = g.id)
    order by id limit %(list_max)s for update skip locked
), gone as (
    delete from failure_groups g using old where g.id = old.id returning g.id
)
select count(*), max(id) from gone
"""

_RETIRED = """
with old as materialized (
    select workflow, code_version from subscriptions s
    where retired_at < now() - %(days)s * interval '1 day'
        and exists (
            select from subscriptions n where n.workflow = s.workflow
                and (n.registered_at, n.code_version) > (s.registered_at, s.code_version))
        and not exists (
            select from failure_groups g
            where g.workflow = s.workflow and g.resolved_version is not null)
    order by workflow, code_version limit %(list_max)s for update skip locked
)
delete from subscriptions s using old
where s.workflow = old.workflow and s.code_version = old.code_version
"""

_OLD_MINUTES = """
select minute, count(*) from counters
where minute > %(after)s
    and minute < floor(extract(epoch from now()) / 60) - %(days)s * 1440
group by minute order by minute limit %(list_max)s
"""

_FOLD = f"""
with free as materialized (
    select k.minute
    from unnest(%(minute)s, %(first)s::uuid[], %(last)s::uuid[]) as k(minute, first, last)
    where not exists (select from events e where e.id >= k.first and e.id < k.last)
        and not exists (select from runs r where r.id >= k.first and r.id < k.last)
        and not exists (
            select from dead_letters d where d.received_at >= to_timestamp(k.minute * 60.0)
                and d.received_at < to_timestamp(k.minute * 60.0 + 60))
        and not exists (select from counter_deltas d where d.minute = k.minute)
        and not exists (
            select from counters c where c.minute = k.minute
                and (not c.is_sealed or c.discrepancy <> 0))
), gone as (
    delete from counters c using free f where c.minute = f.minute
    returning c.minute / 1440 as day, c.account_id, {", ".join(f"c.{n}" for n in COUNTED)}
), undropped as (
    delete from dropped d using free f where d.minute = f.minute
), folded as (
    insert into counter_days as d (day, account_id, {_COLUMNS})
    select day, account_id, {_SUMS} from gone group by day, account_id order by day, account_id
    on conflict (day, account_id) do update set {_ADDED}
)
select count(*) from gone
"""  # noqa: S608 - column names of our own table


After = datetime | str | int | None  # where a list goes on, as the one before it said


class Gone(msgspec.Struct, frozen=True):
    """How many rows left, and where the next list goes on; None: there is no more."""

    rows: int
    after: After = None


def has_policy(tx: Connection) -> bool:
    """Whether somebody has said that something may leave at all."""
    return bool(tx.exec_driver_sql(_HAS_POLICY).scalar_one())


def forget_letters(tx: Connection, after: After = None, list_max: int = LIST_MAX) -> Gone:
    """Delete letters that somebody saw LETTERS_DAYS ago, the oldest first."""
    keys = {"after": after, "days": LETTERS_DAYS, "list_max": list_max, "drop": str(uuid4())}
    rows, last = tx.exec_driver_sql(_LETTERS, keys).one()
    return Gone(rows, last)


def forget_groups(tx: Connection, after: After = None, list_max: int = LIST_MAX) -> Gone:
    """Delete groups that have had no member for GROUPS_DAYS."""
    keys = {"after": after or "", "days": GROUPS_DAYS, "list_max": list_max}
    rows, last = tx.exec_driver_sql(_GROUPS, keys).one()
    return Gone(rows, last)


def forget_retired(tx: Connection, _after: After = None, list_max: int = LIST_MAX) -> Gone:
    """Delete versions that were retired RETIRED_DAYS ago, but the newest of each workflow."""
    keys = {"days": RETIRED_DAYS, "list_max": list_max}
    rows = tx.exec_driver_sql(_RETIRED, keys).rowcount
    return Gone(rows, True if rows else None)


def fold_minutes(tx: Connection, after: After = None, list_max: int = LIST_MAX) -> Gone:
    """Fold the counters of minutes of which nothing is left into a row a day and account.

    Needs `lock_books`. Looks at minutes with about `list_max` counters, one at least.
    """
    start = after if isinstance(after, int) else -1
    keys = {"after": start, "days": MINUTES_DAYS, "list_max": list_max}
    minutes: list[int] = []
    counters = 0
    for minute, count in tx.exec_driver_sql(_OLD_MINUTES, keys):
        counters += count
        if minutes and counters > list_max:
            break
        minutes.append(minute)
    if not minutes:
        return Gone(0)
    ranges = {
        "minute": IntArray(minutes),
        "first": TextArray([first_id_of_minute(minute) for minute in minutes]),
        "last": TextArray([first_id_of_minute(minute + 1) for minute in minutes]),
    }
    return Gone(int(tx.exec_driver_sql(_FOLD, ranges).scalar_one()), minutes[-1])


class SmallTables:
    """The duty of one relay: a list at a time, with pauses. For one thread."""

    PAUSE_S, PAUSE_NONE_S = 1.0, 3_600.0
    _PARTS = (forget_letters, forget_groups, forget_retired, fold_minutes)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._part = 0  # what the next list is of
        self._after: After = None
        self.pause_s = self.PAUSE_NONE_S

    def once(self) -> int:
        """One list of one table. Always 0: there is time for a pause, of `pause_s`."""
        gone = retry_transient(self._list)
        if gone.rows:
            log.info("rows.gone", by=self._PARTS[self._part].__name__, rows=gone.rows)
        self._after = gone.after
        if gone.after is None:
            self._part = (self._part + 1) % len(self._PARTS)
        is_through = self._part == 0 and gone.after is None
        self.pause_s = self.PAUSE_NONE_S if is_through else self.PAUSE_S
        return 0

    def _list(self) -> Gone:
        part = self._PARTS[self._part]
        with open_autocommit(self._engine) as tx:
            if not has_policy(tx):
                return Gone(0)
            if part is not fold_minutes:
                return part(tx, self._after)
        with transaction(self._engine) as tx:
            return part(tx, self._after) if lock_books(tx) else Gone(0)
