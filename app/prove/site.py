"""The embedded deployment that is proved: two of everything, a witness, and lines that can be cut.

PostgreSQL and RabbitMQ are its own, or those of a test run, which are then not to be harmed. It may
have a load balancer before its apis, and a cluster of RabbitMQ nodes.
"""

import http.client
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self
from urllib.parse import quote, urlsplit

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from app.dev.children import kill_all, wait_for
from app.dev.cluster import Cluster
from app.dev.haproxy import HAProxy, before_apis
from app.dev.platform import Kind, Member, Platform
from app.dev.rabbitmq import RabbitMQ
from app.prove import witness
from app.prove.line import Line
from app.prove.workflows import EFFECTS_FILE
from app.settings import PREFIX, Settings

SMALL_DISK_BYTES = 1024 * 1024 * 1024
KINDS: tuple[Kind, ...] = ("api", "relay", "worker")
_SUBSCRIBED = "select count(*) from subscriptions where workflow like 'prove%'"
_OPEN = """
select id::text, state, coalesce(worker_id, ''), workflow from runs where due_at is not null
"""
_SWITCH_S = 0.0005
_OPEN_COUNT = "select count(*) from runs where due_at is not null"
_COUNTS = """
select coalesce(sum(s), 0)::bigint, (select count(*) from runs where due_at is not null)
from (
    select sum(succeeded + failed + cancelled) as s from counters
    union all select sum(succeeded + failed + cancelled) from counter_deltas
) x
"""


_ORPHANED_S = 2.0


