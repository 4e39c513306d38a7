"""The statement that journals and settles a list, made of the parts that the list needs.

Most lists are of runs with one step that are done: nothing failed, nothing goes on, nothing waits.
Each part of a statement costs psycopg and PostgreSQL something, whether anything is in it or not,
and for a list of one that was half of the whole. What is written and answered is the same, however
many parts there are. There are 23 statements, each built once and planned once per connection.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from veltrix.domain.failure_groups import UNGROUPED
from veltrix.store.arrays import BytesArray, FloatArray, IntArray, PgArray, TextArray, UuidArray

_SMALLINT_MAX = 32_767  # of attempts: a run may wait for its code with a short pause for a day

# A run's id, and what this row says of it: an entry, a failed attempt, its settlement.
Row = tuple[str, Any, Any, Any]


class Column(NamedTuple):
    """A column of the rows: its name in the statement, and where its values come from."""

    name: str
    array: type[PgArray]
    value_of: Callable[[Any], Any]
    cast: str = ""


# Monotonic, of this machine; told to the database as so many milliseconds before the write.
_began = attrgetter("began")

ENTRY = (
    Column("e_at", TextArray, attrgetter("position")),
    Column("e_k", TextArray, attrgetter("kind")),
    Column("e_nm", TextArray, attrgetter("name")),
    Column("e_h", BytesArray, attrgetter("arguments_digest")),
    Column("e_o", TextArray, attrgetter("output"), "::json[]"),
    Column("e_x", TextArray, attrgetter("error"), "::json[]"),
    Column("e_n", IntArray, attrgetter("attempts")),
    Column("e_g", IntArray, _began),
    Column("e_t", IntArray, attrgetter("took_ms")),
    Column("e_a", TextArray, attrgetter("arguments")),
)
FAILED = (
    Column("f_at", TextArray, attrgetter("position")),
    Column("f_s", TextArray, attrgetter("step")),
    Column("f_n", IntArray, lambda failed: min(failed.attempt, _SMALLINT_MAX)),
    Column("f_t", TextArray, attrgetter("type")),
    Column("f_m", TextArray, attrgetter("message")),
    Column("f_tb", TextArray, attrgetter("traceback")),
    Column("f_p", TextArray, attrgetter("fingerprint")),
    Column("f_w", FloatArray, attrgetter("retry_delay_s")),
    Column("f_g", IntArray, _began),
    Column("f_k", IntArray, attrgetter("took_ms")),
    Column("f_a", TextArray, attrgetter("arguments")),
)
SETTLED = (
    Column("s_to", TextArray, attrgetter("state")),
    Column("s_out", TextArray, attrgetter("outcome"), "::json[]"),
    Column("s_code", TextArray, attrgetter("code_version")),
    # Of a run that came as claimed: a claim writes these.
    Column("s_by", UuidArray, attrgetter("handed_by")),
    Column("s_ago", IntArray, _began),
    Column("s_j", TextArray, attrgetter("steps")),
)
_TEXTS = {"why": "reason", "print": "fingerprint", "step": "failed_step", "key": "key"}
DETAILS = (
    Column("s_wait", IntArray, lambda s: None if s.wait_s is None else round(s.wait_s * 1000)),
    *(Column(f"s_{name}", TextArray, attrgetter(of)) for name, of in _TEXTS.items()),
)
_details = attrgetter("wait_s", *_TEXTS.values())
_state = attrgetter("state")
_NO_DETAILS = {(None,) * len(DETAILS)}


class Parts(NamedTuple):
    """What the rows of a list hold.

    `has_unsettled`: rows without a settlement. `has_details`: a settlement that says more than how
    the run ended. `has_failed`: a run that failed for good.
    """

    has_entries: bool
    has_failures: bool
    has_unsettled: bool
    has_settled: bool
    has_details: bool
    has_failed: bool


def parts_of(rows: Sequence[Row]) -> Parts:
    """The parts that these rows need."""
    settlements = [row[3] for row in rows if row[3] is not None]
    details, states = set(map(_details, settlements)), set(map(_state, settlements))
    return Parts(
        has_entries=any(row[1] is not None for row in rows),
        has_failures=any(row[2] is not None for row in rows),
        has_unsettled=len(settlements) < len(rows),
        has_settled=bool(settlements),
        has_details=bool(details - _NO_DETAILS),
        has_failed="failed" in states,
    )


def values_of(rows: Sequence[Row], parts: Parts, now: float | None) -> dict[str, object]:
    """The rows as the statement of these parts wants them, without token and worker.

    `now` is monotonic: what began is told as a duration before it.
    """
    ids, entries, failures, settlements = zip(*rows, strict=True)
    values: dict[str, object] = {"id": UuidArray(ids)}
    for columns, items in (
        (_journalled(parts), entries),
        (_noted(parts), failures),
        (_settled(parts), settlements),
    ):
        is_full = None not in items
        for name, array, value_of, _ in columns:
            found: list[Any]
            if is_full:
                found = list(map(value_of, items))
            else:
                found = [None if item is None else value_of(item) for item in items]
            if value_of is _began:
                found = [
                    None if at is None or now is None else int((now - at) * 1000) for at in found
                ]
            values[name] = array(found)
    return values


def _journalled(parts: Parts) -> tuple[Column, ...]:
    return ENTRY if parts.has_entries else ()


def _noted(parts: Parts) -> tuple[Column, ...]:
    return FAILED if parts.has_failures else ()


def _settled(parts: Parts) -> tuple[Column, ...]:
    if parts.has_details:
        return SETTLED + DETAILS
    return SETTLED if parts.has_settled else ()


# A list is one set of rows: a run's i-th entry beside its i-th failed attempt and, in the first of
# them, its settlement. So each run is found once, by its key, and nothing is joined to what was
# found. (Joined, the planner took 250 rows for one and looped: five times the cost.) Rows without a
# settlement are locked first, in the order of the ids, then the settled ones by their update, in
# that order too. A run that would go on waiting, but whose cancel was requested meanwhile, is
# cancelled.
_INPUT = """input as (
    select * from unnest(%(id)s::uuid[]{values}) as u(id{columns})
)"""
_LOCKED = """locked as (
    select u.id{kept}, r.generation as g, r.cancel_requested_at as stop
    from input u join runs r on r.id = u.id
    where {is_unsettled}r.life = 0 and r.id = any(%(id)s::uuid[])
        and r.lease_token = any(%(tokens)s)
    order by r.id for no key update of r
)"""
_MOVED = """moved as (
    update runs r set lease_token = null, {move}, worker_id = %(worker_id)s,
        delivery_id = coalesce(s_by, r.delivery_id), attempt = greatest(r.attempt, 1),
        hand_overs = 0,
        claimed_at = coalesce(r.claimed_at,
            least(now(), clock_timestamp() - s_ago * interval '1 ms')),
        outcome = s_out, steps = s_j, code_version = coalesce(s_code, r.code_version)
    from (select * from input{where_settled} order by id) u
    where r.life = 0 and r.id = u.id and r.id = any(%(id)s::uuid[])
        and r.lease_token = any(%(tokens)s){after_locked}
    returning u.id{kept}, r.generation as g, r.cancel_requested_at as stop, r.state, r.account_id,
        r.minute{why}
)"""
_END = """state = s_to, life = life_of(s_to), due_at = null, settled_at = now(),
        reason = null, fingerprint = null, failed_step = null"""
_END_OR_WAIT = """
        state = case when s_wait is null or r.cancel_requested_at is null
            then s_to else 'cancelled' end,
        life = life_of(case when s_wait is null or r.cancel_requested_at is null
            then s_to else 'cancelled' end),
        due_at = case when r.cancel_requested_at is null
            then now() + s_wait * interval '1 ms' end,
        settled_at = case when s_wait is null or r.cancel_requested_at is not null
            then now() end,
        reason = case when s_wait is null or r.cancel_requested_at is null
            then s_why else 'requested' end,
        fingerprint = s_print, failed_step = s_step,
        key = coalesce(s_key, r.key)"""
_WHY = ", r.workflow, r.code_version, r.fingerprint, r.failed_step"
_HELD = """held as (
    select * from locked union all
    select id{kept}, g, stop from moved
)"""
_JOURNALLED = """journalled as (
    insert into journal (run_id, generation, position, kind, name, arguments_digest, output, error,
        attempts, began_at, took_ms, arguments)
    select id, g, e_at, e_k, e_nm, e_h, e_o, e_x, e_n,
        clock_timestamp() - e_g * interval '1 ms', e_t, e_a
    from {held} where e_k is not null
)"""
_NOTED = """noted as (
    insert into failed_attempts (run_id, generation, position, step, attempt, type, message,
        traceback, fingerprint, retry_delay_s, worker_id, began_at, took_ms, arguments)
    select id, g, f_at, f_s, f_n, f_t, f_m, f_tb,
        f_p, f_w, %(worker_id)s,
        clock_timestamp() - f_g * interval '1 ms', f_k, f_a
    from {held} where f_t is not null
)"""
_COUNTED = """counted as (
    insert into counter_deltas (account_id, minute, succeeded, failed, cancelled)
    select account_id, minute, sum((state = 'succeeded')::int),
        sum((state = 'failed')::int), sum((state = 'cancelled')::int)
    from moved where state in ('succeeded', 'failed', 'cancelled')
    group by account_id, minute
)"""
# Only where a run of the list failed: one that succeeds pays nothing for groups.
_GROUPED = f"""grouped as (
    insert into failure_deltas (group_id, kind, workflow, step, code_version, run_id, count, seen)
    select coalesce(fingerprint, '{UNGROUPED}'), 'run', workflow, failed_step, code_version,
        max(id::text)::uuid, count(*), count(*)
    from moved where state = 'failed' group by fingerprint, workflow, failed_step, code_version
)"""  # noqa: S608 - of constants


# Of a list that is wholly lost `array_agg` gives null, which would say that all are held.
_ANSWER = """
select coalesce(array_agg(id::text) filter (where stop is not null), '{{}}'),
    case when count(*) < %(rows)s then coalesce(array_agg(id::text), '{{}}') end,
    extract(epoch from clock_timestamp())::float8
