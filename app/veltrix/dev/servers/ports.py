"""Loopback ports for servers that are stopped and started again at the same address."""

import json
import random
import socket
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the kernel's range for outgoing connections (32768 on): a port in that range can be taken by
# any client between a stop and the next start, and a client that retries a dead server there can
# even be connected to itself.
_PORTS = range(20_000, 32_000)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Nothing listens on this port of this address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None, host: str = LOOPBACK) -> int:
    """`preferred` when it is free, else a free port that no outgoing connection will take."""
    if preferred and is_free(preferred, host):
        return preferred
    chance = random.SystemRandom()
    for _ in range(1_000):
        port = chance.choice(_PORTS)
        if is_free(port, host):
            return port
    raise OSError(f"no free port on {host} between {_PORTS.start} and {_PORTS.stop}")


class Claims:
    """Ports that no other owner of claims on this machine chooses until `close`, bound or not.

    For the time between choosing a port and the server's binding it. The names live in Linux's
    abstract socket namespace, so the kernel drops them with their owner; elsewhere nothing is kept.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def port(self, *preferred: int | None) -> int:
        """The first of `preferred` that is free and unclaimed, else another such; now claimed."""
        for one in preferred:
            if one and is_free(one) and self._claim(one):
                return one
        while not self._claim(port := free_port()):
            pass
        return port

    def _claim(self, port: int) -> bool:
        if sys.platform != "linux":
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0veltrix-port-{port}")
        except OSError:
            claim.close()
            return False
        self._held.append(claim)
        return True

    def close(self) -> None:
        """Give the ports up."""
        for claim in self._held:
            claim.close()
        self._held.clear()


def kept_ports(path: Path, names: tuple[str, ...]) -> dict[str, int]:
    """A free port for each name, that of last time where it is still free; kept in `path`."""
    before: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    ports: dict[str, int] = {}
    for name in names:
        port = free_port(before.get(name))
        while port in ports.values():
            port = free_port()
        ports[name] = port
    path.write_text(json.dumps(ports))
    return ports
