"""Servers that answer as none should."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TOP = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s"


def answer(status: bytes, body: bytes, head: bytes = b"") -> bytes:
    return _TOP % (status, len(body), head, body)


@contextmanager
def odd_server(told: bytes | None) -> Iterator[str]:
    """Says this to each, whatever is asked; None: a byte now and then, and never the end."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                try:
                    line, _ = listener.accept()
                except TimeoutError:
                    continue
                with line:
                    line.recv(65_536)
                    if told is not None:
                        line.sendall(told)
                        continue
                    line.sendall(b"HTTP/1.1 202 OK\r\n")
                    try:
                        while not stop.wait(0.5):
                            line.sendall(b"x: y\r\n")
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()
