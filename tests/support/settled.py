"""Runs claimed and settled as a worker does it, without one."""

from collections.abc import Sequence
from uuid import uuid4

from sqlalchemy import Engine, text

from veltrix.operations.books.books import fold_once
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry, Settlement
from veltrix.store.transactions import open_autocommit, transaction


def hold(engine: Engine, run_ids: Sequence[str]) -> str:
    """A worker claims these runs; its token."""
    token = str(uuid4())
    with open_autocommit(engine) as tx:
        claims = lease_rows.claim(tx, token, "worker", [(id_, id_) for id_ in run_ids], hold_s=8.0)
    assert [claim.run_id for claim in claims] == sorted(run_ids)
    return token


def settle(
    engine: Engine,
    run_ids: Sequence[str],
    state: str,
    entries: Sequence[JournalEntry] = (),
    **settlement: str | None,
) -> None:
    """A worker claims these runs and settles them in one write, with these entries."""
    token = hold(engine, run_ids)
    settlements = [Settlement(run_id=id_, state=state, **settlement) for id_ in run_ids]  # type: ignore[arg-type]
    with open_autocommit(engine) as tx:
        held = journal_rows.write(tx, token, "worker", entries, [], settlements)
    assert sorted(held) == sorted(run_ids)


def fold_all(engine: Engine) -> int:
    """Fold until no delta is left; how many there were."""
    folded = 0
    while now := fold_once(engine):
        folded += now
    return folded


def run_sql(engine: Engine, *statements: str) -> None:
    """Each statement must change at least one row."""
    with transaction(engine) as tx:
        for statement in statements:
            assert tx.execute(text(statement)).rowcount > 0, statement
