"""What stands in front of PostgreSQL: PgBouncer, and a proxy that drops `options` as that may.

PgBouncer with `ignore_startup_parameters = options` does that, and without it refuses us.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import pack, unpack
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import unquote, urlsplit, urlunsplit

from tests.support.wait import until
from veltrix.dev.servers.ports import free_port

_SSL_REQUEST, _GSS_REQUEST = 80_877_103, 80_877_104


@contextmanager
def dropping_options(url: str) -> Iterator[str]:
    """The URL of a way to the database at `url` on which the options of sessions are dropped."""
    parts = urlsplit(url)
    target = parts.hostname or "127.0.0.1", parts.port or 5432
    listening = socket.create_server(("127.0.0.1", 0))
    Thread(target=_serve, args=(listening, target), daemon=True).start()
    user = parts.netloc.rpartition("@")[0]
    port = listening.getsockname()[1]
    try:
        yield urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _serve(listening: socket.socket, target: tuple[str, int]) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            Thread(target=_session, args=(client, target), daemon=True).start()


def _session(client: socket.socket, target: tuple[str, int]) -> None:
    with suppress(OSError), client, socket.create_connection(target) as server:
        length, version = unpack("!ii", client.recv(8, socket.MSG_WAITALL))
        while version in (_SSL_REQUEST, _GSS_REQUEST):
            client.sendall(b"N")
            length, version = unpack("!ii", client.recv(8, socket.MSG_WAITALL))
        words = client.recv(length - 8, socket.MSG_WAITALL).split(b"\0")
        pairs = [pair for pair in zip(words[::2], words[1::2], strict=False) if pair[0]]
        kept = b"".join(name + b"\0" + value + b"\0" for name, value in pairs if name != b"options")
        server.sendall(pack("!ii", len(kept) + 9, version) + kept + b"\0")
        Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65_536):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def pgbouncer(url: str, pool_mode: str, **settings: object) -> Iterator[str]:
    """The URL of a way to the database at `url` through a PgBouncer that pools so."""
    parts, port = urlsplit(url), free_port()
    with TemporaryDirectory(prefix="veltrix-pgbouncer-") as name:
        folder = Path(name)
        users, ini = folder / "users.txt", folder / "pgbouncer.ini"
        users.write_text(f'"{parts.username}" "{unquote(parts.password or "")}"\n')
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "auth_type": "plain",
            "auth_file": users,
            "pool_mode": pool_mode,
            "default_pool_size": 4,
            "unix_socket_dir": "",
            "ignore_startup_parameters": "options,extra_float_digits",
        } | settings
        said = "".join(f"{name} = {value}\n" for name, value in lines.items())
        target = f"host={parts.hostname} port={parts.port or 5432}"
        ini.write_text(f"[databases]\n* = {target}\n[pgbouncer]\n{said}")
        folder.chmod(0o755)
        with subprocess.Popen(
            ["/usr/sbin/pgbouncer", "-q", ini],
            user="nobody" if os.getuid() == 0 else None,  # as root it does not run
            stderr=subprocess.DEVNULL,
        ) as child:
            try:
                until(lambda: _listens(port), what="PgBouncer")
                user = parts.netloc.rpartition("@")[0]
                yield urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
            finally:
                child.kill()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
