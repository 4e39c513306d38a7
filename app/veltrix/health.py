"""`/livez`, `/readyz` and `/metrics` of a process that is no api."""

import json
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from veltrix.domain.local_names import forwarding, is_local, is_loopback


class HealthServer:
    """A small HTTP server in threads of its own.

    `port` 0 takes a free one; `.port` says which. `checks()` names what the process needs and
    whether it has it; `/readyz` is 200 when it has everything, else 503, with the checks as JSON.
    Beside true and false `checks()` may tell more, as lists and texts, which decide nothing.
    `metrics()` is the text of `/metrics`. On a loopback address it answers to loopback names only,
    and nothing that was forwarded, as an api without keys.
    """

    def __init__(
        self,
        host: str,
        port: int,
        checks: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], bytes] = generate_latest,
    ) -> None:
        class Answers(_Answers):
            pass

        Answers.checks = staticmethod(checks)
        Answers.metrics = staticmethod(metrics)
        Answers.is_local = is_loopback(host)
        self._server = ThreadingHTTPServer((host, port), Answers)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._serve, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.2)


class _Answers(BaseHTTPRequestHandler):
    checks: Callable[[], Mapping[str, Any]]
    metrics: Callable[[], bytes]
    is_local: bool
    timeout = 5

    def do_GET(self) -> None:
        host = self.headers.get("host")
        is_foreign = host is not None and not is_local(f"//{host}")
        if self.is_local and (is_foreign or forwarding(self.headers.keys())):
            self._answer(403, b'{"title":"Only loopback names are answered here"}')
            return
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._answer(200, b'{"status":"alive"}')
        elif path == "/readyz":
            checks = dict(self.checks())
            is_ready = False not in checks.values()
            self._answer(200 if is_ready else 503, json.dumps(checks).encode())
        elif path == "/metrics":
            self._answer(200, self.metrics(), CONTENT_TYPE_LATEST)
        else:
            self._answer(404, b'{"title":"Not found"}')

    def _answer(self, status: int, body: bytes, type_: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Probes every second are not worth a line."""
