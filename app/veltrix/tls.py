"""TLS on both sides: whom we believe when we connect, and by what others believe us."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from veltrix.telemetry import logger

LOOK_S = 1.0
LEAST = ssl.TLSVersion.TLSv1_2

_log = logger("tls")


class CertificateRefused(Exception):
    """The files cannot be used as a certificate and its key; the message says why."""


def client_context(ca_file: Path | str | None) -> ssl.SSLContext:
    """For connecting to a server: its certificate and its name are checked.

    By the CAs in `ca_file`, else by those of the system. Raises OSError for a file that has none.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = LEAST
    return context


class Certificate:
    """A server's certificate and key, read again when their files change.

    `context` is for the server: each handshake gets what was read last. Raises CertificateRefused.
    For one thread.
    """

    def __init__(
        self, cert: Path, key: Path, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._cert, self._key, self._monotonic = cert, key, monotonic
        self._looked_at = monotonic()
        self._seen = self._signature()
        self.context = self._newest = _server_context(cert, key)
        self.context.sni_callback = self._choose

    def look(self) -> None:
        """Read the files again if they have changed, at most once a second.

        While what is there cannot be used, the one before is; why is logged once for each change.
        """
        now = self._monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        seen = self._signature()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._newest = _server_context(self._cert, self._key)
        except CertificateRefused as refused:
            _log.error("certificate.refused", error=str(refused), used="the one before")
        else:
            _log.info("certificate.read", file=str(self._cert))

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called in each handshake, whether the client names a server or not."""
        self.look()
        if connection.context is not self._newest:
            connection.context = self._newest

    def _signature(self) -> list[tuple[int, int, int] | None]:
        """Another one when a file was written, replaced, or a link to it leads elsewhere."""
        found: list[tuple[int, int, int] | None] = []
        for file in (self._cert, self._key):
            try:
                told = file.stat()
            except OSError:
                found.append(None)
            else:
                found.append((told.st_mtime_ns, told.st_ino, told.st_size))
        return found


def _server_context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = LEAST
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        for file in (cert, key):
            file.read_bytes()  # OpenSSL does not say which of them it cannot read
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise CertificateRefused(
            f"{cert} and {key} cannot be used as certificate and key: {error}"
        ) from None
    return context


def _no_password() -> str:
    """Instead of OpenSSL, which would ask in the terminal and wait."""
    raise ValueError("the key is encrypted; write it without a password, readable by us only")
