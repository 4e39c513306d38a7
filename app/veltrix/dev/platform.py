"""The whole platform as real processes, for tests, the demo and benchmarks."""

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veltrix.broker.topology import QueueType
from veltrix.dev.children import CannotStart, Child, tail, wait_for
from veltrix.dev.opened import Opened
from veltrix.dev.processes import Spec, Supervisor
from veltrix.dev.servers.cluster import Cluster
from veltrix.dev.servers.ports import LOOPBACK, free_port, is_free
from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.settings.fields import PREFIX
from veltrix.store.schema import upgrade

Kind = Literal["api", "relay", "worker", "flower"]
_READY_PATH: dict[Kind, str] = {
    "api": "/readyz",
    "relay": "/readyz",
    "worker": "/readyz",
    "flower": "/healthcheck",
}
# At the end of a platform no load balancer has to be told that an api leaves.
_END: dict[Kind, signal.Signals] = {"api": signal.SIGINT}

_ASK_S = 5.0


def command(kind: Kind) -> tuple[str, ...]:
    """The command line of `veltrix api`, `relay`, `worker` or `flower`, in this Python."""
    return (sys.executable, "-m", "veltrix.cli", kind)


@dataclass(frozen=True)
class Member:
    """One process of the platform."""

    name: str
    kind: Kind
    port: int
    log: Path
    child: Child

    @property
    def pid(self) -> int:
        """Its process id; a worker's is the Celery parent's."""
        return self.child.pid

    @property
    def url(self) -> str:
        """Where it answers `/livez`, `/readyz` and `/metrics` (an api: everything)."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self.child.is_running

    @property
    def is_ready(self) -> bool:
        """It runs and says it is ready to work."""
        return self.is_running and is_ready(self.kind, self.port)


class Platform(Opened):
    """PostgreSQL, RabbitMQ, apis, relays and workers on free loopback ports, in one folder.

    `with Platform(folder, workers=2) as p:` is ready inside the block; nothing runs after it.
    Given `postgres` and `rabbitmq` are used as they run, with a `database` that has its schema
    and a `vhost` that exists, and are left running; else it has its own, durable as in production.
    Workflow queues are classic, in a cluster quorum queues, unless `queue_type` is given.
    `command_of` starts something else in place of `veltrix api` and so on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        apis: int = 1,
        relays: int = 1,
        workers: int = 1,
        flowers: int = 0,
        children: int = 2,
        workflows: str = "workflows",
        env: Mapping[str, str] | None = None,
        postgres: Postgres | None = None,
        rabbitmq: RabbitMQ | Cluster | None = None,
        database: str = "veltrix",
        vhost: str = "/",
        queue_type: QueueType | None = None,
        command_of: Callable[[Kind], tuple[str, ...]] = command,
    ) -> None:
        self.folder = folder.absolute()
        self.postgres = postgres or Postgres(self.folder / "postgres")
        self.rabbitmq: RabbitMQ | Cluster = rabbitmq or RabbitMQ(self.folder / "rabbitmq")
        self.processes: dict[str, Member] = {}
        self._owns_postgres, self._owns_rabbitmq = postgres is None, rabbitmq is None
        self._database, self._vhost = database, vhost
        self._command_of = command_of
        self._counts: dict[Kind, int] = {
            "api": apis, "relay": relays, "worker": workers, "flower": flowers
        }  # fmt: skip
        self._own_env = {
            f"{PREFIX}WORKFLOWS": workflows,
            f"{PREFIX}WORKER_CHILDREN": str(children),
            f"{PREFIX}LOG_FORMAT": "json",
            f"{PREFIX}QUEUE_TYPE": queue_type
            or ("quorum" if isinstance(rabbitmq, Cluster) else "classic"),
            **(env or {}),
        }
        # Not the caller's folder, whose `.env` is not for these; its modules are found (see `env`).
        self._supervisor = Supervisor(self.folder, cwd=self.folder)

    def _make_ready(self) -> None:
        self.open()
        self.wait_ready()

    def _give_up(self) -> None:
        self.close(grace_s=0)

    @property
    def api_url(self) -> str:
        """The first api."""
        return next(one.url for one in self.processes.values() if one.kind == "api")

    @property
    def database_url(self) -> str:
        """The platform's database."""
        return self.postgres.url_of(self._database)

    @property
    def broker_url(self) -> str:
        """The platform's virtual host."""
        return self.rabbitmq.url(self._vhost)

    @property
    def management_url(self) -> str:
        """RabbitMQ's management API."""
        return self.rabbitmq.management_url

    @property
    def env(self) -> dict[str, str]:
        """The environment of its processes without their ports, for a command line beside them."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        }
        path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
        return {
            **inherited,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            f"{PREFIX}DATABASE_URL": self.database_url,
            f"{PREFIX}DATABASE_OWNER_URL": self.database_url,  # one role for all
            f"{PREFIX}BROKER_URL": self.broker_url,
            f"{PREFIX}MANAGEMENT_URL": self.management_url,
            **self._own_env,
        }

    def call(self, *words: str, within_s: float) -> subprocess.CompletedProcess[str]:
        """Run this command beside the processes, with their environment, to its end."""
        group, *rest = words
        return subprocess.run(
            [*self._command_of(group), *rest],  # type: ignore[arg-type]  # the name of any command
            env=self.env,
            cwd=self.folder,
            text=True,
            capture_output=True,
            timeout=within_s,
            check=False,
        )

    def open(self) -> None:
        """Start everything, without waiting for apis, relays and workers; see `wait_ready`."""
        self._supervisor.open()
        if self._owns_rabbitmq:
            self.rabbitmq.begin()
        if self._owns_postgres:
            self.postgres.start()
            self.postgres.ensure_database(self._database)
            upgrade(self.database_url)
        if self._owns_rabbitmq:
            self.rabbitmq.wait_ready()
        for kind, count in self._counts.items():
            for number in range(1, count + 1):
                self.start(f"{kind}-{number}", kind)

    def close(self, grace_s: float = 10.0) -> None:
        """End everything it started by a signal, and SIGKILL after `grace_s` (0: at once)."""
        self._supervisor.close(grace_s)
        if self._owns_rabbitmq:
            if grace_s == 0 and self.rabbitmq.is_running:
                self.rabbitmq.kill()
            self.rabbitmq.stop()
        if self._owns_postgres:
            self.postgres.stop()

    def start(self, name: str, kind: Kind, env: Mapping[str, str] | None = None) -> Member:
        """Start one more process, or again one that ended (on its old port); `env` for it alone."""
        before = self.processes.get(name)
        if before is not None:  # what its process left takes the kernel some milliseconds to end
            wait_for(lambda: is_free(before.port), deadline_s=2.0)
        port = free_port(before.port if before else None)
        own = {f"{PREFIX}{kind.upper()}_PORT": str(port)}
        if kind == "worker":
            own[f"{PREFIX}WORKER_NAME"] = f"{name}@localhost"
        log = self.folder / "logs" / f"{name}.log"
        spec = Spec(
            name,
            self._command_of(kind),
            {**self.env, **own, **(env or {})},
            log,
            _END.get(kind, signal.SIGTERM),
        )
        self.processes[name] = Member(name, kind, port, log, self._supervisor.start(spec))
        return self.processes[name]

    def kill(self, name: str) -> None:
        """SIGKILL to that process alone, not to its children; the kernel has ended it on return."""
        self.processes[name].child.kill()

    def terminate(self, name: str) -> None:
        """SIGTERM to that process alone, without waiting; see `wait_ended`."""
        self.processes[name].child.popen.send_signal(signal.SIGTERM)

    def wait_ended(self, name: str, deadline_s: float = 40.0) -> int:
        """Its exit code (negative: a signal ended it), or AssertionError after the deadline."""
        child = self.processes[name].child
        if not wait_for(lambda: not child.is_running, deadline_s=deadline_s):
            raise AssertionError(f"{name} did not end within {deadline_s} s\n{self.logs(name)}")
        return child.popen.returncode

    def wait_ready(self, *names: str, deadline_s: float = 30.0) -> None:
        """These processes (default: all) answer that they are ready.

        `CannotStart` with the end of its log when one ends, or is not ready in time.
        """
        for member in [self.processes[name] for name in names or self.processes]:
            if not wait_for(
                lambda member=member: member.is_ready,  # type: ignore[misc]
                deadline_s=deadline_s,
                alive=lambda member=member: member.is_running,  # type: ignore[misc]
            ):
                end = "is not ready" if member.is_running else "ended"
                raise CannotStart(
                    f"{member.name} {end}; the end of its log:\n{tail(member.log, 40)}"
                )

    def logs(self, *names: str, lines: int = 200) -> str:
        """The end of what these processes (default: all) printed, each under its name."""
        members = [self.processes[name] for name in names or self.processes]
        return "\n".join(f"--- {one.name} ---\n{tail(one.log, lines)}" for one in members)


def is_ready(kind: Kind, port: int) -> bool:
    """The process of this kind on this loopback port answers that it is ready to work."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_ASK_S)
    try:
        connection.request("GET", _READY_PATH[kind])
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
