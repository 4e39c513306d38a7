"""A private RabbitMQ node, started from the system's scripts as any user, on loopback only."""

import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from veltrix.broker.message import MESSAGE_BYTES_MAX
from veltrix.dev.children import CannotStart, Child, Leash, kill_all, tail, wait_for
from veltrix.dev.servers.embedded import EmbeddedServer
from veltrix.dev.servers.ports import LOOPBACK, kept_ports

_SCRIPTS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/sbin"), Path("/opt/homebrew/sbin"))
USER = "veltrix"
PORTS = ("amqp", "management", "distribution")
_NODE = "veltrix"  # its own epmd knows no other node, so the name needs no number
_CONFIGURATION = """\
listeners.tcp.1 = {host}:{amqp}
management.tcp.ip = {host}
management.tcp.port = {management}
log.console = false
log.file = {log}
log.file.level = warning
log.connection.level = error
raft.wal_max_size_bytes = {wal_bytes}
max_message_size = {message_bytes}
"""
# Quorum queues keep what is in their common log in memory too, and the log until its file is full:
# by default 512 MiB. deploy/rabbitmq/rabbitmq.conf says the same.
WAL_BYTES = 32 * 1024 * 1024
_ACCOUNT = """\
default_user = {user}
default_pass = {password}
"""
# Erlang's schedulers would turn in a loop for a moment before they sleep, in case work comes: on
# cores shared with what they wait for that is no help. docker-compose.yml says the same.
NO_BUSY_WAIT = "+sbwt none +sbwtdcpu none +sbwtdio none"
_ERL_ARGS = f"-kernel inet_dist_use_interface {{127,0,0,1}} -start_epmd false +S 2:2 {NO_BUSY_WAIT}"
# 3.10's management agent waits 5 s for nothing at the end of a stop; the queues are on disk then.
_STOP_GRACE_S = 3.0
_HOW_TO_GET_IT = (
    "RabbitMQ is not installed here: install it (Debian: apt-get install rabbitmq-server; macOS:"
    " brew install rabbitmq), or point VELTRIX_BROKER_URL and VELTRIX_MANAGEMENT_URL at yours"
)


@dataclass(frozen=True)
class Membership:
    """What makes a node one of a cluster; who gives it starts the epmd.

    `home` has the cookie and the password of all, `ports` one of each of `PORTS` and of `epmd`. The
    node reads `configuration` first, then what is its own, which ends with `lines`.
    """

    name: str
    home: Path
    ports: Mapping[str, int]
    configuration: Path
    lines: str


