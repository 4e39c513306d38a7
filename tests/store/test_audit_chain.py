"""The audit is chained by hash: whoever changes a row, as whatever role, is seen, and where."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from veltrix.access.audit import RUN_IDS_MAX, Audited, append, entry
from veltrix.access.audit_check import ChainRefused, Verified, verify
from veltrix.store import schema
from veltrix.store.transactions import transaction

PLAIN = Audited(author="ops", action="run.cancel", reason="why", target="run")
ODD = [
    Audited(
        author="größe\n\u202e",
        action="x.y",
        reason="",
        target="group",
        target_id="",
        request={"a": ["ü", None, {"b": 1.5}]},
        run_ids=[str(UUID(int=number)) for number in (3, 1, 2)],
        result={"replayed": 3},
        is_refused=True,
    ),
    Audited(author="-1", action="", reason="\N{PILE OF POO}" * 400, target="", target_id="run"),
]
# Columns, and what a forger may write there.
CHANGES = {
    "at": "at + interval '1 microsecond'",
    "author": "author || ' '",
    "action": "'run.edit'",
    "target": "target || coalesce(target_id, '.')",
    "target_id": "coalesce(target_id, '') || '.'",
    "reason": "'other'",
    "request": """'{ }'""",
    "run_ids": "run_ids || gen_random_uuid()",
    "runs": "runs + 1",
    "runs_digest": "''",
    "result": """'{"replayed":4}'""",
    "is_refused": "not is_refused",
    "hash": "sha256(hash)",
}
TEMPORARY_ID = 1_000


def fill(engine: Engine, count: int = 8) -> None:
    with transaction(engine) as tx:
        append(tx, [*ODD, *[PLAIN] * (count - len(ODD))])


def forge(engine: Engine, *statements: str) -> None:
    """As somebody who owns the tables."""
    with transaction(engine) as tx:
        for trigger in ("disable", "enable"):
            tx.exec_driver_sql(f"alter table audit {trigger} trigger all")
            if trigger == "disable":
                for statement in statements:
                    tx.exec_driver_sql(statement)


def looked_at(
    engine: Engine, since_id: int | None = None, expected: Sequence[tuple[int, str]] = ()
) -> Verified:
    with transaction(engine, snapshot=True) as tx:
        return verify(tx, since_id=since_id, expected=expected)


def found(engine: Engine, expected: Sequence[tuple[int, str]] = ()) -> list[tuple[str, int, int]]:
    return [(b.kind, b.id, b.last_id) for b in looked_at(engine, expected=expected).breaks]


def hash_of(engine: Engine, row_id: int) -> str:
    with transaction(engine) as tx:
        row = entry(tx, row_id)
    assert row is not None
    assert row.hash is not None
    return row.hash


def insert(row_id: int, hash_: str = "null") -> str:
    return (
        "insert into audit (id, author, action, target, reason, request, run_ids, runs, result,"
        f" is_refused, hash) overriding system value select {row_id}, 'a', 'b', 'c', '', '{{}}',"
        f" '{{}}', 0, '{{}}', false, {hash_}"
    )


def swap(one: int, other: int) -> list[str]:
    return [
        f"update audit set id = {to} where id = {row}"
        for row, to in ((one, TEMPORARY_ID), (other, one), (TEMPORARY_ID, other))
    ]


REWRITE = """
do $$
declare
    previous bytea := decode(repeat('00', 32), 'hex');
    entry audit;
begin
    for entry in select * from audit order by id loop
        previous := audit_link(previous, entry);
        update audit set hash = previous where id = entry.id;
    end loop;
    update audit_numbers set hash = previous, last = (select max(id) from audit);
