"""A name for PostgreSQL that can lead elsewhere: haproxy, as before a primary and its stand-bys."""

import socket
from pathlib import Path

from veltrix.dev.servers.haproxy import HAProxy
from veltrix.dev.servers.ports import LOOPBACK, kept_ports

_CONFIGURATION = """
global
    stats socket "ipv4@${ADMIN_ADDRESS}" level admin
defaults
    mode tcp
    retries 0
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen postgres
    bind "${POSTGRES_ADDRESS}"
    server primary "${PRIMARY_ADDRESS}"
"""
_LISTENS = ("POSTGRES_ADDRESS", "ADMIN_ADDRESS")
_ASK_S = 5.0


class Front:
    """Listens at `port`; connections that are made from now on go to `primary`, another port."""

    def __init__(self, folder: Path, primary: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "postgres.cfg"
        configuration.write_text(_CONFIGURATION)
        ports = kept_ports(folder / "ports.json", _LISTENS)
        self.port, self._admin = (ports[name] for name in _LISTENS)
        self._proxy = HAProxy(
            folder,
            configuration,
            listens=ports,
            variables={"PRIMARY_ADDRESS": f"{LOOPBACK}:{primary}"},
        )

    def start(self) -> None:
        """See `HAProxy.start`."""
        self._proxy.start()

    def stop(self) -> None:
        """No more connections."""
        self._proxy.stop()

    def lead_to(self, port: int) -> None:
        """New connections go there; those that are there stay where they are."""
        command = f"set server postgres/primary addr {LOOPBACK} port {port}\n"
        with socket.create_connection((LOOPBACK, self._admin), timeout=_ASK_S) as admin:
            admin.sendall(command.encode())
            admin.shutdown(socket.SHUT_WR)
            told = b"".join(iter(lambda: admin.recv(4_096), b"")).decode()
        if "changed" not in told and told.strip():
            raise OSError(f"haproxy does not lead to port {port}: {told.strip()}")
