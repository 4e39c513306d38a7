"""What PostgreSQL loses, or cannot do, as it is set up."""

from collections.abc import Iterator

from veltrix.doctor.facts.postgres import LiveDatabase, ServerSetting
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.doctor.rules.platform_settings import UNSAFE_COMMITS

rules = Rules("PostgreSQL")

# A relay and an api have about eleven sessions each, a worker one for each child and two more.
SPARE_CONNECTIONS_MIN = 10
FULL_SHARE_MAX = 0.9
CLOCK_OFFSET_S_MAX = 5.0
DEAD_ROWS_MIN, DEAD_SHARE_MAX = 200_000, 1.0
# A file that was large once is no fault: its room is filled again. These are far beyond that.
BLOAT_BYTES_MIN = 256 * 1024 * 1024
TABLE_TIMES_MAX, INDEX_TIMES_MAX = 3, 4
ROW_HEAD_BYTES = 36  # header, line pointer and alignment of each row
ROW_BYTES_UNKNOWN, INDEX_ENTRY_BYTES = 1024, 64
_YES = frozenset({"on", "true", "yes", "1"})
_HOT = ("runs", "runs_open", "counter_deltas", "journal", "workers", "events", "identities")
_WAL = "https://www.postgresql.org/docs/current/runtime-config-wal.html"
_MUST_BE_ON = {
    "fsync": ("on", _WAL),
    "full_page_writes": ("on", _WAL),
    "zero_damaged_pages": (
        "off",
        "https://www.postgresql.org/docs/current/runtime-config-developer.html",
    ),
}


