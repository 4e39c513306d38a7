"""PostgreSQL as it is now, seen by the platform's role."""

import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.session import LookingSession
from veltrix.settings.fields import Settings
from veltrix.store import schema
from veltrix.store.connections import SessionShared
from veltrix.store.errors import told
from veltrix.store.history.days import Days, look

SETTINGS = (
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "autovacuum",
    "track_counts",
    "max_connections",
    "superuser_reserved_connections",
    "zero_damaged_pages",
    "ignore_system_indexes",
    "server_version",
    "transaction_read_only",
)
_SETTINGS = """
select name, setting, source, coalesce(sourcefile, ''), pending_restart
from pg_catalog.pg_settings where name = any(%(names)s::text[])
"""
# What roles and databases set: Veltrix's own sessions cover it, others do not.
_OF_ROLES = """
select coalesce(quote_ident(d.datname), ''), coalesce(quote_ident(r.rolname), ''), s.setting
from pg_catalog.pg_db_role_setting c
left join pg_catalog.pg_database d on d.oid = c.setdatabase
left join pg_catalog.pg_roles r on r.oid = c.setrole
cross join unnest(c.setconfig) as s(setting)
where (c.setdatabase = 0 or d.datname = current_database())
    and (c.setrole = 0 or r.rolname = current_user or not r.rolsuper
        and pg_catalog.has_table_privilege(c.setrole, to_regclass('public.runs'), 'INSERT'))
"""
_TABLES = """
select c.relname, c.relpersistence::text, c.relkind::text,
    coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), s.last_autovacuum,
    coalesce((select option_value from pg_catalog.pg_options_to_table(c.reloptions)
        where option_name = 'autovacuum_enabled'), 'true')
from pg_catalog.pg_class c left join pg_catalog.pg_stat_user_tables s on s.relid = c.oid
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
"""
# Tables that change all the time, and their indexes: sizes of files beside what statistics say is
# in them. No statistics yet: nothing is known of a row.
SIZED = ("runs", "runs_open", "counter_deltas", "journal", "workers")
_SIZES = """
with sized as (
    select c.oid, c.relname, greatest(c.reltuples, s.n_live_tup, 0)::float8 as live,
        coalesce(s.n_dead_tup, 0)::float8 as dead
    from pg_catalog.pg_class c left join pg_catalog.pg_stat_user_tables s on s.relid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
        and c.relname = any(%(names)s::text[])
)
select t.relname, null::name, pg_catalog.pg_relation_size(t.oid), t.live + t.dead,
    coalesce((select sum(p.avg_width * (1 - p.null_frac)) from pg_catalog.pg_stats p
        where p.schemaname = 'public' and p.tablename = t.relname), 0)::float8
from sized t
union all
select t.relname, i.relname, pg_catalog.pg_relation_size(i.oid), t.dead
    + case when x.indpred is null then greatest(t.live, i.reltuples) else i.reltuples end, 0
from sized t join pg_catalog.pg_index x on x.indrelid = t.oid
join pg_catalog.pg_class i on i.oid = x.indexrelid
where i.reltuples >= 0 and x.indisvalid
order by 1, 2 nulls first
"""
_SESSIONS = """
select pid, coalesce(application_name, ''), coalesce(usename, ''), coalesce(state, ''),
    extract(epoch from now() - xact_start)::float8
from pg_catalog.pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid()
    and xact_start < now() - %(long_s)s * interval '1 second' and datname = current_database()
order by xact_start limit 20
"""
_USED = """
select count(*) filter (where backend_type = 'client backend'),
    count(*) filter (where backend_type = 'client backend' and datname = current_database()),
    (select rolconnlimit from pg_catalog.pg_roles where rolname = current_user),
    (select datconnlimit from pg_catalog.pg_database where datname = current_database()),
    (select count(*) from pg_catalog.pg_stat_activity where usename = current_user)
from pg_catalog.pg_stat_activity
"""
_STANDBYS = """
select coalesce(application_name, ''), coalesce(sync_state, '') from pg_catalog.pg_stat_replication
where state = 'streaming' and application_name <> 'pg_receivewal'
"""
LONG_TRANSACTION_S = 300.0


class ServerSetting(msgspec.Struct, frozen=True):
    """A setting as it is in effect in a session of the platform's, and who set it."""

    name: str
    value: str
    source: str
    file: str
    is_pending: bool

    @property
    def origin(self) -> str:
        """For people."""
        return f"{self.source}{f', {self.file}' if self.file else ''}"


class TableState(msgspec.Struct, frozen=True):
    """A table of ours. `persistence`: p is permanent, u unlogged."""

    name: str
    persistence: str
    kind: str
    live_rows: int
    dead_rows: int
    vacuumed_at: datetime | None
    autovacuum: str


