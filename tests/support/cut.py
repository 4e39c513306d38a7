"""A TCP proxy in front of PostgreSQL that can swallow an answer and cut the line."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from urllib.parse import urlsplit, urlunsplit


class Line:
    """`url` leads through the proxy to the database."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
        self._open: list[socket.socket] = []
        self._lock = Lock()
        self._is_down = False
        self._word: bytes | None = None
        self._stays_down = True
        self._hated: bytes | None = None
        self.swallowed = Event()
        Thread(target=self._serve, daemon=True).start()

    def swallow_answer_to(self, word: bytes, *, stays_down: bool) -> None:
        """Let the next statement that holds `word` be executed; cut the line at its answer."""
        self.swallowed.clear()
        self._word, self._stays_down = word, stays_down

    def hangs_up_on(self, word: bytes) -> None:
        """Cut the line, without a word, at each statement that holds `word` (by chunks of it)."""
        self._hated = word

    def take_down(self) -> None:
        """Cut all lines and refuse new ones."""
        self._is_down = True
        self._cut()

    def bring_up(self) -> None:
        """Take lines again."""
        self._is_down = False

    def break_all(self) -> None:
        """Cut all lines; new ones are taken at once."""
        self._cut()

    def close(self) -> None:
        """End the proxy."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listening.close()
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            ending, self._open = self._open, []
        for end in ending:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self._is_down:
                client.close()
                continue
            server = socket.create_connection(self._target)
            with self._lock:
                self._open += [client, server]
            armed = Event()
            Thread(target=self._pump, args=(client, server, armed, True), daemon=True).start()
            Thread(target=self._pump, args=(server, client, armed, False), daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, armed: Event, is_question: bool
    ) -> None:
        tail = b""
        with suppress(OSError):
            while chunk := source.recv(65_536):
                if is_question and self._hated is not None:
                    tail = (tail + chunk)[-2 * len(self._hated) - 65_536 :]
                    if self._hated in tail:
                        self._cut()
                        return
                if is_question and self._word is not None and self._word in chunk:
                    self._word = None
                    armed.set()
                if not is_question and armed.is_set():
                    self.swallowed.set()
                    self._is_down = self._stays_down
                    self._cut()
                    return
                sink.sendall(chunk)


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    """A proxy in front of the database at `url`."""
    line = Line(url)
    try:
        yield line
    finally:
        line.close()