@rules.rule(
    "D08",
    Severity.LOSS,
    LiveDatabase,
    title="PostgreSQL answers for what is not on disk",
    why="What was committed, and answered with 202, is gone or damaged when the machine stops.",
    safe="fsync = on, full_page_writes = on, synchronous_commit = on",
    source=_WAL,
)
def not_on_disk(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    for name, (safe, _) in _MUST_BE_ON.items():
        setting = facts.settings.get(name)
        if setting is not None and setting.value != safe:
            yield _of_setting(setting, f"ALTER SYSTEM SET {name} = {safe};")
    commits = facts.settings.get("synchronous_commit")
    if commits is not None and commits.value in UNSAFE_COMMITS:
        yield _of_setting(commits, "connect to PostgreSQL without what resets synchronous_commit")


@rules.rule(
    "D08",
    Severity.LOSS,
    LiveDatabase,
    title="a role or database of ours commits without waiting for the disk",
    why="Veltrix sets synchronous_commit on in its own sessions; what else works there, as a step"
    " that connects by itself, loses what it committed last when PostgreSQL stops.",
    safe="alter role veltrix_app reset synchronous_commit;",
    source="https://www.postgresql.org/docs/current/wal-async-commit.html",
)
def role_commits_unsafely(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    for database, role, text in facts.of_roles:
        name, _, value = text.partition("=")
        if name == "synchronous_commit" and value in UNSAFE_COMMITS:
            whose = _whose(database, role)
            yield Evidence(
                found=text, origin=f"set for {whose}", cure=f"ALTER {whose} RESET {name};"
            )


def _whose(database: str, role: str) -> str:
    """What ALTER names."""
    where = f" in database {database}" if database and role else ""
    return f"role {role}{where}" if role else f"database {database}"


@rules.rule(
    "D08",
    Severity.LOSS,
    LiveDatabase,
    title="a table of ours is unlogged",
    why="PostgreSQL empties it when it recovers from a crash, and a stand-by never has its rows.",
    safe="alter table runs set logged;",
    source="https://www.postgresql.org/docs/current/sql-createtable.html",
)
def unlogged(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    for table in facts.tables.values():
        if table.persistence == "u":
            yield Evidence(
                found=f"table {table.name!r} is unlogged",
                origin="pg_class.relpersistence",
                cure=f"ALTER TABLE {table.name} SET LOGGED;",
            )


@rules.rule(
    "D25",
    Severity.LOSS,
    LiveDatabase,
    title="a fail-over loses what the stand-by does not have yet",
    why="No stand-by is waited for before a commit is answered, so the last of what got its 202 is"
    " gone when a stand-by takes the primary's place.",
    safe="synchronous_standby_names = 'ANY 1 (*)'",
    source="https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION",
)
def stand_by_lags(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    names = facts.settings.get("synchronous_standby_names")
    waited = any(state in {"sync", "quorum"} for _, state in facts.standbys)
    if facts.standbys and not waited:
        told = ", ".join(repr(name) for name, _ in facts.standbys)
        yield Evidence(
            found=f"stand-by {told} follows and nobody waits for it",
            origin=f"synchronous_standby_names = {names.value!r}" if names else "",
            cure="ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'; SELECT"
            " pg_reload_conf();",
        )


@rules.rule(
    "D18",
    Severity.STALL,
    LiveDatabase,
    title="a pooler gives each transaction another session",
    why="Settings, locks and prepared statements belong to a session: no process of ours works"
    " there.",
    safe="pool_mode = session",
    source="docs/how-to/postgresql.md",
)
def pooled_by_transaction(facts: LiveDatabase) -> Iterator[Evidence]:
    if facts.pooler is not None:
        yield Evidence(
            found="VELTRIX_DATABASE_URL leads to a pooler that pools by transaction",
            origin="tried with two connections",
            cure="pool_mode = session",
        )


@rules.rule(
    "D19",
    Severity.STALL,
    LiveDatabase,
    title="the database's name leads to a stand-by, or to one that is read-only",
    why="Nothing can be written there: apis answer 503, and no run moves.",
    safe="the primary's name, or all hosts with target_session_attrs=read-write",
    source="docs/how-to/postgresql.md",
)
def read_only(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    setting = facts.settings.get("transaction_read_only")
    if facts.is_standby:
        found, origin = "the server is a stand-by", "pg_is_in_recovery()"
    elif setting is not None and setting.value == "on":
        found, origin = "sessions are read-only", setting.origin
    else:
        # Sessions that are open go on as they began, this one too; the next is another.
        yield from _read_only_from_now(facts)
        return
    yield Evidence(
        found=found,
        origin=origin,
        cure="name the primary in VELTRIX_DATABASE_URL, or all hosts with"
        " &target_session_attrs=read-write; ALTER ... RESET default_transaction_read_only",
    )


def _read_only_from_now(facts: LiveDatabase) -> Iterator[Evidence]:
    for database, role, text in facts.of_roles:
        name, _, value = text.partition("=")
        if name == "default_transaction_read_only" and value.lower() in _YES:
            whose = _whose(database, role)
            yield Evidence(
                found=f"new sessions are read-only: {text}",
                origin=f"set for {whose}",
                cure=f"ALTER {whose} RESET {name};",
            )


_MORE_SESSIONS = {
    "role": "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1;",
    "database": "ALTER DATABASE name CONNECTION LIMIT -1;  -- the name in VELTRIX_DATABASE_URL",
    "server": "ALTER SYSTEM SET max_connections = 300;  -- and start PostgreSQL again",
}


@rules.rule(
    "D20",
    Severity.STALL,
    LiveDatabase,
    title="sessions are about to run out",
    why="Who gets none waits: an api answers 503, a worker that is started cannot begin.",
    safe="max_connections above the sum of docs/how-to/sizing.md",
    source="docs/how-to/sizing.md",
)
def few_sessions_left(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    limits = [
        ("role", facts.role_limit, facts.used_by_role, "CONNECTION LIMIT"),
        ("database", facts.database_limit, facts.used_in_database, "CONNECTION LIMIT"),
    ]
    server = facts.settings.get("max_connections")
    reserved = facts.settings.get("superuser_reserved_connections")
    if server is not None:
        most = int(server.value) - (int(reserved.value) if reserved else 0)
        limits.append(("server", most, facts.used, "max_connections"))
    for whose, most, used, name in limits:
        if most >= 0 and (used > most * FULL_SHARE_MAX or most < SPARE_CONNECTIONS_MIN):
            yield Evidence(
                found=f"{used:,} of {most:,} sessions of the {whose} are in use",
                origin=name,
                cure=_MORE_SESSIONS[whose],
            )


@rules.rule(
    "D21",
    Severity.STALL,
    LiveDatabase,
    title="the schema is older than this code",
    why="Statements of this code meet tables and columns that are not there.",
    safe="veltrix db upgrade",
    source="docs/how-to/operating.md",
)
def old_schema(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    if not facts.is_at_head:
        yield Evidence(
            found=f"the schema is at {facts.revision or 'nothing'}",
            origin="table alembic_version",
            cure="veltrix db upgrade",
        )


@rules.rule(
    "D22",
    Severity.BLIND,
    LiveDatabase,
    title="this machine's clock and the database's differ",
    why="Ids and metrics carry this machine's time, and what is due the database's: events seem"
    " late, or are refused as made in the future.",
    safe="chronyd or systemd-timesyncd on every machine",
    source="docs/how-to/operating.md",
)
def clocks_differ(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    if abs(facts.clock_offset_s) > CLOCK_OFFSET_S_MAX:
        word = "ahead of" if facts.clock_offset_s > 0 else "behind"
        yield Evidence(
            found=f"the database is {abs(facts.clock_offset_s):.1f} s {word} this machine",
            origin="clock_timestamp()",
            cure="set the clocks: timedatectl set-ntp true",
        )


@rules.rule(
    "D23",
    Severity.SLOW,
    LiveDatabase,
    title="a transaction is open for long",
    why="Vacuum may remove nothing that ended since it began: scans of open runs become slower and"
    " slower.",
    safe="idle_in_transaction_session_timeout = 60s",
    source="docs/how-to/postgresql.md",
)
def long_transaction(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    for one in facts.transactions:
        yield Evidence(
            found=f"session {one.pid} of {one.user} ({one.application or 'no name'}) has been"
            f" {one.state or 'in a transaction'} for {one.age_s:,.0f} s",
            origin="pg_stat_activity",
            cure=f"SELECT pg_terminate_backend({one.pid});",
        )


@rules.rule(
    "D24",
    Severity.SLOW,
    LiveDatabase,
    title="dead rows are not removed",
    why="Open runs are rewritten some times in a short life, and who looks for them reads the dead"
    " versions, too.",
    safe="autovacuum = on",
    source="https://www.postgresql.org/docs/current/routine-vacuuming.html",
)
def not_vacuumed(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    for name in ("autovacuum", "track_counts"):
        setting = facts.settings.get(name)
        if setting is not None and setting.value == "off":
            yield _of_setting(setting, f"ALTER SYSTEM SET {name} = on;")
    for table in (facts.tables[name] for name in _HOT if facts.has(name)):
        if table.autovacuum in {"false", "off", "no", "0"}:
            yield Evidence(
                found=f"autovacuum_enabled of table {table.name!r} is {table.autovacuum}",
                origin="the table's options",
                cure=f"ALTER TABLE {table.name} RESET (autovacuum_enabled);",
            )
        elif table.dead_rows > max(DEAD_ROWS_MIN, table.live_rows * DEAD_SHARE_MAX):
            yield Evidence(
                found=f"table {table.name!r} has {table.dead_rows:,} dead rows beside"
                f" {table.live_rows:,}",
                origin=f"last autovacuum: {table.vacuumed_at or 'never'}",
                cure=f"VACUUM (VERBOSE) {table.name};  -- and look for long transactions",
            )


@rules.rule(
    "D24",
    Severity.SLOW,
    LiveDatabase,
    title="a hot table or index is far larger than what it holds",
    why="Vacuum gives no room back: what once grew stays large, and is read, cached and backed up"
    " with its gaps.",
    safe="reindex index concurrently runs_due_idx;",
    source="https://www.postgresql.org/docs/current/routine-reindex.html",
)
def bloated(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    for one in facts.sizes:
        if one.index is None:
            row_bytes = ROW_HEAD_BYTES + one.width if one.width else ROW_BYTES_UNKNOWN
            times, what = TABLE_TIMES_MAX, f"table {one.table!r}"
            cure = (
                f"VACUUM (FULL, ANALYZE) {one.table};  -- locks it while it runs;"
                f" pg_repack -t {one.table} does not"
            )
        else:
            row_bytes, times = INDEX_ENTRY_BYTES, INDEX_TIMES_MAX
            what = f"index {one.index!r} of table {one.table!r}"
            cure = f"REINDEX INDEX CONCURRENTLY {one.index};"
        if one.bytes > max(BLOAT_BYTES_MIN, one.rows * row_bytes * times):
            yield Evidence(
                found=f"{what} has {one.bytes / 1024**2:,.0f} MiB for {one.rows:,.0f} rows, and"
                f" {one.rows * row_bytes / 1024**2:,.0f} MiB would do",
                origin="pg_relation_size and statistics",
                cure=cure,
            )


def _of_setting(setting: ServerSetting, cure: str) -> Evidence:
    return Evidence(found=f"{setting.name} = {setting.value}", origin=setting.origin, cure=cure)