end
$$
"""


def test_what_was_written_is_whole_whoever_wrote_it_and_whatever_it_says(engine: Engine) -> None:
    large = [str(UUID(int=number)) for number in range(RUN_IDS_MAX + 1)]
    fill(engine)
    with transaction(engine) as tx:
        append(tx, [Audited(author="a", action="b", reason="", target="run", run_ids=large[:-1])])
        append(tx, [Audited(author="a", action="b", reason="", target="run", run_ids=large)])

    def write(_number: int) -> None:
        with transaction(engine) as tx:
            append(tx, [PLAIN, PLAIN])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(20)))

    all_of_it = looked_at(engine)
    kept = [(number, hash_of(engine, number)) for number in (1, 9, 50)]
    assert (all_of_it.rows, all_of_it.unhashed_rows, all_of_it.is_whole) == (50, 0, True)
    assert (all_of_it.last_id, all_of_it.last_hash) == kept[-1]
    assert looked_at(engine, expected=kept).is_whole
    assert (looked_at(engine, since_id=50).rows, looked_at(engine, since_id=50).is_whole) == (
        1,
        True,
    )
    assert looked_at(engine, since_id=51).is_whole


def test_id_time_and_hash_are_the_triggers_whatever_an_owner_says(engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.exec_driver_sql(
            insert(77, "'\\x00'")
            .replace("(id,", "(at, id,")
            .replace("select", "select '2020-01-01',")
        )
        row_id, is_now = tx.exec_driver_sql(
            "select id, now() - at < interval '1 hour' from audit"
        ).one()

    assert (row_id, is_now) == (1, True)
    assert looked_at(engine).is_whole


def test_a_row_that_was_changed_is_found_in_whatever_column(engine: Engine) -> None:
    fill(engine, len(CHANGES) * 2 + 2)
    changed = dict(zip(CHANGES.items(), range(2, 100, 2), strict=False))
    for (column, value), row_id in changed.items():
        forge(engine, f"update audit set {column} = {value} where id = {row_id}")
    breaks = found(engine)

    assert breaks == [("changed", row_id, row_id) for row_id in range(2, 28, 2)]


HASHED = (
    "update audit a set hash = audit_link((select hash from audit where id = 8), a) where id = 9"
)
EXCHANGED = (
    "update audit a set at = w.at, reason = w.reason, author = w.author, action = w.action,"
    " target = w.target, target_id = w.target_id, request = w.request, runs = w.runs,"
    " run_ids = w.run_ids, result = w.result, is_refused = w.is_refused"
    " from was w where (a.id, w.id) in ((1, 6), (6, 1))"
)


# What was done, and the breaks that are told.
DONE: dict[str, tuple[list[str], list[tuple[str, int, int]]]] = {
    "one taken": (["delete from audit where id = 4"], [("missing", 4, 4)]),
    "first taken": (["delete from audit where id < 4"], [("missing", 1, 3)]),
    "end cut": (["delete from audit where id > 5"], [("cut_off", 6, 8)]),
    "all taken": (["delete from audit"], [("cut_off", 1, 8)]),
    "hash taken": (["update audit set hash = null where id = 4"], [("changed", 4, 4)]),
    "two places": (
        ["delete from audit where id in (2, 3, 6)"],
        [("missing", 2, 3), ("missing", 6, 6)],
    ),
    "taken and renumbered": (
        [
            "delete from audit where id = 4",
            "update audit set id = id - 1 where id > 4",
            "update audit_numbers set last = 7",
        ],
        [("missing", 4, 4), ("moved", 5, 7)],
    ),
    "put in at the end": ([insert(9)], [("put_in", 9, 9)]),
    "put in before the first": ([insert(0), insert(-5)], [("put_in", -5, 0)]),
    "put in with a hash that fits": ([insert(9), HASHED], [("put_in", 9, 9)]),
    "put in and renumbered": (
        [
            "update audit set id = -id where id > 3",
            "update audit set id = 1 - id where id < 0",
            insert(4, "sha256('')"),
            "update audit_numbers set last = 9",
        ],
        [("put_in", 4, 4), ("moved", 5, 9)],
    ),
    "neighbours": (swap(4, 5), [("moved", 4, 5)]),
    "far apart": (swap(2, 7), [("moved", 2, 2), ("moved", 7, 7)]),
    "first and last": (swap(1, 8), [("moved", 1, 1), ("moved", 8, 8)]),
    "three in a ring": (
        [*swap(2, 7), *swap(2, 5)],
        [("moved", 2, 2), ("moved", 5, 5), ("moved", 7, 7)],
    ),
    "contents under each other's hash": (
        ["create temporary table was on commit drop as table audit", EXCHANGED],
        [("moved", 1, 1), ("moved", 6, 6)],
    ),
    "last number": (["update audit_numbers set hash = sha256(hash)"], [("rewritten", 8, 8)]),
    "no number": (["delete from audit_numbers"], [("rewritten", 8, 8)]),
}


def test_what_was_done_to_the_rows_is_told(engine: Engine) -> None:
    fill(engine)
    told: dict[str, list[tuple[str, int, int]]] = {}

    with transaction(engine, snapshot=True) as tx:
        tx.exec_driver_sql("alter table audit disable trigger all")
        for name, (statements, _) in DONE.items():
            undone = tx.begin_nested()
            for statement in statements:
                tx.exec_driver_sql(statement)
            told[name] = [(one.kind, one.id, one.last_id) for one in verify(tx).breaks]
            undone.rollback()

    assert told == {name: breaks for name, (_, breaks) in DONE.items()}


def test_a_chain_that_was_written_anew_shows_to_who_kept_a_row(engine: Engine) -> None:
    fill(engine)
    kept = [(number, hash_of(engine, number)) for number in (2, 5, 8)]

    forge(engine, "update audit set author = 'nobody' where id = 4", REWRITE)
    anew = found(engine), found(engine, kept)
    forge(engine, "delete from audit where id > 6", REWRITE)
    cut = found(engine), found(engine, kept)

    assert anew == ([], [("rewritten", 5, 5), ("rewritten", 8, 8)])
    assert cut == ([], [("rewritten", 5, 5), ("cut_off", 7, 8)])


def test_many_breaks_are_counted_beyond_those_that_are_told(engine: Engine) -> None:
    fill(engine, 100)

    forge(engine, "update audit set reason = 'other' where id & 1 = 0")

    seen = looked_at(engine)
    assert [one.id for one in seen.breaks] == list(range(2, 42, 2))
    assert (seen.more_rows, seen.is_whole) == (30, False)


def test_rows_from_before_the_chain_are_covered_by_its_first(
    engine: Engine, database_url: str
) -> None:
    schema.downgrade(database_url, "0010")
    older = insert(0).replace("overriding system value", "").replace(", hash)", ")")
    with transaction(engine) as tx:
        for _ in range(5):
            tx.exec_driver_sql(older.replace(", null", ""))
    forge(engine, "delete from audit where id = 2")  # a gap, as a crash left some once
    schema.upgrade(database_url)
    fill(engine, 3)

    whole = looked_at(engine)
    with pytest.raises(ChainRefused, match="begin at row 7 or later"):
        looked_at(engine, since_id=4)
    later = looked_at(engine, since_id=7)
    forge(engine, "update audit set author = 'nobody' where id = 3")

    assert (whole.rows, whole.unhashed_rows, whole.is_whole) == (7, 4, True)
    assert (later.rows, later.is_whole) == (2, True)
    assert found(engine) == [("before", 6, 6)]
    with transaction(engine) as tx:
        assert tx.execute(text("select hash is null from audit order by id")).scalars().all() == [
            *[True] * 4,
            *[False] * 3,
        ]


def test_rows_that_name_many_runs_are_folded_a_part_at_a_time(
    engine: Engine, database_url: str
) -> None:
    schema.downgrade(database_url, "0010")
    older = insert(0).replace("overriding system value", "").replace(", hash)", ")")
    many = "(select array_agg(gen_random_uuid()) from generate_series(1, 25000))"
    with transaction(engine) as tx:
        large = older.replace(", null", "").replace("'', '{}', '{}'", f"'', '{{}}', {many}")
        tx.exec_driver_sql(f"{large} from generate_series(1, 60)")
        for_all = tx.exec_driver_sql(
            "explain (analyze, format json) select sum(length(run_ids::text)) from audit"
        ).scalar_one()

    within_s = for_all[0]["Execution Time"] / 1_000 * 0.6
    schema.upgrade(database_url, statement_timeout_s=within_s)

    assert looked_at(engine).is_whole


def test_who_is_told_how_far_it_is_may_end_it(engine: Engine) -> None:
    fill(engine, 2_500)
    told: list[int] = []

    def show(rows: int) -> bool:
        told.append(rows)
        return len(told) < 2

    with transaction(engine, snapshot=True) as tx:
        ended = verify(tx, show=show)

    assert told == [1_000, 2_000]
    assert (ended.rows, ended.is_whole, ended.is_complete) == (2_000, True, False)