class StoredSize(msgspec.Struct, frozen=True):
    """How much a table takes on disk, or an `index` of it, beside what it holds.

    `rows` are counted with dead ones. `width` is what the columns of one take, 0: not known.
    """

    table: str
    index: str | None
    bytes: int
    rows: float
    width: float


class LongTransaction(msgspec.Struct, frozen=True):
    """A transaction that has been open for long, by whom."""

    pid: int
    application: str
    user: str
    state: str
    age_s: float


class LiveDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """What a session of ours finds. `trouble`: a pooler is between, and little else was asked.

    `of_roles`: (database, role, setting) of what ALTER ROLE and ALTER DATABASE set. `used`: client
    sessions of the server. `clock_offset_s`: how far the database is ahead of this machine. `days`:
    of the ledger, None before there were any.
    """

    pooler: str | None = None
    is_standby: bool = False
    settings: dict[str, ServerSetting] = {}
    of_roles: list[tuple[str, str, str]] = []
    tables: dict[str, TableState] = {}
    sizes: list[StoredSize] = []
    transactions: list[LongTransaction] = []
    standbys: list[tuple[str, str]] = []
    used: int = 0
    used_by_role: int = 0
    role_limit: int = -1
    database_limit: int = -1
    used_in_database: int = 0
    revision: str | None = None
    is_at_head: bool = True
    clock_offset_s: float = 0.0
    days: Days | None = None

    def need(self) -> None:
        """Raises Unread where only the pooler, or the standby, is known."""
        if self.pooler is not None:
            raise Unread("a pooler that pools by transaction is between; see D18")

    def has(self, table: str) -> bool:
        """The schema has it."""
        return table in self.tables


def read_database(settings: Settings, unix_s: Callable[[], float] = time.time) -> LiveDatabase:
    """`look_at_database` in a session for this one look. Raises Unread."""
    with closing(LookingSession(settings)) as session:
        return look_at_database(session, unix_s)


def look_at_database(
    session: LookingSession, unix_s: Callable[[], float] = time.time
) -> LiveDatabase:
    """All of it, in a dozen statements. Raises Unread."""
    if not session.is_configured:
        raise Unread(
            "VELTRIX_DATABASE_URL is not set; set it to"
            " postgresql+psycopg://user:password@host/database?sslmode=verify-full"
        )
    try:
        return session.look(lambda tx: _read(tx, unix_s))
    except SessionShared as error:
        return LiveDatabase(pooler=told(error))
    except (DBAPIError, psycopg.Error) as error:
        if isinstance(error, DBAPIError) and isinstance(error.orig, SessionShared):
            return LiveDatabase(pooler=told(error))
        raise away(error) from None


def away(error: Exception) -> Unread:
    """Why the database cannot be asked, with the cure."""
    return Unread(
        f"the database cannot be asked ({told(error)}); start it, or see where it is looked for"
        " with `veltrix config`"
    )


def _read(tx: Connection, unix_s: Callable[[], float]) -> LiveDatabase:
    before_s = unix_s()
    is_standby, now_s = _one(
        tx, "select pg_is_in_recovery(), extract(epoch from clock_timestamp())::float8"
    )
    middle_s = (before_s + unix_s()) / 2
    used, used_in_database, role_limit, database_limit, used_by_role = _one(tx, _USED)
    tables = [TableState(*row) for row in tx.exec_driver_sql(_TABLES)]
    return LiveDatabase(
        is_standby=is_standby,
        settings={
            row[0]: ServerSetting(*row)
            for row in tx.exec_driver_sql(_SETTINGS, {"names": list(SETTINGS)})
        },
        of_roles=[(row[0], row[1], row[2]) for row in tx.exec_driver_sql(_OF_ROLES)],
        tables={table.name: table for table in tables},
        sizes=[StoredSize(*row) for row in tx.exec_driver_sql(_SIZES, {"names": list(SIZED)})],
        transactions=[
            LongTransaction(*row)
            for row in tx.exec_driver_sql(_SESSIONS, {"long_s": LONG_TRANSACTION_S})
        ],
        standbys=[(row[0], row[1]) for row in tx.exec_driver_sql(_STANDBYS)],
        used=used,
        used_by_role=used_by_role,
        role_limit=role_limit,
        database_limit=database_limit,
        used_in_database=used_in_database,
        revision=schema.revision_of(tx),
        is_at_head=schema.at_head(tx),
        clock_offset_s=now_s - middle_s,
        days=look(tx) if "runs" in {table.name for table in tables} else None,
    )


def _one(tx: Connection, statement: str) -> Any:
    return tx.exec_driver_sql(statement).one()
