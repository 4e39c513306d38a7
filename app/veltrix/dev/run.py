"""`veltrix dev`: everything on the embedded default, in one terminal."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote, split
from types import FrameType
from typing import Any, NoReturn, Self

import msgspec
from sqlalchemy.exc import OperationalError

from veltrix.dev.children import CannotStart, Leash
from veltrix.dev.platform import Kind, command, is_ready
from veltrix.dev.probe import Probe
from veltrix.dev.processes import Spec, Supervisor
from veltrix.dev.servers.ports import Claims
from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.dev.sources import SourceFiles
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import variables_of_authors
from veltrix.store.prove_effects import make_table
from veltrix.store.schema import SchemaError, upgrade
from veltrix.store.transactions import make_engine

_DATABASE = "veltrix"
_KINDS: tuple[Kind, ...] = ("api", "relay", "worker", "flower")
# Who saves a file waits for the worker: of this, steps have what it does not need to hand back.
_WORKER_GRACE_S, _HAND_BACK_S = 10.0, 5.0
_TICK_S = 0.25
_LOOK_S = 2.0  # between looks at the servers, so that one that cannot run is not started in a loop
# Beyond the worker's own grace, which begins when it gets the signal.
_GRACE_MORE_S = 5.0
_FOLDER_MODE = 0o711  # PostgreSQL runs as another user when we are root, and must pass through


@dataclass(frozen=True)
class _Servers:
    """The embedded servers, or None where settings point at others, and the addresses of both."""

    postgres: Postgres | None
    rabbitmq: RabbitMQ | None
    database_url: str
    owner_url: str  # the same role, if none is named for the tables' owner
    broker_url: str
    management_url: str | None

    def keep_running(self, say: Callable[[str, str], None]) -> None:
        """Start again what died."""
        if self.postgres is not None and not self.postgres.is_running:
            say("postgres", "ended; starting it again")
            self.postgres.start()
        if self.rabbitmq is not None and not self.rabbitmq.is_running:
            say("rabbitmq", "ended; starting it again")
            self.rabbitmq.begin()


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_dev(
    folder: Path = Path(".veltrix"),
    *,
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    is_reloading: bool = True,
    has_worker: bool = True,
    out: Callable[[str], None] = _write_line,
) -> int:
    """Run PostgreSQL, RabbitMQ, api, relay, worker and Flower until Ctrl-C; the exit code.

    Data is kept in `folder`; a server that `settings` points at is used instead of an embedded one.
    What dies is started again; a taken port is replaced by a free one. Nothing is left running, and
    what a killed `dev` left is ended first. A second Ctrl-C does not wait for work in hand.
    Processes get `environ`, which is ours, above what `.env` has beside settings. The worker is
    started again when a Python file below the current folder has changed, if it `is_reloading`.
    Without a worker (`has_worker`) somebody runs one beside it, as `veltrix worker --solo`.
    """
    environ = variables_of_authors() | dict(os.environ if environ is None else environ)
    folder = folder.absolute()
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    leash, claims = Leash(folder), Claims()
    supervisor = Supervisor(folder / "processes", cwd=Path.cwd(), say=_printer(out))
    settings = _without_our_own(settings, folder / "env")
    postgres = Postgres(folder / "postgres") if settings.database_url is None else None
    rabbitmq = RabbitMQ(folder / "rabbitmq") if settings.broker_url is None else None
    with _Signals() as signals:
        code = 0
        try:
            leash.open()
            sources = SourceFiles(Path.cwd()) if is_reloading and has_worker else None
            kinds = tuple(kind for kind in _KINDS if has_worker or kind != "worker")
            servers = postgres, rabbitmq
            _run(folder, supervisor, leash, claims, servers, settings, environ, kinds, sources, out)
        except KeyboardInterrupt:
            out("stopping; Ctrl-C again does not wait for work in hand")
        except (CannotStart, SchemaError) as error:
            out(str(error))
            code = 1
        finally:
            signals.is_stopping = True
            supervisor.close(settings.grace_s + _GRACE_MORE_S, lambda: signals.is_hurried)
            for server in (rabbitmq, postgres):
                if server is not None:
                    server.stop()
            claims.close()
            leash.close()
    return code


def _run(
    folder: Path,
    supervisor: Supervisor,
    leash: Leash,
    claims: Claims,
    embedded: tuple[Postgres | None, RabbitMQ | None],
    settings: Settings,
    environ: Mapping[str, str],
    kinds: tuple[Kind, ...],
    sources: SourceFiles | None,
    out: Callable[[str], None],
) -> NoReturn:
    """Everything started and kept running; ends by an exception only."""
    say = _printer(out)
    servers = _start_servers(*embedded, settings, say)
    ports = _choose_ports(folder / "ports.json", settings, claims, say)
    variables = _variables(servers, ports)
    if servers.rabbitmq is not None and "queue_type" not in settings.model_fields_set:
        variables[f"{PREFIX}QUEUE_TYPE"] = "classic"  # it is one node
    _write_env(folder / "env", variables)
    supervisor.open()
    grace_s = _grace_s(settings)
    environ = {**environ, f"{PREFIX}GRACE_S": f"{grace_s:g}"}
    reload = None
    if sources is not None:
        probe = Probe(leash, folder / "probe.log", _environment(environ, variables))
        reload = _Reload(sources, probe, supervisor, grace_s, say)
    for kind in kinds:
        # Nobody is before this api who would have to be told: Ctrl-C needs no time for that.
        end = signal.SIGINT if kind == "api" else signal.SIGTERM
        supervisor.start(Spec(kind, command(kind), _environment(environ, variables), end=end))
    for line in _addresses(folder, servers, ports):
        out(line)
    is_announced, look_at = False, 0.0
    while True:
        supervisor.tick(_TICK_S)
        if reload is not None:
            reload.look()
        if not is_announced and all(is_ready(kind, ports[kind]) for kind in kinds):
            is_announced = True
            alone = "" if "worker" in kinds else " No worker: run `veltrix worker --solo`."
            out(f"  Ready.{alone}")
        if time.monotonic() >= look_at:
            servers.keep_running(say)
            look_at = time.monotonic() + _LOOK_S


class _Reload:
    """The worker starts again where its code changed; a mistake in it keeps the code before."""

    def __init__(
        self,
        sources: SourceFiles,
        probe: Probe,
        supervisor: Supervisor,
        grace_s: float,
        say: Callable[[str, str], None],
    ) -> None:
        self._sources, self._probe, self._supervisor, self._say = sources, probe, supervisor, say
        self._steps_s = grace_s - _HAND_BACK_S
        self._changed: list[Path] = []

    def look(self) -> None:
        """At the files, and at what an import of them has found: once, without waiting."""
        if changed := self._sources.changed():
            self._changed = sorted({*self._changed, *changed})
            if mistake := self._sources.mistake():
                self._probe.end()
                self._keep(mistake)
                return
            self._probe.begin()
        has_ended, mistake = self._probe.ended()
        if has_ended and mistake:
            self._keep(mistake)
        elif has_ended:
            changed, self._changed = self._changed, []
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            name = os.path.relpath(changed[0])
            again = f"starting again; steps in hand have {self._steps_s:g} s"
            self._say("worker", f"{name}{more} changed; {again}")
            self._supervisor.restart("worker")

    def _keep(self, mistake: str) -> None:
        self._say("worker", f"{mistake}; going on with the code before")


def _grace_s(settings: Settings) -> float:
    """What is in hand is handed back soon, and begun again, unless the settings say otherwise."""
    is_chosen = "grace_s" in settings.model_fields_set
    is_too_short = settings.step_overrun_s >= _WORKER_GRACE_S
    return settings.grace_s if is_chosen or is_too_short else _WORKER_GRACE_S


def _start_servers(
    postgres: Postgres | None,
    rabbitmq: RabbitMQ | None,
    settings: Settings,
    say: Callable[[str, str], None],
) -> _Servers:
    """Both servers accept connections, and the database has the newest schema."""
    if rabbitmq is not None:
        say("rabbitmq", "starting")
        rabbitmq.begin()
    if postgres is not None:
        say("postgres", "starting")
        postgres.start()
        owner_url = database_url = postgres.ensure_database(_DATABASE)
    else:
        assert settings.database_url is not None
        database_url = settings.database_url.get_secret_value()
        owner_url = (settings.database_owner_url or settings.database_url).get_secret_value()
    say("migrate", "bringing the schema to its newest version")
    try:
        upgrade(owner_url)
        if settings.prove:
            make_table(make_engine(owner_url, application="veltrix-dev"))
    except OperationalError as error:
        raise CannotStart(f"the database at {PREFIX}DATABASE_URL: {error.orig}") from error
    if rabbitmq is not None:
        rabbitmq.wait_ready()
        urls = (database_url, owner_url, rabbitmq.url(), rabbitmq.management_url)
        return _Servers(postgres, rabbitmq, *urls)
    assert settings.broker_url is not None
    management = settings.management_url
    return _Servers(
        postgres,
        rabbitmq,
        database_url,
        owner_url,
        settings.broker_url.get_secret_value(),
        management.get_secret_value() if management else None,
    )


def _choose_ports(
    kept: Path, settings: Settings, claims: Claims, say: Callable[[str, str], None]
) -> dict[Kind, int]:
    """The port of each process: that of the settings, that of last time, or a free one."""
    before, ports = _kept_ports(kept), dict[Kind, int]()
    for kind in _KINDS:
        wanted: int = getattr(settings, f"{kind}_port")
        ports[kind] = claims.port(wanted, before.get(kind))
        if wanted not in {0, ports[kind]}:
            say(kind, f"port {wanted} is taken; using {ports[kind]}")
    kept.write_bytes(msgspec.json.encode(ports))
    return ports


def _kept_ports(kept: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, int])
    except (OSError, ValueError):
        return {}


def _without_our_own(settings: Settings, env: Path) -> Settings:
    """The settings less those that only repeat what an earlier `dev` wrote for other terminals."""
    lines = env.read_text().splitlines() if env.exists() else []
    values = {value for line in lines for value in split(line.partition("=")[2])}
    repeated = {
        name: None
        for name in ("database_url", "database_owner_url", "broker_url", "management_url")
        if (url := getattr(settings, name)) and url.get_secret_value() in values
    }
    return settings.model_copy(update=repeated)


def _variables(servers: _Servers, ports: Mapping[Kind, int]) -> dict[str, str]:
    """The settings that every process of this `dev` shares, as environment variables."""
    variables = {
        f"{PREFIX}DATABASE_URL": servers.database_url,
        f"{PREFIX}DATABASE_OWNER_URL": servers.owner_url,
        f"{PREFIX}BROKER_URL": servers.broker_url,
        **{f"{PREFIX}{kind.upper()}_PORT": str(port) for kind, port in ports.items()},
    }
    if servers.management_url is not None:
        variables[f"{PREFIX}MANAGEMENT_URL"] = servers.management_url
    return variables


def _write_env(path: Path, variables: Mapping[str, str]) -> None:
    """The same for other terminals, readable by the owner only: it has passwords."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={quote(value)}\n" for name, value in variables.items()))


