"""Columns reach PostgreSQL as they are, however few different values they hold."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from veltrix.store.arrays import (
    BoolArray,
    BytesArray,
    FloatArray,
    IntArray,
    PgArray,
    TextArray,
    UuidArray,
)
from veltrix.store.transactions import fetch, open_autocommit

COLUMNS: list[tuple[type[PgArray], Sequence[Any]]] = [
    (TextArray, ["a", "a", "a"]),
    (TextArray, ["a", None, "\u00e9"]),
    (TextArray, [None, None]),
    (TextArray, ("", "")),
    (TextArray, ["a"]),
    (UuidArray, [UUID("01a22fbf-a89b-7e3e-9cc2-094cac28057b"), None]),
    (UuidArray, [UUID(int=1), UUID(int=2)]),
    (UuidArray, [UUID(int=1), UUID(int=1)]),
    (UuidArray, [None, None]),
    (BytesArray, [b"\x00", b"\x00"]),
    (BytesArray, [b"", None]),
    (IntArray, [7, 7, 7]),
    (IntArray, [-1, 2**62]),
    (BoolArray, [True, True]),
    (BoolArray, [True, False]),
    (FloatArray, [0.5, 0.5]),
    (FloatArray, [0.0, -0.0]),
]


@pytest.mark.parametrize(("array", "values"), COLUMNS)
def test_a_column_arrives_as_it_is(
    engine: Engine, array: type[PgArray], values: Sequence[Any]
) -> None:
    numbers = IntArray(range(len(values)))
    with open_autocommit(engine) as tx:
        rows = fetch(
            tx,
            "select u.value from unnest(%(number)s, %(value)s) as u(number, value) order by number",
            {"number": numbers, "value": array([_given(value) for value in values])},
        )

    assert [repr(row[0]) for row in rows] == [repr(value) for value in values]


def _given(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


@pytest.mark.parametrize("text", ["", "01", "01a22fbf", "no id at all, but 36 characters long!!"])
def test_what_is_no_id_is_refused_here(text: str) -> None:
    with pytest.raises(ValueError, match=r"ids|fromhex"):
        UuidArray([str(UUID(int=1)), text])
