"""PostgreSQL's protocol over TLS: what docs/how-to/operating.md says of `sslmode=verify-full`.

The PostgreSQL of the tests is built without TLS; a PgBouncer before it speaks it.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy.exc import OperationalError

from tests.support.pooler import pgbouncer
from tests.support.tls import Authority
from veltrix.bootstrap import engine_for
from veltrix.settings.fields import Settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that PgBouncer, which is nobody, may read."""
    with TemporaryDirectory(prefix="veltrix-tls-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def is_encrypted(url: str, mode: str, believed: Authority) -> bool:
    settings = Settings(database_url=f"{url}?sslmode={mode}&sslrootcert={believed.file}")
    engine = engine_for(settings, "tests")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("select 1")
            driver = connection.connection.driver_connection
            assert driver is not None
            return bool(driver.pgconn.ssl_in_use)
    finally:
        engine.dispose()


def test_verify_full_believes_the_name_and_the_ca_it_was_told_and_nobody_else(
    database_url: str, folder: Path
) -> None:
    authority, other = Authority(folder / "ca"), Authority(folder / "other")
    cert, key = authority.certify("localhost")
    tls = {"client_tls_sslmode": "require", "client_tls_cert_file": cert}
    with pgbouncer(database_url, "session", **tls, client_tls_key_file=key) as by_address:
        by_name = by_address.replace("@127.0.0.1:", "@localhost:")

        assert is_encrypted(by_name, "verify-full", authority)
        with pytest.raises(OperationalError, match="does not match host name"):
            is_encrypted(by_address, "verify-full", authority)
        with pytest.raises(OperationalError, match="certificate verify failed"):
            is_encrypted(by_name, "verify-full", other)
        assert is_encrypted(by_address, "verify-ca", authority), "what is warned of"
