"""`veltrix` in a process of its own on a pseudo-terminal, as a person sees it."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class OnTerminal:
    """The process, and what it has shown so far without the colours."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master, self._shown = process, master, bytearray()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def shown(self) -> str:
        return _STEERING.sub("", self._shown.decode(errors="replace"))

    @property
    def raw(self) -> bytes:
        """As it came, with the colours."""
        return bytes(self._shown)

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self._master, text.encode())

    def code(self) -> int:
        """The exit code, when all that it showed has been read."""
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    def _read(self) -> None:
        try:
            while some := os.read(self._master, 4096):
                self._shown += some
        except OSError:  # EIO: the last process on it has ended
            return


@contextmanager
def on_terminal(arguments: Sequence[str], **environment: str) -> Iterator[OnTerminal]:
    """Killed at the end of the block, if it runs still."""
    master, slave = pty.openpty()
    known = {name: value for name, value in os.environ.items() if name != "VISUAL"}
    process = subprocess.Popen(
        [sys.executable, "-m", "veltrix.cli", *arguments],
        env=known | {"TERM": "xterm", "COLUMNS": "120"} | environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        yield OnTerminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
