"""The embedded deployment that is proved: two of everything, a witness, and lines that can be cut.

PostgreSQL and RabbitMQ are its own, or those of a test run, which are then not to be harmed. It may
have a load balancer before its apis, and a cluster of RabbitMQ nodes.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from veltrix.dev.children import kill_all, wait_for
from veltrix.dev.opened import Opened
from veltrix.dev.platform import Kind, Member, Platform
from veltrix.dev.servers.cluster import Cluster
from veltrix.dev.servers.haproxy import HAProxy, before_apis
from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.domain.events import STRUCTURED_TYPE
from veltrix.prove.deployment import witness
from veltrix.prove.deployment.calls import get, manage, metric, post
from veltrix.prove.deployment.database import ProvedDatabase, Unreachable
from veltrix.prove.deployment.front import Front
from veltrix.prove.deployment.tcp_proxy import TcpProxy
from veltrix.prove.load.notes import EFFECTS_FILE
from veltrix.settings.fields import PREFIX, Settings

SMALL_DISK_BYTES = 1024 * 1024 * 1024
WORKFLOWS = (
    "veltrix.prove.load.workflows",
    "veltrix.prove.load.authors",
    "veltrix.prove.load.authors_values",
    "veltrix.prove.load.authors_harm",
)
RELEASE = "veltrix.prove.load.release_"
KINDS: tuple[Kind, ...] = ("api", "relay", "worker")
_SUBSCRIBED = "select count(*) from subscriptions where workflow like 'prove%'"
_SWITCH_S = 0.0005


_ORPHANED_S = 2.0


def _is_at_work(one: psutil.Process) -> bool:
    """It may still do something. A process that the kernel has been told to end may not.

    Such a one can be there for seconds when the disk is busy: it ends when its page is written.
    """
    try:
        if not one.is_running() or one.status() == psutil.STATUS_ZOMBIE:
            return False
        told = Path(f"/proc/{one.pid}/status").read_text(encoding="utf-8")
    except (psutil.Error, OSError):
        return False
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", told, re.MULTILINE)
    return not any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in pending)


class Site(Opened, ProvedDatabase):
    """A running deployment. `with Site(folder) as site:` is ready inside the block."""

    def __init__(
        self,
        folder: Path,
        *,
        has_lines: bool = False,
        has_small_disk: bool = False,
        has_balancer: bool = False,
        has_front: bool = False,
        is_cluster: bool = False,
        env: Mapping[str, str] | None = None,
        members_of_each: int = 2,
        **platform: Any,
    ) -> None:
        super().__init__()
        self.folder = folder.absolute()
        self.effects = self.folder / "effects"
        self.effects.mkdir(parents=True, exist_ok=True)
        self.has_lines, self._count = has_lines, members_of_each
        self._has_small_disk, self._has_balancer = has_small_disk, has_balancer
        self.balancer: HAProxy | None = None
        self._has_front = has_front
        self._front: Front | None = None
        self._servers: list[Postgres] = []  # that were primaries or are to be
        self.cluster = Cluster(self.folder / "cluster") if is_cluster else None
        if self.cluster is not None:
            platform["rabbitmq"] = self.cluster
        self.lines: dict[str, TcpProxy] = {}
        self.send_events: Callable[[str, int], Sequence[str]] = lambda _kind, _count: ()
        self.misdeeds: list[str] = []  # of processes that were told to end, or whose parent died
        self._env: dict[str, dict[str, str]] = {}
        self._standbys = 0
        self.release = "a"  # of the workers that are started from now on
        self.platform = Platform(
            self.folder,
            apis=0,
            relays=0,
            workers=0,
            workflows=",".join(WORKFLOWS),
            env={f"{PREFIX}PROVE_EFFECTS": str(self.effects), **(env or {})},
            **platform,
        )

    def _make_ready(self) -> None:
        if self._has_small_disk:
            self._mount()
        if self.cluster is not None:
            self.cluster.start()
        self.platform.open()
        with self.connect() as connection:
            witness.install(connection)
        database_url = self.platform.database_url
        if self._has_front:
            self._front = Front(self.folder / "front", self.platform.postgres.port)
            self._front.start()
            old, new = self.platform.postgres.port, self._front.port
            database_url = database_url.replace(f":{old}/", f":{new}/")
            for kind in KINDS:
                for number in range(1, self._count + 1):
                    name = f"{kind}-{number}"
                    self._env[name] = {f"{PREFIX}DATABASE_URL": database_url}
        if self.has_lines:
            # They share this process with the workload; a piece shall not wait 5 ms for its turn.
            sys.setswitchinterval(_SWITCH_S)
            urls = {"database": database_url, "broker": self.platform.broker_url}
            self.lines = {name: TcpProxy(url) for name, url in urls.items()}
            through = {f"{PREFIX}{name.upper()}_URL": line.url for name, line in self.lines.items()}
            self._env |= {f"{kind}-2": dict(through) for kind in KINDS}
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
            for server in self._servers:
                stack.callback(server.stop)
            if self._front is not None:
                stack.callback(self._front.stop)
            for line in self.lines.values():
                stack.callback(line.close)
            stack.callback(self.close_connections)

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
        own = dict(self._env.get(name, {}))
        if kind == "worker":
            own[f"{PREFIX}WORKFLOWS"] = ",".join((*WORKFLOWS, RELEASE + self.release))
        return self.platform.start(name, kind, {**own, **(env or {})})

    def start_ready(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """The same, and wait until it says that it is ready."""
        self.start(name, env)
        self.platform.wait_ready(name, deadline_s=60)

    def lives(self, name: str) -> bool:
        """It answers, whether it is ready to work or not."""
        with suppress(OSError):
            get(f"{self.members[name].url}/livez")
            return True
        return False

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
        with suppress(OSError):
            return metric(self.members[member].url, name)
        return 0.0

    def start_standby(self) -> Postgres:
        """A stand-by of the primary; what was a primary before is gone."""
        for server in self._servers:
            if server is not self.platform.postgres:
                server.stop()
                shutil.rmtree(server.folder, ignore_errors=True)
        primary = self.platform.postgres
        self._standbys += 1
        standby = Postgres(self.folder / f"postgres-{self._standbys}", copied_from=primary)
        self._servers = [primary, standby]
        standby.start()
        return standby

    def lead_to(self, primary: Postgres, *, is_name_late: bool = False) -> None:
        """This is the primary; processes find it by its name, at once or the next time."""
        self.platform.postgres = primary
        if self._front is not None and not is_name_late:
            self._front.lead_to(primary.port)

    # The api

    def unaccounted(self) -> int | None:
        """What the api says of all its books; None if it says nothing."""
        try:
            answer = json.loads(get(f"{self.api_urls[0]}/v1/balance"))
        except OSError:
            return None
        return int(answer["unaccounted"])

    def replay(self, run_id: str, mode: str) -> tuple[int | None, str]:
        """The generation that the api says it opened; None, and why, if it said nothing of one."""
        asked = {"from": mode, "reason": "veltrix prove"}
        _, told, why = post(
            f"{self.front_urls[0]}/v1/runs/{run_id}/replay", json.dumps(asked).encode()
        )
        return (int(told["generation"]), "") if "generation" in told else (None, why)

    def replay_planned(self, run_ids: Sequence[str]) -> bool:
        """A plan of these runs was made and started, says the api."""
        url = f"{self.front_urls[0]}/v1/replays"
        asked = {"ids": list(run_ids), "from": "beginning", "reason": "veltrix prove"}
        _, plan, _ = post(url, json.dumps(asked | {"stop_share": None}).encode())
        if "id" not in plan:
            return False
        status, _, _ = post(f"{url}/{plan['id']}/start", b'{"reason": "veltrix prove"}')
        return status == 200

    def edit(self, run_id: str) -> str:
        """The run that an edit of this one's payload made, says the api; "": it made none."""
        url = f"{self.front_urls[0]}/v1/runs/{run_id}/edit"
        body = b'{"data": {"seconds": 0, "times": 0, "pad": "edited"}, "reason": "veltrix prove"}'
        _, told, _ = post(url, body, headers={"if-match": "*"})
        return str(told.get("id", ""))

    def archive(self, run_ids: Sequence[str]) -> bool:
        """These failed runs are archived, says the api."""
        url = f"{self.front_urls[0]}/v1/runs/archive"
        asked = {"ids": list(run_ids), "reason": "veltrix prove"}
        _, told, _ = post(url, json.dumps(asked).encode())
        return "runs" in told

    def cancel(self, run_id: str) -> tuple[str, str]:
        """The state that the api says the run has; "", and why, if it said nothing of one."""
        asked = {"reason": "veltrix prove"}
        _, told, why = post(
            f"{self.front_urls[0]}/v1/runs/{run_id}/cancel", json.dumps(asked).encode()
        )
        return str(told.get("state", "")), why

    def send(self, structured: bytes) -> tuple[int, str | None]:
        """The status of an event's answer, and the event's id; 0: there was none."""
        status, told, _ = post(f"{self.front_urls[0]}/v1/events", structured, STRUCTURED_TYPE)
        return status, told.get("event")

    # RabbitMQ, by its management API

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        """Call it; `{vhost}` in the path is ours. Raises OSError."""
        platform = self.platform
        return manage(platform.management_url, platform.broker_url, method, path, body)

    def queues(self) -> list[str]:
        """The queues of our virtual host."""
        return [queue["name"] for queue in self.manage("GET", "queues/{vhost}?columns=name")]

    @property
    def history(self) -> Path:
        """Where what leaves the ledger is archived."""
        return self.folder / "archive"

    @property
    def effects_file(self) -> Path:
        """Where the steps note that they began."""
        return self.effects / EFFECTS_FILE
