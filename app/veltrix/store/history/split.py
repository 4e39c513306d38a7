"""Splitting the ledger into days, online: steps that can each be run again, with old code running.

`events`, `journal` and `failed_attempts` become ranges of the id, a day each; `runs` becomes three
lives (decision 46). What was there becomes the first part of each, up to a midnight to come, and is
not rewritten. Nobody waits behind us for longer than `LOCK_S`.
"""

from collections.abc import Callable
from datetime import timedelta
from threading import Event

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from veltrix.store.transactions import is_locked, open_autocommit, transaction

KEYS = {"events": "id", "journal": "run_id", "failed_attempts": "run_id"}
TABLES = (*KEYS, "runs")
GUARDED = ("events", "runs")  # an event does not become a canary (migration 0013)
LOCK_S, PAUSE_S, TRIES_MAX = 0.2, 0.5, 600
# Left between the check that nothing is accepted beyond a bound, and that bound: until the split
# is done, or somebody takes the check away.
SPARE = timedelta(hours=6)

_IS_SPLIT = "select relkind = 'p' from pg_class where oid = to_regclass(%(table)s)"
_CHECK = """
select substring(pg_get_constraintdef(oid) from '[0-9a-f-]{36}')
from pg_constraint where conrelid = to_regclass(%(table)s) and conname = %(name)s
"""
_BOUND = """
select first_id_of_day((now() at time zone 'UTC')::date + 2)::text,
    first_id_of_day((now() at time zone 'UTC' + %(spare_s)s * interval '1 second')::date + 1)::text
"""
_IS_SMALL = "select count(*) < {rows} from (select from {table} limit {rows}) as found"
_GUARD = """
create trigger {table}_canary_keeps before update of account_id on {table}
for each row when (old.account_id is distinct from new.account_id
    and (old.account_id = -2 or new.account_id = -2))
execute function canary_keeps()
"""
# Who may do something with the table may do so with all of its parts, through it. Who may read it
# sees by the default part alone whether a day is missing.
_GRANTS = """
do $$
declare one record;
begin
    for one in select a.privilege_type, a.is_grantable,
            case when a.grantee = 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_class c cross join lateral aclexplode(c.relacl) a
        where c.oid = '{old}'::regclass and a.grantee <> c.relowner
    loop
        execute format('grant %s on {table} to %s%s', one.privilege_type, one.grantee,
            case when one.is_grantable then ' with grant option' else '' end);
        if one.privilege_type = 'SELECT' then
            execute format('grant select on {rest} to %s', one.grantee);
        end if;
    end loop;
end $$
"""
_SPLIT = (
    "alter table {table} rename to {table}_first",
    """create table {table} (like {table}_first including defaults including storage)
    partition by range ({key})""",
    "alter table {table} attach partition {table}_first for values from (minvalue) to ('{bound}')",
    "alter table {table}_first drop constraint {table}_before",
    "create table {table}_default (like {table}_first including all)",
    "alter table {table} attach partition {table}_default default",
)
_LIKE = "including defaults including constraints including storage"
# The table from before is the first life, whatever it holds: what has ended there is moved on
# later. Failed and ended runs have no time when they are due: who looks for that reads neither.
_SPLIT_RUNS = (
    "alter table runs rename to runs_open",
    f"create table runs (like runs_open {_LIKE}) partition by list (life)",
    "alter table runs drop constraint runs_before",
    "alter table runs attach partition runs_open for values in (0)",
    "alter table runs_open drop constraint runs_before",
    "create table runs_failed (like runs_open including all, check (due_at is null))",
    "alter table runs attach partition runs_failed for values in (1)",
    f"create table runs_ended (like runs {_LIKE}, check (due_at is null)) partition by range (id)",
    "alter table runs attach partition runs_ended for values in (2)",
    f"create table runs_ended_default (like runs_ended {_LIKE}, primary key (id))",
    "create index on runs_ended_default (state, id) where state in ('failed', 'cancelled')",
    "create table runs_ended_first (like runs_ended_default including all)",
    """alter table runs_ended attach partition runs_ended_first
    for values from (minvalue) to ('{bound}')""",
    "alter table runs_ended attach partition runs_ended_default default",
    """create or replace function life_of(state text) returns smallint
    language sql immutable parallel safe as $$ select (case state when 'failed' then 1
    when 'succeeded' then 2 when 'cancelled' then 2 else 0 end)::smallint $$""",
)
Tell = Callable[[str], object]