class RabbitMQ(EmbeddedServer):
    """One RabbitMQ node in one folder, on loopback ports that it keeps, with an epmd of its own.

    Only this folder's password opens it. It ends with the process that started it. With a
    `membership` it is one of a cluster.
    """

    def __init__(self, folder: Path, membership: Membership | None = None) -> None:
        self._membership = membership
        self._node = f"{membership.name if membership else _NODE}@localhost"
        super().__init__(folder)
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._ports: dict[str, int] = {}
        self._password = ""
        self._epmd: Child | None = None

    def url(self, vhost: str = "/") -> str:
        """AMQP to a virtual host; the same after a restart."""
        return amqp_url(self._ports["amqp"], self._password, vhost)

    @property
    def management_url(self) -> str:
        """The management API and its pages; the same after a restart."""
        return f"http://{USER}:{self._password}@{LOOPBACK}:{self._ports['management']}"

    def start(self) -> None:
        """Accepts AMQP connections and answers management requests when this returns."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start it without waiting, so that something else can start meanwhile (`wait_ready`)."""
        if self.is_running:
            return
        scripts = _scripts()
        self._leash.open()
        self._prepare()
        if self._membership is None and (self._epmd is None or not self._epmd.is_running):
            self._epmd = start_epmd(self._leash, self._ports["epmd"])
        with (self.folder / "output").open("ab") as output:
            self._child = self._leash.spawn(
                "rabbitmq",
                [str(scripts / "rabbitmq-server")],
                env=self._environment(scripts),
                cwd=self.folder,
                output=output,
            )

    def wait_ready(self, deadline_s: float = 90.0) -> None:
        """AMQP is accepted and management answers, or `CannotStart` with the end of the log."""
        if not wait_for(
            lambda: accepts(self._ports["amqp"], self._ports["management"], self._password),
            deadline_s=deadline_s,
            alive=lambda: self.is_running,
        ):
            self.stop()
            raise CannotStart(
                f"RabbitMQ did not start; the end of its output:\n{tail(self.folder / 'output')}\n"
                f"and of its log:\n{tail(self._log)}"
            )

    def stop(self) -> None:
        """Connections are closed, confirmed messages are on disk, nothing is left running."""
        if self._child is not None:
            self._child.end(signal.SIGTERM, _STOP_GRACE_S)
            self._child = None
        if self._epmd is not None:
            self._epmd.end(signal.SIGKILL)
            self._epmd = None
        self._leash.close()

    def kill(self) -> None:
        """SIGKILL of the Erlang machine; `start` brings it back at its address, with its data.

        A quorum queue declared in the last second may come back without a leader and stay so: see
        `wait_queues_kept`.
        """
        assert self._child is not None, "start() comes first"
        members = self._child.family()
        self._child.kill()
        kill_all(members)

    def wipe(self) -> None:
        """Killed, and everything it knew is gone: queues, messages, virtual hosts, policies.

        `start` makes an empty node at the same address, for the same user.
        """
        if self.is_running:
            self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    def wait_queues_kept(self, deadline_s: float = 10.0) -> bool:
        """True once a SIGKILL finds every quorum queue there is now; False after the deadline.

        Measured on 3.10.8: the file with the names of a node's queue members is written up to a
        second after a declaration. Killed before, the node starts an empty member under a new
        identity, which never elects itself: publishes and gets time out after 65 s, for ever.
        """
        names = self._data / self._node / "quorum" / self._node / "names.dets"

        def are_kept() -> bool:
            queues = json.loads(self._call("GET", "/api/queues?columns=name,vhost,type"))
            kept = names.read_bytes() if names.exists() else b""
            return all(
                f"{quote(queue['vhost'], safe='')}_{queue['name']}".encode() in kept
                for queue in queues
                if queue.get("type") == "quorum"
            )

        return wait_for(are_kept, deadline_s=deadline_s, alive=lambda: self.is_running)

    def create_vhost(self, name: str) -> str:
        """A new, empty virtual host that our user may use; its AMQP URL."""
        self._call("PUT", f"/api/vhosts/{quote(name, safe='')}")
        return self.url(name)

    def delete_vhost(self, name: str) -> None:
        """The virtual host is gone with all it holds; connections to it are closed."""
        self._call("DELETE", f"/api/vhosts/{quote(name, safe='')}", missing_ok=True)

    def _call(self, method: str, path: str, *, missing_ok: bool = False) -> bytes:
        port = self._ports["management"]
        return manage(port, self._password, method, path, missing_ok=missing_ok)

    def _prepare(self) -> None:
        """Folders, ports, password, cookie and configuration; those that exist are kept."""
        shared = self._membership
        if not self._ports:
            self._ports = (
                dict(shared.ports)
                if shared
                else kept_ports(self.folder / "ports.json", (*PORTS, "epmd"))
            )
        self._data.mkdir(exist_ok=True)
        secret_in(self._home / ".erlang.cookie")
        self._password = secret_in(self._home / "password")
        (self.folder / "env.conf").touch()
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        account = _ACCOUNT.format(user=USER, password=self._password)
        own = _CONFIGURATION.format(
            host=LOOPBACK,
            log=self._log,
            wal_bytes=WAL_BYTES,
            message_bytes=MESSAGE_BYTES_MAX,
            **self._ports,
        )
        configuration = self.folder / "rabbitmq.conf"
        configuration.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        configuration.write_text(own + (shared.lines if shared else account))

    @property
    def _home(self) -> Path:
        """Where Erlang looks for the cookie."""
        return self._membership.home if self._membership else self.folder

    def _environment(self, scripts: Path) -> dict[str, str]:
        path = os.environ.get("PATH", os.defpath)
        own = str(self.folder / "rabbitmq.conf")
        # Those in the second variable are read after the one in the first, and change it.
        read = (
            {
                "RABBITMQ_CONFIG_FILE": str(self._membership.configuration),
                "RABBITMQ_CONFIG_FILES": own,
            }
            if self._membership
            else {"RABBITMQ_CONFIG_FILE": own}
        )
        return {
            **read,
            "PATH": f"{scripts}{os.pathsep}{path}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._home),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._ports["epmd"]),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._ports["distribution"]),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._data),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERL_ARGS,
            # The script becomes the Erlang machine instead of a shell that waits for it and would
            # survive neither our signals nor our death as it should.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


def start_epmd(leash: Leash, port: int) -> Child:
    """Erlang's register of node names, for all nodes that are told this port; on loopback only."""
    argv = ["epmd", "-port", str(port), "-address", LOOPBACK]
    with (leash.folder / "output").open("ab") as output:
        env = {"PATH": os.environ.get("PATH", os.defpath)}
        return leash.spawn("epmd", argv, env=env, cwd=leash.folder, output=output)


def amqp_url(port: int, password: str, vhost: str) -> str:
    """AMQP to a virtual host on this port of ours."""
    return f"amqp://{USER}:{password}@{LOOPBACK}:{port}/{quote(vhost, safe='')}"


def manage(port: int, password: str, method: str, path: str, *, missing_ok: bool = False) -> bytes:
    """What the management API on this port answers; OSError when it refuses."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    account = base64.b64encode(f"{USER}:{password}".encode()).decode()
    try:
        connection.request(method, path, headers={"Authorization": f"Basic {account}"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= 400 and not (missing_ok and response.status == 404):
        raise OSError(f"RabbitMQ refused {method} {path}: {response.status} {answer[:500]!r}")
    return answer


def accepts(amqp: int, management: int, password: str) -> bool:
    """AMQP connections are accepted and management answers, on these ports."""
    try:
        with socket.create_connection((LOOPBACK, amqp), timeout=5) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            if probe.recv(1) != b"\x01":  # a method frame: connection.start
                return False
        overview: dict[str, Any] = json.loads(manage(management, password, "GET", "/api/overview"))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return "rabbitmq_version" in overview


def secret_in(path: Path) -> str:
    """192 random bits in a file that only we can read; those of last time when it exists."""
    if not path.exists():
        path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        path.write_text(secrets.token_hex(24))
    return path.read_text()


def _scripts() -> Path:
    """Where RabbitMQ's own scripts are; `CannotStart` says how to get them.

    Debian's `rabbitmq-server` on the path is a wrapper that insists on root or the system's user,
    so the known places of the real scripts come first.
    """
    for folder in _SCRIPTS:
        if os.access(folder / "rabbitmq-server", os.X_OK):
            return folder
    found = shutil.which("rabbitmq-server")
    if found is None:
        raise CannotStart(_HOW_TO_GET_IT)
    return Path(found).resolve().parent
