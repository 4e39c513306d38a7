"""A private RabbitMQ cluster on loopback, behind one address that outlives its members."""

import contextlib
import http.client
import json
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from veltrix.broker.topology import definitions, is_queue_name
from veltrix.dev.children import CannotStart, Child, tail, wait_for
from veltrix.dev.servers.deployed import deployed
from veltrix.dev.servers.embedded import EmbeddedServer
from veltrix.dev.servers.haproxy import HAProxy
from veltrix.dev.servers.ports import LOOPBACK, kept_ports
from veltrix.dev.servers.rabbitmq import (
    PORTS,
    USER,
    Membership,
    RabbitMQ,
    accepts,
    amqp_url,
    manage,
    secret_in,
    start_epmd,
)

_MEMBER = "veltrix"  # and a number
_ASK_S = 20.0
_BALANCED = {"amqp": "AMQP_ADDRESS", "management": "MANAGEMENT_ADDRESS"}
# Discovery: all start at once, so the first finds nobody to join, under a lock for which the others
# wait. It has its tables some moments after it let the lock go, on a busy machine a second or more:
# who asks in vain until the attempts (0.5 s each) are over stands alone for ever. Size: measured on
# 3.10.8, the first member loads the definitions before the others have joined, and its quorum
# queues then have that one member, also when all three have run for long. With the hint those that
# start earlier skip queues and bindings, and the last one declares them, with three members.
_LINES = """\
load_definitions = {definitions}
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.discovery_retry_limit = 8
cluster_formation.target_cluster_size_hint = {size}
"""
_NODE_LINE = "cluster_formation.classic_config.nodes.{number} = {name}@localhost\n"
_HAPROXY = """\
global
    log stdout format raw local0 notice

defaults
    mode tcp
    log global
    timeout connect 2s
    # A consumer that waits for work is silent; its heartbeats are RabbitMQ's to watch.
    timeout client 24h
    timeout server 24h
    retries 3
    option redispatch 1
    balance leastconn
    # The first refused connection marks a killed member, or leastconn would choose it again; not
    # `on-marked-down shutdown-sessions`, which would end that very connection (measured).
    default-server check inter 500ms fall 2 rise 1
    default-server observe layer4 error-limit 1 on-error mark-down

frontend amqp
    bind "${{AMQP_ADDRESS}}"
    default_backend amqp

frontend management
    bind "${{MANAGEMENT_ADDRESS}}"
    default_backend management

backend amqp
{amqp}

backend management
    option httpchk GET /
{management}
"""


@dataclass(frozen=True)
class _Queue:
    """Members by name; no leader is an empty name."""

    leader: str
    members: list[str]
    online: list[str]


