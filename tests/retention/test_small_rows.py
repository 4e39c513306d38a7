"""Small tables lose what is old, a list at a time, and every balance adds up as before."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from tests.support.old_ledger import ACCOUNT, add_past, days_ago
from tests.support.roles import make_roles
from tests.support.settled import fold_all, run_sql
from veltrix.domain.states import RunState
from veltrix.operations.books import counter_rows
from veltrix.operations.books.books import balance
from veltrix.operations.failures.triage import check_groups
from veltrix.operations.retention.policies import set_policies
from veltrix.operations.retention.rules import DEFAULTS, JudgedEvent, JudgedRun
from veltrix.operations.retention.small_rows import (
    SmallTables,
    fold_minutes,
    forget_letters,
)
from veltrix.store.history.dropped_rows import Relations, bounds_of, note_dropped
from veltrix.store.tables import COUNTED
from veltrix.store.transactions import make_engine, transaction

DROP = "0199d2c4-0000-7000-8000-000000000001"
SUMS = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in COUNTED)


def apply_defaults(engine: Engine) -> None:
    set_policies(engine, DEFAULTS, "a test", "ann")


def turn(engine: Engine) -> int:
    """The duty until it has been through all tables; how many lists that took."""
    duty, lists = SmallTables(engine), 0
    while True:
        lists += 1
        assert duty.once() == 0
        if duty.pause_s == SmallTables.PAUSE_NONE_S:
            return lists
        assert duty.pause_s == SmallTables.PAUSE_S
        assert lists < 100


def read(engine: Engine, sql: str) -> list[Any]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def letters(engine: Engine, received_days: float, seen_days: float | None, count: int = 1) -> None:
    """Dead letters of so long ago, counted in the books as they are when they come."""
    seen = "null" if seen_days is None else f"now() - interval '{seen_days} days'"
    at = f"now() - interval '{received_days} days'"
    run_sql(
        engine,
        "insert into dead_letters (queue, reason, headers, body, run_ids, received_at, seen_at)"
        f" select 'q', 'rejected', '{{}}', '', '{{}}', {at}, {seen}"
        f" from generate_series(1, {count})",
        "insert into counter_deltas (account_id, minute, dead_letters)"
        f" values (0, floor(extract(epoch from {at}) / 60), {count})",
    )


def recount_all(engine: Engine) -> tuple[int, int]:
    """How many minutes there are, and how many do not agree with rows and what was dropped."""
    with transaction(engine, snapshot=True) as tx:
        minutes = sorted(
            row[0]
            for row in tx.execute(
                text("select minute from counters union select minute from dropped")
            )
        )
        found = counter_rows.recount(tx, minutes)
    return len(minutes), found.unbalanced


def test_without_a_policy_nothing_leaves(engine: Engine) -> None:
    letters(engine, 900, 900)
    fold_all(engine)

    turn(engine)

    assert read(engine, "select count(*) from dead_letters") == [(1,)]


def test_letters_leave_90_days_after_somebody_saw_them_and_the_books_agree(engine: Engine) -> None:
    apply_defaults(engine)
    letters(engine, 200, 91, count=3)
    letters(engine, 200, 89)
    letters(engine, 200, None)
    letters(engine, 95, 91)
    fold_all(engine)
    before = balance(engine)
    assert recount_all(engine)[1] == 0

    turn(engine)

    assert read(engine, "select count(*) from dead_letters") == [(2,)]
    assert read(engine, "select sum(dead_letters) from dropped where account_id = 0") == [(4,)]
    assert recount_all(engine)[1] == 0
    assert balance(engine).beside == before.beside
    assert check_groups(engine)[0].count == 1, "of the unseen letter alone, as before"


def test_letters_leave_in_lists_and_what_stays_is_looked_at_once(engine: Engine) -> None:
    letters(engine, 300, None, count=5)
    letters(engine, 200, 100, count=4)
    letters(engine, 195, 100, count=3)

    with transaction(engine) as tx:
        first = forget_letters(tx, None, 5)
        second = forget_letters(tx, first.after, 5)
        third = forget_letters(tx, second.after, 5)

    assert (first.rows, second.rows, third) == (5, 2, type(third)(0))
    assert read(engine, "select count(*) from dead_letters") == [(5,)]


@pytest.mark.parametrize(
    ("columns", "leaves"),
    [
        ("count = 0", True),
        ("count = 0, state = 'resolved'", True),
        ("count = 1", False),
        ("archived = 1", False),
        ("last_seen_at = now() - interval '89 days'", False),
        ("state_changed_at = now() - interval '89 days'", False),
    ],
)
def test_a_group_leaves_when_it_has_had_no_member_for_90_days(
    engine: Engine, columns: str, leaves: bool
) -> None:
    apply_defaults(engine)
    run_sql(
        engine,
        "insert into failure_groups (id, kind, count, archived, total, first_seen_at, last_seen_at,"
        " state_changed_at) select 'g', 'run', 0, 0, 9, at, at, at"
        " from (select now() - interval '91 days' as at) as old",
        "insert into failure_notes (group_id, author, text) values ('g', 'ann', 'ask the bank')",
        f"update failure_groups set {columns}",
    )

    turn(engine)

    assert read(engine, "select count(*) from failure_groups") == [(int(not leaves),)]
    assert read(engine, "select text from failure_notes") == [("ask the bank",)], "kept for ever"


def test_a_group_with_something_left_to_fold_stays(engine: Engine) -> None:
    apply_defaults(engine)
    run_sql(
        engine,
        "insert into failure_groups (id, kind, count, archived, total, first_seen_at, last_seen_at,"
        " state_changed_at) select 'g', 'run', 0, 0, 9, at, at, at"
        " from (select now() - interval '91 days' as at) as old",
        "insert into failure_deltas (group_id, kind, count, seen) values ('g', 'run', 1, 1)",
    )

    turn(engine)

    assert read(engine, "select id from failure_groups") == [("g",)]


def test_of_a_workflow_that_was_retired_the_newest_version_stays(engine: Engine) -> None:
    apply_defaults(engine)
    for workflow, version, registered, retired in (
        ("gone", "1", 300, 31), ("gone", "2", 200, 31), ("late", "1", 300, 29),
        ("late", "2", 200, 29), ("used", "1", 300, 31), ("used", "2", 200, None),
        ("judged", "1", 300, 31), ("judged", "2", 200, 31),
    ):  # fmt: skip
        ended = "null" if retired is None else f"now() - interval '{retired} days'"
        run_sql(
            engine,
            "insert into subscriptions (workflow, code_version, types, queue, options,"
            f" registered_at, retired_at) values ('{workflow}', '{version}', '{{}}', 'q', '{{}}',"
            f" now() - interval '{registered} days', {ended})",
        )
    run_sql(
        engine,
        "insert into failure_groups (id, kind, workflow, count, archived, total, first_seen_at,"
        " last_seen_at, resolved_version)"
        " values ('g', 'run', 'judged', 1, 0, 1, now(), now(), '2')",
    )

    turn(engine)

    found = read(engine, "select workflow, code_version from subscriptions order by 1, 2")
    assert set(found) == {
        ("gone", "2"), ("late", "1"), ("late", "2"), ("used", "2"), ("judged", "1"),
        ("judged", "2"),
    }  # fmt: skip


def drop_rows(tx: Connection, event_ids: list[str], at: datetime) -> None:
    """These events leave, as a drop of their day has it: with a note in the books."""
    kept = "'" + "','".join(event_ids) + "'"
    leaving = Relations(
        events=f"(select * from events where id in ({kept}))",
        runs=f"(select * from runs where event_id in ({kept}))",
    )
    note_dropped(tx, leaving, DROP, bounds_of(at.date()))
    tx.execute(text(f"delete from events where id in ({kept})"))
    tx.execute(text(f"delete from runs where event_id in ({kept})"))


def add_totals(engine: Engine) -> None:
    """What sealing adds to them."""
    run_sql(
        engine,
        f"insert into counter_totals (account_id, {', '.join(COUNTED)}) select account_id, {SUMS}"
        " from counters group by account_id",
    )


def test_minutes_of_which_nothing_is_left_are_folded_into_days_and_the_totals_add_up(
    engine: Engine,
) -> None:
    apply_defaults(engine)
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    gone_at = noon - timedelta(days=402)
    gone = [
        JudgedEvent(at, False, True, [JudgedRun("a", RunState.SUCCEEDED, at)])
        for at in (gone_at, gone_at, gone_at + timedelta(minutes=3))
    ]
    kept_at = gone_at + timedelta(minutes=5)
    kept = [
        JudgedEvent(kept_at, False, True, [JudgedRun("a", state, kept_at)])
        for state in (RunState.SUCCEEDED, RunState.FAILED)
    ]
    young_at = noon - timedelta(days=398)
    young = [JudgedEvent(young_at, False, True, [JudgedRun("a", RunState.SUCCEEDED, young_at)])]
    ids = add_past(engine, [*gone, *kept, *young])
    add_totals(engine)
    assert recount_all(engine) == (4, 0)
    before = balance(engine)
    with transaction(engine) as tx:
        drop_rows(tx, ids[:4], gone_at)
        drop_rows(tx, ids[5:], young_at)
    assert recount_all(engine) == (4, 0)

    turn(engine)

    assert read(engine, "select count(distinct minute) from counters") == [(2,)], "kept, and young"
    assert read(engine, "select day, account_id, accepted, succeeded from counter_days") == [
        (int(gone_at.timestamp()) // 86_400, ACCOUNT, 3, 3)
    ]
    both = f"""select {SUMS} from (
        select {", ".join(COUNTED)} from counters where is_sealed
        union all select {", ".join(COUNTED)} from counter_days) as both_tables"""
    assert read(engine, both) == read(engine, f"select {SUMS} from counter_totals")
    assert recount_all(engine) == (2, 0)
    assert read(engine, "select distinct account_id from dropped") == [(ACCOUNT,)]
    after = balance(engine)
    assert (after.events, after.runs, after.unaccounted) == (before.events, before.runs, 0)


def test_what_is_counted_in_a_folded_minute_later_is_sealed_and_added(engine: Engine) -> None:
    apply_defaults(engine)
    at = days_ago(datetime.now(UTC), 402)
    ended = JudgedEvent(at, False, True, [JudgedRun("a", RunState.SUCCEEDED, at)])
    ids = add_past(engine, [ended])
    add_totals(engine)
    with transaction(engine) as tx:
        drop_rows(tx, ids, at)
    turn(engine)
    assert read(engine, "select count(*) from counters") == [(0,)]

    minute = int(at.timestamp()) // 60
    run_sql(
        engine,
        f"insert into counter_deltas (account_id, minute, refused) values ({ACCOUNT}, {minute}, 1)",
    )
    fold_all(engine)
    assert recount_all(engine) == (1, 0)

    assert read(engine, "select is_sealed from counters") == [(True,)]
    assert read(engine, "select accepted, succeeded, refused from counter_totals") == [(1, 1, 1)]
    turn(engine)
    assert read(engine, "select accepted, refused from counter_days") == [(1, 1)]


@pytest.mark.parametrize(
    "change",
    [
        "update counters set is_sealed = false",
        "update counters set discrepancy = 1",
        "insert into counter_deltas (account_id, minute) select 9, minute from counters",
        (
            "insert into dead_letters (queue, reason, headers, body, run_ids, received_at)"
            " select 'q', 'r', '{}', '', '{}', to_timestamp(minute * 60.0 + 59) from counters"
        ),
    ],
)
def test_a_minute_that_may_move_is_not_folded(engine: Engine, change: str) -> None:
    at = days_ago(datetime.now(UTC), 402)
    ended = JudgedEvent(at, False, True, [JudgedRun("a", RunState.SUCCEEDED, at)])
    ids = add_past(engine, [ended])
    with transaction(engine) as tx:
        drop_rows(tx, ids, at)
    run_sql(engine, change)

    with transaction(engine) as tx:
        found = fold_minutes(tx)

    assert (found.rows, found.after) == (0, int(at.timestamp()) // 60)
    assert read(engine, "select count(*) from counters") == [(1,)]


def test_a_list_of_minutes_has_so_many_counters_and_the_next_goes_on_behind_it(
    engine: Engine,
) -> None:
    run_sql(
        engine,
        "insert into counters (minute, account_id, duplicates, is_sealed)"
        " select minute, account_id, 1, true from generate_series(1, 6) as minute,"
        " generate_series(1, 10) as account_id",
    )
    with transaction(engine) as tx:
        found = [fold_minutes(tx, None, 25)]
        while found[-1].after is not None:
            found.append(fold_minutes(tx, found[-1].after, 25))

    assert [(one.rows, one.after) for one in found] == [(20, 2), (20, 4), (20, 6), (0, None)]
    assert read(engine, "select sum(duplicates), count(*) from counter_days") == [(60, 10)]


def test_the_platforms_role_may_do_all_of_it(engine: Engine, database_url: str) -> None:
    apply_defaults(engine)
    letters(engine, 200, 100)
    fold_all(engine)
    run_sql(
        engine,
        "insert into counters (minute, account_id, duplicates, is_sealed) values (1, 1, 1, true)",
    )
    as_app = make_engine(make_roles(database_url).app, application="tests")

    turn(as_app)

    assert read(engine, "select count(*) from dead_letters") == [(0,)]
    assert read(engine, "select duplicates from counter_days") == [(1,)]
