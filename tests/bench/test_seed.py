"""Seeded history is like real history: the platform's own recount finds nothing wrong with it."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from bench.seed import NoRoom, check_room, seed
from veltrix.operations.books.books import balance
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction


def test_seeded_history_balances_and_is_sealed(engine: Engine) -> None:
    said: list[str] = []

    seed(engine, 1_200, said.append)

    books = balance(engine)
    assert (books.events.accepted, books.runs.succeeded, books.unaccounted) == (1_200, 1_200, 0)
    with transaction(engine) as tx:
        rows = tx.execute(
            text(f"select count(*) from {JOURNAL_OF} j join runs r on r.id = j.run_id")
        )
        assert rows.scalar_one() == 1_200
    assert said[0] == "seeded 1,200 of 1,200"


def test_too_little_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="ask for less with --events"):
        check_room(tmp_path, 10**15)
    check_room(tmp_path, 1)