class Cluster(EmbeddedServer):
    """RabbitMQ nodes in one folder that are one broker, and an haproxy before them.

    They run from the configuration and the definitions that docker-compose.yml mounts. Clients have
    one address each for AMQP and management, which answers while any member does. `members` are
    there after `begin`: kill one, and `start` it again. All end with the process that began them.
    """

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        super().__init__(folder)
        self.members: dict[str, RabbitMQ] = {}
        self._names = [f"{_MEMBER}{number}" for number in range(1, nodes + 1)]
        self._ports: dict[str, int] = {}
        self._password = ""
        self._epmd: Child | None = None
        self._haproxy: HAProxy | None = None

    def url(self, vhost: str = "/") -> str:
        """AMQP to a virtual host, through haproxy; the same whoever dies."""
        return amqp_url(self._ports["amqp"], self._password, vhost)

    @property
    def management_url(self) -> str:
        """The management API of any member that answers, through haproxy."""
        return f"http://{USER}:{self._password}@{LOOPBACK}:{self._ports['management']}"

    @property
    def is_running(self) -> bool:
        """Some member runs."""
        return any(member.is_running for member in self.members.values())

    def start(self) -> None:
        """All members are one cluster and take connections when this returns."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start all that do not run without waiting for them (`wait_ready`)."""
        self._leash.open()
        try:
            if not self.members:
                self._prepare()
            if self._epmd is None or not self._epmd.is_running:
                self._epmd = start_epmd(self._leash, self._ports["epmd"])
            assert self._haproxy is not None
            self._haproxy.start()
            for member in self.members.values():
                member.begin()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, deadline_s: float = 120.0) -> None:
        """All members answer and have joined, and every queue of the definitions has all of them.

        `CannotStart` with the end of a log when it takes longer.
        """
        for member in self.members.values():
            member.wait_ready(deadline_s)
        queues = json.loads(deployed("rabbitmq/topology.json").read_text())["queues"]

        def is_one() -> bool:
            return (
                accepts(self._ports["amqp"], self._ports["management"], self._password)
                and sum(node["running"] for node in self._get("nodes")) == len(self._names)
                and all(self._is_online(queue["name"], queue["vhost"]) for queue in queues)
            )

        if not wait_for(is_one, deadline_s=deadline_s, alive=lambda: self.is_running):
            log = tail(self.members[self._names[-1]].folder / "log")
            self.stop()
            raise CannotStart(f"RabbitMQ's members did not become one cluster:\n{log}")

    def stop(self) -> None:
        """Connections are closed, confirmed messages are on disk, nothing is left running."""
        if self._haproxy is not None:
            self._haproxy.stop()
        with ThreadPoolExecutor(len(self._names)) as pool:  # each takes some seconds
            list(pool.map(RabbitMQ.stop, self.members.values()))
        if self._epmd is not None:
            self._epmd.end(signal.SIGKILL)
            self._epmd = None
        self._leash.close()

    def kill(self) -> None:
        """SIGKILL of every member; `start` brings all back at their address, with their data."""
        for member in self.members.values():
            if member.is_running:
                member.kill()

    def leader_of(self, queue: str, vhost: str = "/", deadline_s: float = 30.0) -> str:
        """The name of the running member that leads this queue.

        AssertionError when none was elected in time.
        """
        led: list[str] = []

        def is_elected() -> bool:
            told = self._queue(queue, vhost)  # the leader of yesterday is told for a while
            alive = [name for name in told.online if self.members[name].is_running]
            led[:] = [name for name in alive if name == told.leader]
            return bool(led)

        if not wait_for(is_elected, deadline_s=deadline_s):
            raise AssertionError(f"{queue} has no leader; last seen: {self._queue(queue, vhost)}")
        return led[0]

    def members_of(self, queue: str, vhost: str = "/") -> list[str]:
        """The names of the members that keep this quorum queue, running or not."""
        return self._queue(queue, vhost).members

    def wait_members(
        self, queue: str, online: int = 3, deadline_s: float = 60.0, vhost: str = "/"
    ) -> None:
        """So many members of this quorum queue are online; AssertionError when not in time."""
        if not wait_for(lambda: self._is_online(queue, vhost, online), deadline_s=deadline_s):
            raise AssertionError(
                f"{queue} has not {online} members online; last seen: {self._queue(queue, vhost)}"
            )

    def wait_queues_kept(self, deadline_s: float = 10.0) -> bool:
        """True once no SIGKILL of a member costs it a queue (`RabbitMQ.wait_queues_kept`)."""
        return all(
            member.wait_queues_kept(deadline_s)
            for member in self.members.values()
            if member.is_running
        )

    def _is_online(self, queue: str, vhost: str, online: int | None = None) -> bool:
        wanted = len(self._names) if online is None else online
        return len(self._queue(queue, vhost).online) == wanted

    def _queue(self, queue: str, vhost: str) -> _Queue:
        """What management tells of it; nothing when there is no such queue.

        A classic queue has one member: its node.
        """
        told = self._get(f"queues/{quote(vhost, safe='')}/{quote(queue, safe='')}")
        if told.get("type") == "classic":
            is_up = told.get("state") == "running"
            home = [_member_of(told.get("node"))]
            return _Queue(home[0], home, home if is_up else [])
        return _Queue(
            _member_of(told.get("leader")),
            sorted(map(_member_of, told.get("members") or ())),
            sorted(map(_member_of, told.get("online") or ())),
        )

    def _get(self, path: str) -> Any:
        """What management answers; asked again when the member that was asked dies of a fault."""
        told: list[Any] = []

        def is_told() -> bool:
            port = self._ports["management"]
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                answer = manage(port, self._password, "GET", f"/api/{path}", missing_ok=True)
                told.append(json.loads(answer))
            return bool(told)

        if not wait_for(is_told, deadline_s=_ASK_S):
            raise OSError(f"no member of the cluster answers /api/{path}")
        return told[0]

    def _prepare(self) -> None:
        """Ports, password, definitions, members and haproxy; what there was before is kept."""
        of_members = [f"{name}.{port}" for name in self._names for port in PORTS]
        names = ("epmd", *_BALANCED, *of_members)
        self._ports = kept_ports(self.folder / "ports.json", names)
        self._password = secret_in(self.folder / "password")
        lines = _LINES.format(definitions=self._definitions(), size=len(self._names))
        for number, name in enumerate(self._names, 1):
            lines += _NODE_LINE.format(number=number, name=name)
        configuration = deployed("rabbitmq/rabbitmq.conf")
        for name in self._names:
            ports = {port: self._ports[f"{name}.{port}"] for port in PORTS}
            ports["epmd"] = self._ports["epmd"]
            shared = Membership(name, self.folder, ports, configuration, lines)
            self.members[name] = RabbitMQ(self.folder / name, shared)
        self._haproxy = self._balancer()

    def _definitions(self) -> Path:
        """A folder as compose mounts it: our user, then the topology."""
        folder = self.folder / "definitions"
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        user = {"name": USER, "password": self._password, "tags": "administrator"}
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        users = {
            "users": [user],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": USER, "vhost": "/", **everything}],
        }
        (folder / "10-users.json").write_text(json.dumps(users))
        of_compose = json.loads(deployed("rabbitmq/topology.json").read_text())["queues"]
        queues = [one["name"] for one in of_compose if is_queue_name(one["name"])]
        topology = definitions(queues)  # theirs are for one node
        (folder / "20-topology.json").write_text(json.dumps(topology))
        return folder

    def _balancer(self) -> HAProxy:
        servers = {
            kind: "\n".join(
                f"    server {name} {LOOPBACK}:{self._ports[f'{name}.{kind}']}"
                for name in self._names
            )
            for kind in _BALANCED
        }
        configuration = self.folder / "haproxy.cfg"
        configuration.write_text(_HAPROXY.format(**servers))
        listens = {variable: self._ports[kind] for kind, variable in _BALANCED.items()}
        return HAProxy(self.folder / "haproxy", configuration, listens=listens, variables={})


def _member_of(node: str | None) -> str:
    return (node or "").partition("@")[0]