class SplitHeldUp(Exception):
    """Others held a lock each time; the message says on what. Nothing is left half done."""


def is_split(tx: Connection) -> bool:
    """All of the ledger's tables are split."""
    return all(_is_split(tx, table) for table in TABLES)


def is_small(tx: Connection, rows: int) -> bool:
    """Each of the tables has fewer rows: splitting it takes no time."""
    return all(
        bool(tx.exec_driver_sql(_IS_SMALL.format(table=table, rows=rows)).scalar_one())
        for table in TABLES
    )


def split(engine: Engine, tell: Tell = lambda _step: None) -> None:
    """The ledger is split, each table of it that was not; `tell` hears of each step.

    For the tables' owner. Old and new code go on meanwhile, and afterwards. Raises SplitHeldUp.
    """
    for table in TABLES:
        with open_autocommit(engine) as tx:
            if _is_split(tx, table):
                continue
            tx.exec_driver_sql("set statement_timeout = 0")
            tx.exec_driver_sql(f"set lock_timeout = '{round(LOCK_S * 1000)}ms'")
            try:
                bound = _check(tx, table)
                tell(f"{table}: reading it once, so that nothing is read behind a lock")
                _locking(tx, f"alter table {table} validate constraint {table}_before")
                tell(f"{table}: splitting it")
                _split_one(engine, table, bound)
            except BaseException:  # or from the bound on nothing could be accepted
                _uncheck(tx, table)
                raise


def _is_split(tx: Connection, table: str) -> bool:
    return bool(tx.exec_driver_sql(_IS_SPLIT, {"table": table}).scalar_one())


def _check(tx: Connection, table: str) -> str:
    """Nothing can be added that is not for the first part; the id with which the next begins."""
    bound, soon = tx.exec_driver_sql(_BOUND, {"spare_s": SPARE.total_seconds()}).one()
    names = {"table": table, "name": f"{table}_before"}
    found = tx.exec_driver_sql(_CHECK, names).scalars().all()
    if table in KEYS and found and found[0] > soon:
        return str(found[0])
    if found:
        _uncheck(tx, table)
    condition = f"{KEYS[table]} < '{bound}'" if table in KEYS else "life = 0"
    _locking(tx, f"alter table {table} add constraint {table}_before check ({condition}) not valid")
    return str(bound)


def _uncheck(tx: Connection, table: str) -> None:
    if not _is_split(tx, table):
        _locking(tx, f"alter table {table} drop constraint if exists {table}_before")


def _locking(tx: Connection, statement: str) -> None:
    _again(statement, lambda: tx.exec_driver_sql(statement))


def _split_one(engine: Engine, table: str, bound: str) -> None:
    """Under a lock that nobody waits for: names and bounds change, no row does."""
    is_runs, is_guarded = table == "runs", table in GUARDED
    statements = [
        f"set local lock_timeout = '{round(LOCK_S * 1000)}ms'",
        "lock table {table} in access exclusive mode",
        *(["drop trigger {table}_canary_keeps on {table}"] if is_guarded else []),
        *(_SPLIT_RUNS if is_runs else _SPLIT),
        *([_GUARD] if is_guarded else []),
        _GRANTS,
    ]
    words = {
        "table": table,
        "key": KEYS.get(table, ""),
        "old": "runs_open" if is_runs else f"{table}_first",
        "bound": bound,
        "rest": "runs_ended_default" if is_runs else f"{table}_default",
    }

    def run() -> None:
        with transaction(engine) as tx:
            plain = tx.execution_options(no_parameters=True)  # or %s would be one
            for statement in statements:
                plain.exec_driver_sql(statement.format(**words))

    _again(f"to split {table}", run)


def _again(what: str, do: Callable[[], object]) -> None:
    """Do it, again as long as another session holds a lock. Raises SplitHeldUp."""
    pause = Event()  # that nobody sets
    for _ in range(TRIES_MAX):
        try:
            do()
        except DBAPIError as error:
            if not is_locked(error):
                raise
            pause.wait(PAUSE_S)
        else:
            return
    raise SplitHeldUp(
        f"other sessions held a lock for {TRIES_MAX * PAUSE_S:.0f} s ({what}); nothing is half"
        " done: look for long transactions in pg_stat_activity, and run `veltrix db partition`"
        " again"
    )
