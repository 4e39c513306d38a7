"""However few parts a write's statement has, what is written and answered is the same."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import msgspec
import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH, MAX_CACHED_STATEMENT_PARAMS, PostgresQuery
from psycopg.adapt import Transformer
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs
from tests.support.settled import hold
from veltrix.pipeline.accept import ledger_rows, new_rows
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Settlement
from veltrix.pipeline.execute.journal_statement import Parts, parts_of, statement_of
from veltrix.pipeline.relay import due_rows
from veltrix.store.transactions import open_autocommit, transaction

# What a run of a list may have to write.
Said = list[JournalEntry | FailedAttempt | Settlement]

WHOLE = Parts(*[True] * 6)
ERROR = '{"type": "Declined"}'


def every_parts() -> list[Parts]:
    """Those that rows can have: a row without a settlement has an entry or a failed attempt."""
    return [
        parts
        for parts in map(Parts._make, product([False, True], repeat=6))
        if (parts.has_unsettled or parts.has_settled)
        and (parts.has_entries or parts.has_failures or not parts.has_unsettled)
        and (parts.has_settled or not parts.has_details)
        and (parts.has_details or not parts.has_failed)
    ]


def entry(position: str, **changes: Any) -> JournalEntry:
    return JournalEntry("", position, **{"kind": "step", "name": "charge"} | changes)


def failed(position: str, retry_delay_s: float | None = 2.5) -> FailedAttempt:
    fingerprint = "f" * 16
    return FailedAttempt(
        "", position, "charge", 2, "Declined", "no", "line 1", fingerprint, retry_delay_s
    )


def settled(state: str, **changes: Any) -> Settlement:
    return Settlement(run_id="", state=state, **{"code_version": "2"} | changes)


WHY = {"reason": "step_failed", "fingerprint": "f" * 16, "failed_step": "charge"}
KINDS: dict[str, Said] = {
    "one step": [entry("1", output="1", arguments_digest=b"\x01"), settled("succeeded")],
    "no step": [settled("succeeded", outcome='{"a":  1}', code_version=None)],
    "two steps": [entry("1.0", output="1"), entry("1.1", attempts=2), settled("succeeded")],
    "goes on": [entry("1", output='"ä"')],
    "sleeps": [entry("1", kind="sleep", output="60.0"), settled("waiting", wait_s=60.0)],
    "tries again": [failed("1"), settled("waiting", wait_s=2.5)],
    "branches try again": [entry("1.0"), failed("1.1"), failed("1.2")],
    "a branch tries again": [failed("1.1")],
    "fails for nothing": [failed("", None), settled("succeeded")],
    "makes up for it": [entry("1", error=ERROR), failed("1", None), settled("succeeded")],
    "fails": [entry("1", error=ERROR), failed("1", None), settled("failed", **WHY)],
    "fails at once": [settled("failed", reason="unknown_workflow")],
    "fails after a step": [entry("1"), settled("failed", **WHY)],
    "fails by itself": [failed("", None), settled("failed", **WHY)],
    "keyed": [entry("1"), settled("succeeded", key="customer")],
    "handed back": [settled("queued", wait_s=0.0)],
    "cancelled": [settled("cancelled", reason="requested")],
}
LISTS = [
    *combinations(KINDS, 1),
    *combinations(KINDS, 2),
    tuple(KINDS),
]


def write(engine: Engine, kinds: Sequence[str]) -> list[Any]:
    """Write a list with each kind as it is, with its cancel requested, and lost; what is there."""
    ids = add_runs(engine, 3 * len(kinds))
    of_kind = dict(zip(ids, [*kinds] * 3, strict=True))
    mine, lost = ids[: 2 * len(kinds)], ids[2 * len(kinds) :]
    token = hold(engine, mine)
    hold(engine, lost)
    change_runs(engine, ids[len(kinds) : 2 * len(kinds)], "cancel_requested_at = now()")
    said = [
        msgspec.structs.replace(one, run_id=id_)
        for id_, kind in of_kind.items()
        for one in KINDS[kind]
    ]
    with open_autocommit(engine) as tx:
        tx.execute(text("delete from counter_deltas"))
        tx.execute(text("delete from failure_deltas"))
        held = journal_rows.write(
            tx,
            token,
            "worker",
            [one for one in said if isinstance(one, JournalEntry)],
            [one for one in said if isinstance(one, FailedAttempt)],
            [one for one in said if isinstance(one, Settlement)],
        )
    return [[held.get(id_) for id_ in ids], *seen(engine, ids)]


SEEN = {
    "runs": "id, state, lease_token is null, round(extract(epoch from due_at - now()) / 30),"
    " settled_at is null, outcome::text, reason, fingerprint, failed_step, key, code_version",
    "journal": "run_id, generation, position, kind, name, arguments_digest, output::text,"
    " error::text, attempts",
    "failed_attempts": "run_id, generation, position, step, attempt, type, message, traceback,"
    " fingerprint, retry_delay_s, worker_id",
}


def seen(engine: Engine, ids: list[str]) -> Iterator[list[tuple[Any, ...]]]:
    """All that a write may change, with the place of a run in the list instead of its id."""
    with transaction(engine) as tx:
        for table, columns in SEEN.items():
            id_, _, others = columns.partition(",")
            question = text(f"select {id_}::text, {others} from {table} where {id_} = any(:ids)")
            rows = tx.execute(question, {"ids": ids})
            yield sorted(((ids.index(row[0]), *row[1:]) for row in rows), key=repr)
        for counts in (
            "select sum(succeeded), sum(failed), sum(cancelled) from counter_deltas",
            """select group_id, workflow, step, code_version, sum(count), sum(seen)
            from failure_deltas group by 1, 2, 3, 4 order by 1, 2, 3, 4""",
        ):
            yield [tuple(row) for row in tx.execute(text(counts))]


def test_every_list_is_written_as_the_whole_statement_writes_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: set[Parts] = set()

    def note(rows: Any) -> Parts:
        met.add(parts := parts_of(rows))
        return parts

    for kinds in LISTS:
        monkeypatch.setattr(journal_rows, "parts_of", lambda _rows: WHOLE)
        whole = write(engine, kinds)
        monkeypatch.setattr(journal_rows, "parts_of", note)

        assert write(engine, kinds) == whole, kinds
    assert met == set(every_parts())


def test_a_write_of_nothing_is_answered_without_asking(engine: Engine) -> None:
    with transaction(engine) as tx:
        assert journal_rows.write(tx, "no token", "worker", [], [], []) == {}


HOT = [
    ledger_rows._INSERT,
    new_rows._INSERT_NEW,
    lease_rows._CLAIM,
    due_rows._SCAN,
    due_rows._DEPTHS,
    *map(statement_of, every_parts()),
]


@pytest.mark.parametrize("statement", HOT, ids=lambda one: str(len(one)))
def test_psycopg_remembers_how_it_reads_a_statement_of_every_event(statement: str) -> None:
    """Beyond these limits it would take each apart anew, every time: a tenth of a millisecond."""
    query = PostgresQuery(Transformer())
    names = {part.split(")")[0] for part in statement.split("%(")[1:]}

    query.convert(statement.encode(), dict.fromkeys(names))

    assert len(statement.encode()) <= MAX_CACHED_STATEMENT_LENGTH
    assert len(names) <= MAX_CACHED_STATEMENT_PARAMS


def test_a_combination_of_parts_is_one_prepared_statement(engine: Engine) -> None:
    prepared = "select count(*) from pg_prepared_statements where statement like '%counter_deltas%'"
    with open_autocommit(engine) as tx:
        for runs in (*range(1, 9), 40):
            token = hold(engine, ids := add_runs(engine, runs))
            entries = [JournalEntry(id_, "1", "step", "charge", output="1") for id_ in ids]
            ends = [Settlement(run_id=id_, state="succeeded", code_version="1") for id_ in ids]
            assert len(journal_rows.write(tx, token, "worker", entries, [], ends)) == runs

        assert tx.execute(text(prepared)).scalar_one() == 1
