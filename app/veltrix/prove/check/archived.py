"""What has left the ledger, for a session that looks at it as a whole.

The rows of an archive are put among those of the ledger in tables of the session, which have the
names of ours and hide them: so every statement of the checker asks for both.
"""

from itertools import islice
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from sqlalchemy import JSON, LargeBinary, Table

from veltrix.archive.files import lines_of
from veltrix.archive.folder import parts_of
from veltrix.archive.manifest import ArchivePart
from veltrix.archive.verify import check_part
from veltrix.store.tables import events, failed_attempts, journal, runs

_TABLES = (events, runs, journal, failed_attempts)
_PAGE = 2_000
_MAKE: LiteralString = """
create temp table {table} as select * from public.{table};
create index on pg_temp.{table} ({key})
"""
_TYPES = """
select attname, format_type(atttypid, atttypmod) from pg_attribute
where attrelid = %(table)s::regclass and attnum > 0 and not attisdropped order by attnum
"""


def see_archived(connection: psycopg.Connection, folder: Path) -> int:
    """From here on this session sees archived rows beside those of the ledger; how many events.

    In a transaction. Raises ArchiveBroken where an archive does not prove itself.
    """
    parts = parts_of(folder) if folder.is_dir() else []
    for part in parts:
        check_part(part)
    if parts:
        for table in _TABLES:
            _see(connection, table, parts)
    return sum(part.manifest.counts["accepted"] for part in parts)


def _see(connection: psycopg.Connection, table: Table, parts: list[ArchivePart]) -> None:
    types: dict[str, str] = dict(
        connection.execute(_TYPES, {"table": f"public.{table.name}"}).fetchall()
    )
    key = "run_id" if "run_id" in table.columns else "id"
    names = {"table": Identifier(table.name), "key": Identifier(key)}
    connection.execute(SQL(_MAKE).format(**names))
    values = SQL(", ").join(_value(table, name, types[name]) for name in types)
    add = SQL(
        "insert into pg_temp.{table} select {values}"
        " from unnest(%(lines)s::text[]) as l(line) cross join lateral (select line::json as x) j"
    ).format(table=Identifier(table.name), values=values)
    for part in parts:
        lines = lines_of(part.file(table.name))
        while page := [line.decode() for line in islice(lines, _PAGE)]:
            connection.execute(add, {"lines": page})


def _value(table: Table, name: str, type_: str) -> Composed:
    kind = table.columns[name].type
    text = SQL("(x ->> {name})").format(name=Literal(name))
    if isinstance(kind, LargeBinary):
        return SQL("decode({text}, 'base64')").format(text=text)
    written = "json" if isinstance(kind, JSON) else type_
    return SQL("{text}::{type}").format(text=text, type=Written(written))


class Written(Composable):
    """A type as the catalog writes it."""

    def as_bytes(self, context: object = None) -> bytes:
        """As it is."""
        del context
        return str(self._obj).encode()
