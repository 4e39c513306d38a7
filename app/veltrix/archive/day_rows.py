"""The rows of a day as an archive has them, a page at a time, in the order of their keys.

One JSON object a row, with the columns of the table in its order: ids as text, times in RFC 3339
(UTC, microseconds), bytes in base64. What is `json` in the table, which keeps it as it was sent, is
a string with that very text.
"""

from collections.abc import Iterator

import msgspec
from sqlalchemy import JSON, Connection, Table, Uuid

from veltrix.archive.manifest import ArchiveRefused
from veltrix.store.history.dropped_rows import IdBounds, Relations
from veltrix.store.tables import events, failed_attempts, journal, runs

PAGE_ROWS = 200  # in memory at once: a payload may have a MiB

# By what rows are in order, beginning with the id of the event or run that they are of.
KEYS = {
    events: ("id",),
    runs: ("id",),
    journal: ("run_id", "generation", "position"),
    failed_attempts: ("run_id", "id"),
}
_BY_NAME = {table.name: table for table in KEYS}
_LEDGER = "select id::text from ledger"


def pages_of(
    tx: Connection, table: str, relations: Relations, bounds: IdBounds
) -> Iterator[list[bytes]]:
    """Lines of JSON, of each row of this table whose id, or whose run's, is within `bounds`.

    They are as of one moment if `tx` is a snapshot; else of as many moments as there are pages, for
    relations that nobody writes to.
    """
    of = _BY_NAME[table]
    names = [column.name for column in of.columns]
    key = KEYS[of]
    places = [names.index(name) for name in key]
    relation = getattr(relations, table)
    keys: dict[str, object] = {"first": bounds.first, "end": bounds.end}
    statement = _statement(of, relation, is_first=True)
    while rows := tx.exec_driver_sql(statement, keys).all():
        yield [msgspec.json.encode(dict(zip(names, row, strict=True))) for row in rows]
        if len(rows) < PAGE_ROWS:
            return
        keys |= {f"after_{name}": rows[-1][at] for name, at in zip(key, places, strict=True)}
        statement = _statement(of, relation, is_first=False)


def read_ledger_id(tx: Connection) -> str:
    """Which ledger this is. Raises ArchiveRefused where its row was taken away."""
    found = tx.exec_driver_sql(_LEDGER).scalar_one_or_none()
    if found is None:
        raise ArchiveRefused(
            "the table `ledger` is empty, so an archive could not say whose it is; put one row with"
            " gen_random_uuid() into it, as the role that owns the tables"
        )
    return str(found)


def _statement(table: Table, relation: str, *, is_first: bool) -> str:
    key = KEYS[table]
    columns = ", ".join(
        f"{column.name}::text" if isinstance(column.type, Uuid | JSON) else column.name
        for column in table.columns
    )
    after = ", ".join(f"%(after_{name})s" for name in key)
    beyond = "" if is_first else f"and ({', '.join(key)}) > ({after})"
    order = ", ".join(f"t.{name}" for name in key)
    return f"""
select {columns} from {relation} as t
where {key[0]} >= %(first)s::uuid and {key[0]} < %(end)s::uuid {beyond}
order by {order} limit {PAGE_ROWS}
"""  # noqa: S608 - names of our own tables