def _is_at_work(one: psutil.Process) -> bool:
    try:
        return bool(one.is_running() and one.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class Unreachable(Exception):
    """The database did not answer in time."""


class Site:
    """A running deployment. `with Site(folder) as site:` is ready inside the block."""

    def __init__(
        self,
        folder: Path,
        *,
        has_lines: bool = False,
        has_small_disk: bool = False,
        has_balancer: bool = False,
        is_cluster: bool = False,
        env: Mapping[str, str] | None = None,
        members_of_each: int = 2,
        **platform: Any,
    ) -> None:
        self.folder = folder.absolute()
        self.effects = self.folder / "effects"
        self.effects.mkdir(parents=True, exist_ok=True)
        self.has_lines, self._count = has_lines, members_of_each
        self._has_small_disk, self._has_balancer = has_small_disk, has_balancer
        self.balancer: HAProxy | None = None
        self.cluster = Cluster(self.folder / "cluster") if is_cluster else None
        if self.cluster is not None:
            platform["rabbitmq"] = self.cluster
        self.lines: dict[str, Line] = {}
        self.misdeeds: list[str] = []  # of processes that were told to end, or whose parent died
        self._env: dict[str, dict[str, str]] = {}
        self._connection: psycopg.Connection | None = None
        self._counting: psycopg.Connection | None = None
        self.platform = Platform(
            self.folder,
            apis=0,
            relays=0,
            workers=0,
            workflows="app.prove.workflows",
            env={f"{PREFIX}PROVE_EFFECTS": str(self.effects), **(env or {})},
            **platform,
        )

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._has_small_disk:
            self._mount()
        if self.cluster is not None:
            self.cluster.start()
        self.platform.open()
        with self.connect() as connection:
            witness.install(connection)
        if self.has_lines:
            # They share this process with the workload; a piece shall not wait 5 ms for its turn.
            sys.setswitchinterval(_SWITCH_S)
            urls = {"database": self.platform.database_url, "broker": self.platform.broker_url}
            self.lines = {name: Line(url) for name, url in urls.items()}
            through = {f"{PREFIX}{name.upper()}_URL": line.url for name, line in self.lines.items()}
            self._env = {f"{kind}-2": dict(through) for kind in KINDS}
        for kind in KINDS:
            for number in range(1, self._count + 1):
                self.start(f"{kind}-{number}")
        self.platform.wait_ready(deadline_s=60)
        if self._has_balancer:
            ports = [member.port for member in self.members.values() if member.kind == "api"]
            self.balancer = before_apis(self.folder / "haproxy", *ports[:2])
            self.balancer.start()
        self.wait_registered()

    def close(self) -> None:
        """Nothing of it runs any more, whatever of this fails."""
        with ExitStack() as stack:
            if self._has_small_disk:
                stack.callback(self._unmount)
            if self.cluster is not None:
                stack.callback(self.cluster.stop)
                stack.callback(self.cluster.kill)
            stack.callback(self.platform.close, grace_s=0)
            if self.balancer is not None:
                stack.callback(self.balancer.stop)
            for line in self.lines.values():
                stack.callback(line.close)
            for connection in (self._connection, self._counting):
                if connection is not None:
                    stack.callback(connection.close)

    def _mount(self) -> None:
        """RabbitMQ's folder is a small file system, where we may make one: as root, on Linux."""
        folder = self.platform.rabbitmq.folder
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={SMALL_DISK_BYTES},mode=755"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        with suppress(OSError):
            subprocess.run(command, check=False, capture_output=True)

    def _unmount(self) -> None:
        folder = self.platform.rabbitmq.folder
        if folder.is_mount():
            subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)

    # Processes

    @property
    def members(self) -> dict[str, Member]:
        """The processes by name: api-1, api-2, relay-1 and so on."""
        return self.platform.processes

    @property
    def api_urls(self) -> list[str]:
        """Every api."""
        return [member.url for member in self.members.values() if member.kind == "api"]

    @property
    def hold_s(self) -> float:
        """How long a lease is."""
        return float(self.platform.env.get(f"{PREFIX}HOLD_S", Settings().hold_s))

    @property
    def front_urls(self) -> list[str]:
        """Where producers send events: the load balancer, or the apis themselves."""
        return self.api_urls if self.balancer is None else [self.balancer.url]

    @property
    def node(self) -> RabbitMQ:
        """The one node of RabbitMQ, of a deployment without a cluster."""
        assert isinstance(self.platform.rabbitmq, RabbitMQ)
        return self.platform.rabbitmq

    def start(self, name: str, env: Mapping[str, str] | None = None) -> Member:
        """Start a process, or again one that ended; `env` for this time only."""
        kind: Any = name.partition("-")[0]
        return self.platform.start(name, kind, {**self._env.get(name, {}), **(env or {})})

    def start_ready(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """The same, and wait until it says that it is ready."""
        self.start(name, env)
        self.platform.wait_ready(name, deadline_s=60)

    def kill(self, name: str, *, is_orphaning: bool = False) -> None:
        """SIGKILL; what it had started ends too, as a container's processes do.

        `is_orphaning`: by itself; a child that is still there after a while is a misdeed.
        """
        family = self.members[name].child.family()
        self.platform.kill(name)
        others = [one for one in family if one.pid != self.members[name].pid]
        if is_orphaning and not wait_for(
            lambda: not any(_is_at_work(one) for one in others), deadline_s=_ORPHANED_S
        ):
            self.misdeeds.append(f"children of {name} outlived it by {_ORPHANED_S:g} s")
        kill_all(family)

    def children(self, name: str) -> list[int]:
        """The process ids of a worker's children that run."""
        member = self.members[name]
        return [one.pid for one in member.child.family() if one.pid != member.pid]

    def wait_registered(self) -> None:
        """The workflows have subscriptions, and every api routes by them."""
        expected = 0

        def is_known() -> bool:
            nonlocal expected
            expected = self.one(_SUBSCRIBED)
            return expected > 0

        def is_routed() -> bool:
            apis = [name for name, member in self.members.items() if member.kind == "api"]
            return all(self.metric("veltrix_subscriptions", api) >= expected for api in apis)

        if not (wait_for(is_known, deadline_s=60) and wait_for(is_routed, deadline_s=60)):
            raise Unreachable(f"the workflows were not registered\n{self.platform.logs(lines=40)}")

    def metric(self, name: str, member: str) -> float:
        """The sum of a metric of a process over its labels; 0 when it does not answer."""
        total = 0.0
        with suppress(OSError):
            url = f"{self.members[member].url}/metrics"
            for line in self._get(url).decode().splitlines():
                words = line.rsplit(" ", 1)
                if words[0].partition("{")[0] == name:
                    total += float(words[1])
        return total

    # The database, beside the code under test

    def connect(self) -> psycopg.Connection:
        """A connection of our own, in autocommit."""
        url = self.platform.database_url.replace("postgresql+psycopg://", "postgresql://")
        info = make_conninfo(url, application_name="veltrix prove", connect_timeout=5)
        return psycopg.connect(info, autocommit=True)

    def rows(
        self, sql: LiteralString, values: Mapping[str, Any] | None = None, deadline_s: float = 60.0
    ) -> list[Any]:
        """The rows, however often the connection has to be made again. Raises Unreachable."""
        found: list[Any] = []

        def is_read() -> bool:
            nonlocal found
            try:
                if self._connection is None:
                    self._connection = self.connect()
                found = self._connection.execute(sql, values).fetchall()
            except psycopg.OperationalError:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.close()
                return False
            return True

        if not wait_for(is_read, deadline_s=deadline_s):
            raise Unreachable(f"PostgreSQL did not answer for {deadline_s:.0f} s")
        return found

    def one(self, sql: LiteralString, deadline_s: float = 60.0) -> int:
        """The number that a query gives."""
        return int(self.rows(sql, None, deadline_s)[0][0])

    def open_runs(self) -> list[tuple[str, str, str, str]]:
        """(id, state, worker, workflow) of every run without an outcome."""
        return self.rows(_OPEN)

    def open_count(self) -> int:
        """How many runs have no outcome."""
        return self.one(_OPEN_COUNT)

    def counts(self) -> tuple[int, int] | None:
        """Runs with an outcome by the books, and open ones; None when nobody answers.

        For another thread than the rest, with a connection of its own.
        """
        try:
            if self._counting is None:
                self._counting = self.connect()
            row = self._counting.execute(_COUNTS).fetchone()
        except psycopg.OperationalError:
            connection, self._counting = self._counting, None
            if connection is not None:
                connection.close()
            return None
        assert row is not None
        return int(row[0]), int(row[1])

    def unaccounted(self) -> int:
        """What the api says of all its books."""
        answer = json.loads(self._get(f"{self.api_urls[0]}/v1/balance"))
        return int(answer["unaccounted"])

    def letters(self) -> set[str]:
        """The digests of the bodies of all dead letters."""
        return {sha256(body).hexdigest() for (body,) in self.rows("select body from dead_letters")}

    def replay(self, run_id: str, mode: str) -> tuple[int | None, str]:
        """The generation that the api says it opened; None, and why, if it said nothing of one."""
        body = json.dumps({"from": mode, "reason": "veltrix prove"}).encode()
        url = f"{self.front_urls[0]}/v1/runs/{run_id}/replay"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - on loopback
        try:
            with urllib.request.urlopen(request, timeout=30) as told:  # noqa: S310
                return int(json.loads(told.read())["generation"]), ""
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            return None, f"{type(error).__name__}: {error}"[:200]

    def _get(self, url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=30) as told:  # noqa: S310 - on loopback
            body: bytes = told.read()
        return body

    def witness_seq(self) -> int:
        """The number of the witness's last line."""
        return self.one("select coalesce(max(seq), 0) from prove_moves")

    def settled(self, run_ids: Sequence[str]) -> list[str]:
        """Those of these runs that have an outcome."""
        sql = "select id::text from runs where id = any(%(ids)s::uuid[]) and due_at is null"
        return [row[0] for row in self.rows(sql, {"ids": list(run_ids)})] if run_ids else []

    def first_moves(
        self, after: int, run_ids: Sequence[str], but: Sequence[str] = ()
    ) -> dict[str, float]:
        """See `witness.first_moves`."""
        keys = {"after": after, "ids": list(run_ids), "but": list(but)}
        return dict(self.rows(witness.FIRST_MOVES, keys))

    # RabbitMQ, by its management API

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        """Call it; `{vhost}` in the path is ours. Raises OSError."""
        parts = urlsplit(self.platform.management_url)
        vhost = quote(urlsplit(self.platform.broker_url).path[1:], safe="%")
        url = f"http://{parts.hostname}:{parts.port}/api/{path.format(vhost=vhost)}"
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(
            None, url, parts.username or "", parts.password or "", is_authenticated=True
        )
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            url, data, {"content-type": "application/json"}, method=method
        )
        with opener.open(request, timeout=20) as told:
            answer = told.read()
        return json.loads(answer) if answer else None

    def queues(self) -> list[str]:
        """The queues of our virtual host."""
        return [queue["name"] for queue in self.manage("GET", "queues/{vhost}?columns=name")]

    @property
    def effects_file(self) -> Path:
        """Where the steps note that they began."""
        return self.effects / EFFECTS_FILE
