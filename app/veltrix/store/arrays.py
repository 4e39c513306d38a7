"""Columns of a list as PostgreSQL arrays in binary form, ready for `unnest`.

psycopg dumps a Python list element by element through its adapters; for lists of hundreds of rows
and twenty columns that is most of the cost of a statement. These classes build the wire form with
one join (format: PostgreSQL `array_send`). A column that is NULL in every row becomes an empty
array: `unnest` of several arrays pads it with NULLs. One that is the same in every row, as half of
them are, is encoded once.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, ClassVar

from psycopg import Connection
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

_HEADER = Struct("!iiiii").pack  # dimensions, has nulls, element type, length, lower bound
_EMPTY = Struct("!iii").pack
_LEN = Struct("!i").pack
_NULL = _LEN(-1)
_TRUE, _FALSE = _LEN(1) + b"\x01", _LEN(1) + b"\x00"
_INT8 = Struct("!iq").pack
_FLOAT8 = Struct("!id").pack


class PgArray:
    """Base of the array classes: `data` is the wire form."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]
    is_equal_same: ClassVar[bool] = True  # values that are equal have one encoding

    def __init__(self, values: Sequence[Any]) -> None:
        rows = len(values)
        if values.count(None) == rows:
            self.data = _EMPTY(0, 0, self.element_oid)
            return
        if self.is_equal_same and values.count(values[0]) == rows:
            encoded = self._encode(values[:1]) * rows
        else:
            encoded = self._encode(values)
        self.data = _HEADER(1, 1, self.element_oid, rows, 1) + encoded

    def _encode(self, values: Sequence[Any]) -> bytes:
        raise TypeError(f"use one of the array classes below for {len(values)} values")


class TextArray(PgArray):
    """text[]; cast it in SQL for json[]. Lone surrogates: UnicodeEncodeError."""

    element_oid, array_oid = 25, 1009

    def _encode(self, values: Sequence[str | None]) -> bytes:
        return b"".join(
            [
                _NULL if value is None else _LEN(len(encoded := value.encode())) + encoded
                for value in values
            ]
        )


class UuidArray(PgArray):
    """uuid[], of ids as this platform writes them; of another text: ValueError.

    All at once from hexadecimal: to parse them as text took PostgreSQL a good part of a statement.
    """

    element_oid, array_oid = 2950, 2951

    def _encode(self, values: Sequence[str | None]) -> bytes:
        digits = [None if value is None else value.replace("-", "") for value in values]
        if {len(one) for one in digits if one is not None} != {32}:
            raise ValueError("not all of these are ids")
        if None in digits:
            text = "".join("ffffffff" if one is None else f"00000010{one}" for one in digits)
        else:
            text = "00000010".join(("", *digits))  # type: ignore[arg-type]
        return bytes.fromhex(text)


def uuids(ids: str | Sequence[str]) -> UuidArray:
    """One id, or many."""
    return UuidArray([ids] if isinstance(ids, str) else ids)


class BytesArray(PgArray):
    """bytea[]."""

    element_oid, array_oid = 17, 1001

    def _encode(self, values: Sequence[bytes | None]) -> bytes:
        return b"".join([_NULL if value is None else _LEN(len(value)) + value for value in values])


class IntArray(PgArray):
    """bigint[]. Raises struct.error beyond 64 bits."""

    element_oid, array_oid = 20, 1016

    def _encode(self, values: Sequence[int | None]) -> bytes:
        return b"".join([_NULL if value is None else _INT8(8, value) for value in values])


class FloatArray(PgArray):
    """double precision[]."""

    element_oid, array_oid = 701, 1022
    is_equal_same = False  # 0.0 and -0.0

    def _encode(self, values: Sequence[float | None]) -> bytes:
        return b"".join([_NULL if value is None else _FLOAT8(8, value) for value in values])


class BoolArray(PgArray):
    """boolean[]."""

    element_oid, array_oid = 16, 1000

    def _encode(self, values: Sequence[bool]) -> bytes:
        return b"".join([_TRUE if value else _FALSE for value in values])


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PgArray) -> Buffer | None:
        return obj.data


def register_arrays(connection: Connection[Any]) -> None:
    """Teach a connection these classes."""
    for array in (TextArray, UuidArray, BytesArray, IntArray, FloatArray, BoolArray):
        dumper = type(f"{array.__name__}Dumper", (_ArrayDumper,), {"oid": array.array_oid})
        connection.adapters.register_dumper(array, dumper)