from {held}
"""


@lru_cache(maxsize=32)
def statement_of(parts: Parts) -> str:
    """The statement for rows of these parts: one that every connection prepares once."""
    kept = [column.name for column in _journalled(parts) + _noted(parts)]
    columns = [*_journalled(parts), *_noted(parts), *_settled(parts)]
    is_mixed = parts.has_settled and parts.has_unsettled
    held = "held" if is_mixed else "moved" if parts.has_settled else "locked"
    pieces = ",\n".join(_pieces(parts, is_mixed=is_mixed)).format(
        values="".join(f", %({column.name})s{column.cast}" for column in columns),
        columns="".join(f", {column.name}" for column in columns),
        kept="".join(f", {name}" for name in kept),
        held=held,
        is_unsettled="s_to is null and " if is_mixed else "",
        where_settled=" where s_to is not null" if is_mixed else "",
        after_locked=" and (select count(*) from locked) >= 0" if is_mixed else "",
        move=_END_OR_WAIT if parts.has_details else _END,
        why=_WHY if parts.has_failed else "",
    )
    statement = f"with {pieces}\n{_ANSWER.format(held=held)}"
    return " ".join(statement.split())  # the longest one fits what psycopg remembers


def _pieces(parts: Parts, *, is_mixed: bool) -> Iterator[str]:
    yield _INPUT
    if parts.has_unsettled:
        yield _LOCKED
    if parts.has_settled:
        yield _MOVED
        yield _COUNTED
    if parts.has_failed:
        yield _GROUPED
    if is_mixed:
        yield _HELD
    if parts.has_entries:
        yield _JOURNALLED
    if parts.has_failures:
        yield _NOTED
