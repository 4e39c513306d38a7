"""haproxy runs from the file of the deployment, and sends nothing to an api that is not ready."""

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.processes import listening
from tests.support.wait import until
from veltrix.dev.children import CannotStart
from veltrix.dev.servers import haproxy as module
from veltrix.dev.servers.haproxy import HAProxy, before_apis
from veltrix.dev.servers.ports import free_port


class Api:
    """Answers with its name, and whether it is ready."""

    def __init__(self, name: str) -> None:
        self.is_ready = True
        api = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_refused = self.path == "/readyz" and not api.is_ready
                body = json.dumps(name).encode()
                self.send_response(503 if is_refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not on the terminal of the tests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port: int = self.server.server_address[1]
        self.thread = Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def apis() -> Iterator[list[Api]]:
    made = [Api("first"), Api("second")]
    yield made
    for api in made:
        api.close()


@pytest.fixture
def balancer(apis: list[Api], tmp_path: Path) -> Iterator[HAProxy]:
    with before_apis(tmp_path / "haproxy", *(api.port for api in apis)) as made:
        yield made


def ask(balancer: HAProxy, path: str = "/") -> str:
    with urllib.request.urlopen(f"{balancer.url}{path}", timeout=10) as response:  # noqa: S310
        answer: str = json.loads(response.read())
    return answer


def asked(balancer: HAProxy, count: int = 20) -> Counter[str]:
    return Counter(ask(balancer) for _ in range(count))


def test_both_apis_are_asked_and_none_that_is_not_ready(apis: list[Api], balancer: HAProxy) -> None:
    assert set(asked(balancer)) == {"first", "second"}

    apis[0].is_ready = False

    until(lambda: set(asked(balancer)) == {"second"}, 5.0, "the second alone to be asked")
    apis[0].is_ready = True
    until(lambda: set(asked(balancer)) == {"first", "second"}, 5.0, "both to be asked again")


def test_metrics_are_not_for_those_who_come_through_it(balancer: HAProxy) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(balancer, "/metrics")


def test_it_listens_on_loopback_only_and_comes_back_at_its_address(balancer: HAProxy) -> None:
    url = balancer.url
    assert balancer._child is not None
    addresses = {address for address, _ in listening(balancer._child.pid)}

    balancer.kill()
    assert not balancer.is_running
    balancer.start()

    assert addresses == {"127.0.0.1"}
    assert balancer.url == url
    assert ask(balancer) in {"first", "second"}


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    configuration = tmp_path / "wrong.cfg"
    configuration.write_text("frontend f\n    bnd 127.0.0.1:1\n")
    wrong = HAProxy(
        tmp_path / "haproxy", configuration, listens={"EVENTS_ADDRESS": free_port()}, variables={}
    )

    with pytest.raises(CannotStart, match="unknown keyword 'bnd'"):
        wrong.start()


def test_without_haproxy_a_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROGRAMS", ("haproxy",))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(CannotStart, match="apt-get install haproxy"):
        before_apis(tmp_path / "haproxy", 1, 2).start()
