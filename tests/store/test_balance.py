"""The statements of the books: what is sealed, what is opened again, and what the totals hold."""

from typing import Any

from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs
from tests.support.settled import run_sql, settle
from veltrix.domain.states import ReplayMode
from veltrix.operations.books import counter_rows
from veltrix.operations.books.counter_rows import PROVABLE, Recount
from veltrix.operations.replays.move import replay
from veltrix.store.tables import COUNTED
from veltrix.store.transactions import transaction


def fold(engine: Engine) -> int:
    with transaction(engine) as tx:
        return counter_rows.fold(tx, list_max=1_000)


def minutes(engine: Engine, **changes: Any) -> list[int]:
    bounds: dict[str, Any] = {
        "closed_minutes": -1,
        "search_minutes": 60,
        "minutes_max": 60,
        "rows_max": 1_000,
        "is_forced": True,
    }
    with transaction(engine) as tx:
        return counter_rows.minutes_to_recount(tx, **(bounds | changes))


def recount(engine: Engine) -> Recount:
    chosen = minutes(engine)
    with transaction(engine, snapshot=True) as tx:
        return counter_rows.recount(tx, chosen)


def read(engine: Engine, sql: str) -> list[Any]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def test_folding_moves_every_count_of_every_delta(engine: Engine) -> None:
    columns = ", ".join(COUNTED)
    values = ", ".join(str(value) for value in range(1, len(COUNTED) + 1))
    run_sql(
        engine,
        f"insert into counter_deltas (account_id, minute, {columns}) values (7, 1, {values}),"
        f" (7, 1, {values}), (7, 2, {values}), (8, 1, {values})",
    )

    assert fold(engine) == 4
    assert fold(engine) == 0
    counts = tuple(range(1, len(COUNTED) + 1))
    assert read(engine, f"select account_id, minute, {columns} from counters order by 1, 2") == [
        (7, 1, *(2 * count for count in counts)),
        (7, 2, *counts),
        (8, 1, *counts),
    ]


def test_a_minute_with_an_unfolded_delta_balances_but_is_not_sealed(engine: Engine) -> None:
    settle(engine, add_runs(engine, 1), "succeeded")

    found = recount(engine)

    assert (found.unbalanced, found.sealed) == (0, 0)
    fold(engine)
    assert recount(engine).sealed == 1


def test_a_sealed_minute_is_in_the_totals_and_is_not_recounted(engine: Engine) -> None:
    settle(engine, add_runs(engine, 3), "succeeded")
    fold(engine)
    recount(engine)

    assert read(engine, "select accepted, started, succeeded from counter_totals") == [(3, 3, 3)]
    assert minutes(engine) == []


def test_a_minute_with_an_open_run_is_not_sealed(engine: Engine) -> None:
    add_runs(engine, 1)
    fold(engine)

    assert recount(engine).sealed == 0
    assert read(engine, "select count(*) from counter_totals") == [(0,)]


def test_a_delta_of_a_sealed_minute_takes_it_out_of_the_totals(engine: Engine) -> None:
    ids = add_runs(engine, 3)
    settle(engine, ids, "failed")
    fold(engine)
    recount(engine)

    replay(engine, ids[:1], ReplayMode.BEGINNING, "again", "me")
    fold(engine)

    assert read(engine, "select accepted, started, failed from counter_totals") == [(0, 0, 0)]
    assert read(engine, "select started, failed, is_sealed from counters") == [(3, 2, False)]
    settle(engine, ids[:1], "succeeded")
    fold(engine)
    assert recount(engine).sealed == 1
    assert read(engine, "select started, succeeded, failed from counter_totals") == [(3, 1, 2)]


def test_a_sealed_account_that_no_longer_agrees_leaves_the_totals(engine: Engine) -> None:
    settle(engine, add_runs(engine, 2), "succeeded")
    fold(engine)
    recount(engine)
    add_runs(engine, 1, type_="shop.other")  # the minute is recounted for another account
    fold(engine)
    run_sql(engine, "delete from runs where state = 'succeeded'")

    found = recount(engine)

    assert found.unbalanced >= 1
    assert read(engine, "select sum(succeeded) from counter_totals") == [(0,)]


def test_only_what_leaves_rows_is_proved(engine: Engine) -> None:
    assert set(COUNTED) - set(PROVABLE) == {"duplicates", "refused"}


def test_a_dead_letter_that_is_counted_balances(engine: Engine) -> None:
    run_sql(
        engine,
        "insert into dead_letters (queue, reason, headers, body, run_ids)"
        " values ('q', 'r', '{}', '', '{}')",
        "insert into counter_deltas (account_id, minute, dead_letters)"
        " select 0, floor(extract(epoch from received_at) / 60)::int, 1 from dead_letters",
    )
    fold(engine)

    assert recount(engine) == Recount(minutes=1, unbalanced=0, sealed=1, discrepancy=0)


def test_the_number_of_minutes_in_one_recount_is_bounded(engine: Engine) -> None:
    run_sql(
        engine,
        "insert into counter_deltas (account_id, minute, duplicates)"
        " select 0, n, 1 from generate_series(1, 100) as n",
    )
    fold(engine)

    assert len(minutes(engine, minutes_max=7)) == 7
    assert len(minutes(engine, minutes_max=60, rows_max=0)) == 60, "these have no rows to read"
