"""The API over TLS: its certificate may change under way, and no limit of a connection is lost."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.api.conftest import Api, serving
from tests.support.tls import Authority
from tests.support.wait import until
from veltrix.api.gate import ConnectionLimits, Gate
from veltrix.api.handshakes import TlsServer
from veltrix.processes.api import config_of
from veltrix.settings.fields import Settings
from veltrix.tls import LOOK_S, Certificate, CertificateRefused, client_context

BATCH = {"content-type": "application/cloudevents-batch+json"}
SHORT = ConnectionLimits(head_s=1.0, body_s=1.0, linger_s=0.5, write_s=1.0)
FILE = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"


class TlsApi:
    """An api that speaks TLS, and its limits."""

    def __init__(self, api: Api, port: int, authority: Authority, gate: Gate) -> None:
        self.app, self.port, self.gate = api.app, port, gate
        self._context = client_context(authority.file)

    def dial(self) -> socket.socket:
        """Without TLS."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def connect(self, name: str = "localhost") -> ssl.SSLSocket:
        """With TLS, if it is whom `name` means."""
        return self._context.wrap_socket(self.dial(), server_hostname=name)

    def ask(self, method: str, path: str, body: Any = None, headers: Any = None) -> int:
        """The status of the answer to a request on a connection of its own."""
        client = HTTPSConnection("localhost", self.port, context=self._context, timeout=20)
        with closing(client):
            client.request(method, path, body, headers or {})
            return client.getresponse().status


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@contextmanager
def tls_api(
    database_url: str,
    authority: Authority,
    certificate: Certificate,
    limits: ConnectionLimits = SHORT,
) -> Iterator[TlsApi]:
    """The application of an api, on a server that is told a certificate."""
    with serving(Settings(database_url=database_url)) as api:
        gate = Gate(limits)
        config = config_of(api.app, gate)
        config.lifespan, config.log_level = "off", "error"
        server = TlsServer(config, gate, certificate)
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        factory = config.get_loop_factory()

        def serve() -> None:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(server.serve(sockets=[listening]))

        thread = Thread(target=serve)
        thread.start()
        try:
            until(lambda: server.started, what="the api to start")
            yield TlsApi(api, listening.getsockname()[1], authority, gate)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def api(database_url: str, authority: Authority) -> Iterator[TlsApi]:
    with tls_api(database_url, authority, Certificate(*authority.certify())) as api:
        yield api


def is_closed(one: socket.socket) -> bool:
    """By the other side, politely or not."""
    try:
        return one.recv(65_536) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def answer_of(one: socket.socket) -> bytes:
    """All of it, as far as braces tell."""
    read = b""
    while b"\r\n\r\n" not in read or not read.endswith(b"}"):
        data = one.recv(65_536)
        assert data, f"closed after {read!r}"
        read += data
    return read


def test_requests_are_answered_over_tls_and_over_nothing_else(api: TlsApi) -> None:
    body = b"[" + b",".join(
        b'{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":"%s"}' % (n, b"x" * 9_000)
        for n in range(200)
    ) + b"]"  # fmt: skip

    assert api.ask("GET", "/livez") == 200
    assert api.ask("POST", "/v1/events", body, BATCH) == 202
    with closing(api.connect()) as kept:
        for _ in range(3):
            kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer_of(kept).startswith(b"HTTP/1.1 200")
    with closing(api.dial()) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert is_closed(plain)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_client_sees_whom_it_speaks_to_and_refuses_others(api: TlsApi, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        api.connect("api.example")
    other = client_context(Authority(tmp_path / "other").file)
    with pytest.raises(ssl.SSLCertVerificationError), closing(api.dial()) as plain:
        other.wrap_socket(plain, server_hostname="localhost")
    old = client_context(None)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), closing(api.dial()) as plain:
        old.wrap_socket(plain)

    assert api.ask("GET", "/livez") == 200


