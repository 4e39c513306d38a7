"""Debian's haproxy as a child process, and the one that stands before two apis."""

import os
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from veltrix.dev.children import CannotStart, tail, wait_for
from veltrix.dev.servers.deployed import deployed
from veltrix.dev.servers.embedded import EmbeddedServer
from veltrix.dev.servers.ports import LOOPBACK, kept_ports

_PROGRAMS = ("haproxy", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy")
_HOW_TO_GET_IT = (
    "haproxy is not installed here: install it (Debian: apt-get install haproxy; macOS:"
    " brew install haproxy)"
)


class HAProxy(EmbeddedServer):
    """One haproxy with one configuration file, listening on loopback ports that stay the same.

    `listens` names the environment variables that the file takes its own addresses from, each with
    a port; `variables` are the others it reads. It ends with the process that started it.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Path,
        *,
        listens: Mapping[str, int],
        variables: Mapping[str, str],
    ) -> None:
        super().__init__(folder)
        self._configuration = configuration.absolute()
        self._ports = dict(listens)
        self._variables = dict(variables)

    @property
    def url(self) -> str:
        """Where its first listener answers; the same after a restart."""
        return f"http://{LOOPBACK}:{next(iter(self._ports.values()))}"

    def start(self) -> None:
        """Accepts connections on all its ports when this returns.

        `CannotStart` when haproxy is not installed, or with what it said against the file.
        """
        if self.is_running:
            return
        program = _program()
        self._leash.open()
        # -db: in the foreground, as the one process that our signals and our death reach.
        argv = [program, "-db", "-f", str(self._configuration)]
        addresses = {name: f"{LOOPBACK}:{port}" for name, port in self._ports.items()}
        env = {"PATH": os.environ.get("PATH", os.defpath), **self._variables, **addresses}
        log = self.folder / "output"
        with log.open("ab") as output:
            self._child = self._leash.spawn(
                "haproxy", argv, env=env, cwd=self.folder, output=output
            )
        if not wait_for(self._accepts, deadline_s=10.0, alive=lambda: self.is_running):
            self.stop()
            raise CannotStart(f"haproxy did not start; the end of its output:\n{tail(log)}")

    def stop(self) -> None:
        """Its connections are closed and nothing is left running."""
        if self._child is not None:
            self._child.end(signal.SIGTERM)
            self._child = None
        self._leash.close()

    def kill(self) -> None:
        """SIGKILL; `start` brings it back at its addresses."""
        assert self._child is not None, "start() comes first"
        self._child.kill()

    def _accepts(self) -> bool:
        """Every port is bound."""
        try:
            for port in self._ports.values():
                socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            return False
        return True


def before_apis(folder: Path, first: int, second: int) -> HAProxy:
    """An haproxy, not yet started, before the apis on these two loopback ports.

    It runs from the file that docker-compose.yml mounts, with other addresses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = kept_ports(folder / "ports.json", ("EVENTS_ADDRESS",))
    apis = {
        "API_1_ADDRESS": f"{LOOPBACK}:{first}",
        "API_2_ADDRESS": f"{LOOPBACK}:{second}",
    }
    return HAProxy(folder, deployed("haproxy.cfg"), listens=ports, variables=apis)


def _program() -> str:
    """Where haproxy is, also for users without the folders of system programs in their PATH."""
    for name in _PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise CannotStart(_HOW_TO_GET_IT)
