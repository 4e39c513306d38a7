"""TLS where we connect: whom we believe."""

import ssl
from pathlib import Path

LEAST = ssl.TLSVersion.TLSv1_2


def client_context(ca_file: Path | str | None) -> ssl.SSLContext:
    """For connecting to a server: its certificate and its name are checked.

    By the CAs in `ca_file`, else by those of the system. Raises OSError for a file that has none.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = LEAST
    return context