def _environment(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """What the processes get: ours, with those variables in place of any of the same meaning."""
    files = {f"{name}_FILE" for name in variables}
    inherited = {name: value for name, value in environ.items() if name not in files}
    if sys.stdout.isatty():  # theirs is a pipe to this terminal, so they cannot tell
        inherited.setdefault(f"{PREFIX}LOG_FORMAT", "console")
    return {**inherited, "PYTHONUNBUFFERED": "1", **variables}


def _addresses(folder: Path, servers: _Servers, ports: Mapping[Kind, int]) -> Iterator[str]:
    yield ""
    yield f"  API         http://127.0.0.1:{ports['api']}        documented at /docs"
    yield f"  Console     http://127.0.0.1:{ports['api']}/console"
    yield f"  Flower      http://127.0.0.1:{ports['flower']}"
    if servers.rabbitmq is not None:
        address = servers.rabbitmq.management_url.rpartition("@")[2]
        yield f"  RabbitMQ    http://{address}       user and password in {folder}/env"
    if servers.postgres is not None:
        address = servers.database_url.rpartition("@")[2]
        yield f"  PostgreSQL  {address}, as postgres; password in {folder}/env"
    yield f"  In another terminal: . {quote(f'{folder}/env')}        Ctrl-C stops everything."
    yield ""


def _printer(out: Callable[[str], None]) -> Callable[[str, str], None]:
    width = max(map(len, (*_KINDS, "postgres", "rabbitmq", "migrate")))
    return lambda name, line: out(f"{name:<{width}} | {line}")


class _Signals:
    """In the block the first SIGINT, SIGTERM or SIGHUP is a KeyboardInterrupt, the rest hurry."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.is_stopping = False
        self.is_hurried = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._react) for number in self._NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _react(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_stopping:
            self.is_hurried = True
        else:
            self.is_stopping = True
            raise KeyboardInterrupt
