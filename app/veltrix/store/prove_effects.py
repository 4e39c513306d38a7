"""The table of effects: transactional steps of prove write a row each, so that twice is two rows.

Its index is not unique on purpose: the table must be able to hold what must never be in it.
"""

from sqlalchemy import Engine, text

from veltrix.store.tables import ADVISORY_LOCK
from veltrix.store.transactions import transaction

TABLE = """
create table if not exists prove_effects (key text collate "C" not null);
create index if not exists prove_effects_key_idx on prove_effects (key)
"""


def make_table(engine: Engine) -> None:
    """The table is there, whole, whoever else makes it or migrates at the same time."""
    with transaction(engine) as tx:
        tx.execute(text("select pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        for statement in TABLE.split(";"):
            tx.execute(text(statement))