def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    database_url: str, authority: Authority, tmp_path: Path
) -> None:
    live = tmp_path / "live.pem", tmp_path / "live.key"

    def write(pair: tuple[Path, Path]) -> None:
        for to, from_ in zip(live, pair, strict=True):
            new = to.with_suffix(".new")
            new.write_bytes(from_.read_bytes())
            new.rename(to)

    write(authority.certify("one.example"))
    now = [0.0]
    certificate = Certificate(*live, monotonic=lambda: now[0])
    with tls_api(database_url, authority, certificate) as api:
        kept = api.connect("one.example")
        write(authority.certify("two.example"))
        api.connect("one.example").close()  # not looked at yet: a second has not passed
        now[0] += LOOK_S
        api.connect("two.example").close()

        with capture_logs() as said:
            first, _ = authority.certify("three.example")
            write((first, live[1]))  # a key of another certificate
            for _ in range(3):
                now[0] += LOOK_S
                api.connect("two.example").close()
            live[0].unlink()
            now[0] += LOOK_S
            api.connect("two.example").close()
        assert [line["event"] for line in said] == ["certificate.refused"] * 2

        write(authority.certify("four.example"))
        now[0] += LOOK_S
        api.connect("four.example").close()
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_of(kept).startswith(b"HTTP/1.1 200")
        kept.close()


def test_files_that_are_no_certificate_and_key_are_refused_at_the_start(
    authority: Authority, tmp_path: Path
) -> None:
    cert, key = authority.certify()
    _, other = authority.certify()
    (tmp_path / "text").write_text("no PEM")
    locked = tmp_path / "locked.key"
    locked.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )

    for files in (
        (cert, other),
        (cert, tmp_path / "none"),
        (tmp_path / "text", key),
        (cert, locked),
    ):
        with pytest.raises(CertificateRefused, match="cannot be used as certificate and key"):
            Certificate(*files)


def test_who_connects_and_agrees_on_nothing_is_closed_in_time_and_counted(
    database_url: str, authority: Authority
) -> None:
    limits = ConnectionLimits(connections_max=16, head_s=2.0)
    with tls_api(database_url, authority, Certificate(*authority.certify()), limits) as api:
        silent = [api.dial() for _ in range(60)]
        silent[-1].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a hello
        try:
            until(lambda: len(api.gate._guests) == 16, what="no more than there may be")

            assert api.ask("GET", "/livez") == 200, "who is silent longest makes room"
            with closing(api.connect()):
                assert sum(is_closed(one) for one in silent) == 60
                until(lambda: len(api.gate._guests) <= 1, what="nobody silent to be left")
        finally:
            for one in silent:
                one.close()


def test_heads_and_bodies_have_their_time_over_tls(api: TlsApi) -> None:
    with closing(api.connect()) as slow_head, closing(api.connect()) as slow_body:
        slow_head.sendall(HEAD)
        slow_body.sendall(
            HEAD + b"Content-Type: application/cloudevents+json\r\nContent-Length: 9\r\n\r\n["
        )

        assert answer_of(slow_head).startswith(b"HTTP/1.1 408")
        assert answer_of(slow_body).startswith(b"HTTP/1.1 408")
        assert is_closed(slow_head)
        assert is_closed(slow_body)
    with closing(api.connect()) as large:
        large.sendall(HEAD + b"x: " + b"y" * 70_000)
        assert answer_of(large).startswith(b"HTTP/1.1 431")
    until(lambda: not api.gate._guests, what="all to be gone")


def test_who_reads_nothing_and_who_says_goodbye_are_let_go(
    api: TlsApi, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(api.connect()) as deaf:
        large = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf.sendall(large * 12)
        until(lambda: not api.gate._guests, 10, "who reads nothing to be closed")
    with closing(api.connect()) as polite:
        polite.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer_of(polite)
        polite.unwrap().close()
    until(lambda: not api.gate._guests, what="who said goodbye to be gone")
    assert not caplog.records


def test_who_does_not_read_and_goes_on_asking_is_closed_over_tls_too(api: TlsApi) -> None:
    """TLS took all of an answer, and half a MiB more, before it said that nobody reads."""
    with api.dial() as dialled:
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with api._context.wrap_socket(dialled, server_hostname="localhost") as one:
            one.sendall(FILE * 8)

            def is_gone() -> bool:
                try:
                    one.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                except OSError:
                    return True
                return not api.gate._guests

            until(is_gone, 15, "its end")


def test_who_reads_slowly_and_steadily_has_all_of_it_over_tls(api: TlsApi) -> None:
    """It takes longer than anybody may go without reading; TLS always has the same bytes ready."""
    pause = Event()

    def read_all(pause_s: float) -> int:
        got = 0
        with api.dial() as dialled:
            dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            with api._context.wrap_socket(dialled, server_hostname="localhost") as one:
                last = FILE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                one.sendall(FILE * 3 + last)
                while data := one.recv(65_536):
                    got += len(data)
                    pause.wait(pause_s)
        return got

    assert read_all(0.012) == read_all(0.0) > 3_000_000
