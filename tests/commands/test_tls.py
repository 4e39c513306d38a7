"""Commands over TLS: `veltrix send` and Flower."""

import json
import signal
import socket
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.served import served
from tests.support.services import Broker
from tests.support.tls import Authority, tls_line
from tests.support.wait import until
from veltrix.dev.platform import Platform

EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def test_a_file_is_sent_to_whom_it_is_meant_for_or_not_at_all(
    veltrix: Veltrix, engine: Engine, database_url: str, tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    file = tmp_path / "events"
    file.write_text(json.dumps(EVENT) + "\n")
    send = ("send", str(file), "--json", "--url")

    plain = veltrix(*send, "http://api.example")
    assert plain.code == 2
    assert "https://" in plain.err
    with served(engine, database_url) as api:
        for what, certificate in {
            "Hostname mismatch": authority.certify("evil.example"),
            "certificate has expired": authority.certify(is_expired=True),
            "unable to get local issuer": other.certify(),
        }.items():
            with tls_line(api.url, certificate) as line:
                refused = veltrix(*send, line.url, "--ca-file", str(authority.file))
                assert refused.code == 2
                assert what in refused.err
                assert line.taken == 0
        with tls_line(api.url, authority.certify()) as line:
            sent = veltrix(*send, line.url, "--ca-file", str(authority.file))
            assert sent.code == 0, sent.err
            assert sent.json["accepted"] == 1
            absent = veltrix(*send, line.url, "--ca-file", str(tmp_path / "none"))
            assert absent.code == 2
            assert "no CA can be read" in absent.err


def test_an_api_speaks_tls_and_ends_in_time_whoever_is_connected(
    platform: Callable[..., Platform], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    cert, key = authority.certify("127.0.0.1")
    context = ssl.create_default_context(cafile=authority.file)
    running = platform(apis=0, relays=0, workers=0)
    env = {"VELTRIX_API_TLS_CERT": str(cert), "VELTRIX_API_TLS_KEY": str(key)}
    api = running.start("api-1", "api", env)
    broken = running.start("api-2", "api", env | {"VELTRIX_API_TLS_KEY": str(cert)})

    assert running.wait_ended(broken.name) != 0
    assert "VELTRIX_API_TLS_CERT: " in broken.log.read_text()
    until(lambda: answers(api.port, "/readyz", context), 20, "the api")
    address = ("127.0.0.1", api.port)
    with (
        socket.create_connection(address),
        socket.create_connection(address) as other,
        context.wrap_socket(other, server_hostname="127.0.0.1") as idle,
    ):
        api.child.popen.send_signal(signal.SIGINT)
        assert running.wait_ended(api.name, 8) == 0
        assert idle.recv(1) == b""
    assert '"scheme": "https"' in api.log.read_text()
    assert "link.open" not in api.log.read_text()


def answers(port: int, path: str, context: ssl.SSLContext) -> bool:
    return page(port, path, context) is not None


def page(port: int, path: str, context: ssl.SSLContext) -> str | None:
    """None: it is not answered, or with an error."""
    try:
        return get(port, path, context)
    except OSError:
        return None


def get(port: int, path: str, context: ssl.SSLContext) -> str:
    url = f"https://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(url, timeout=10, context=context) as told:
        body: bytes = told.read()
    return body.decode()


def test_flower_speaks_tls_and_believes_only_the_broker_that_is_meant(
    platform: Callable[..., Platform], broker: Broker, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    cert, key = authority.certify("127.0.0.1")
    with (
        tls_line(broker.url, authority.certify()) as line,
        tls_line(broker.management_url, authority.certify()) as management,
        tls_line(broker.url, authority.certify("evil.example")) as fraud,
    ):
        running = platform(apis=0, relays=0, workers=0)
        env = {
            "VELTRIX_FLOWER_TLS_CERT": str(cert),
            "VELTRIX_FLOWER_TLS_KEY": str(key),
            "VELTRIX_BROKER_CA_FILE": str(authority.file),
        }
        good = running.start(
            "good",
            "flower",
            env | {"VELTRIX_BROKER_URL": line.url, "VELTRIX_MANAGEMENT_URL": management.url},
        )
        bad = running.start("bad", "flower", env | {"VELTRIX_BROKER_URL": fraud.url})
        context = ssl.create_default_context(cafile=authority.file)

        until(lambda: answers(good.port, "/healthcheck", context), 20, "Flower")
        until(lambda: line.taken, 20, "its connection to RabbitMQ")
        # A page in a moment without a connection is an error of Flower's.
        until(
            lambda: "amqps://" in (page(good.port, "/broker", context) or ""), 20, "its page of it"
        )
        until(lambda: management.taken, 20, "its question to the management API")
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(
                socket.create_connection(("127.0.0.1", good.port)),
                server_hostname="127.0.0.1",
            )
        until(lambda: "CERTIFICATE_VERIFY_FAILED" in bad.log.read_text(), 20, "its refusal")
        assert fraud.taken == 0
