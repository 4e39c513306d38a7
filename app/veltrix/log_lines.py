"""Log lines: how they look, and where they go. Nothing here raises, whatever a line is made of.

A log that cannot be written is lost, and nothing else: the reader of a pipe that ended or stands
still, a full disk, a closed standard output. Whoever logs before it acts acts all the same.
"""

import contextlib
import io
import logging
import os
import select
import sys
import time
from typing import Any, TextIO

import structlog

from veltrix.domain.context import log_facts

_WAIT_S = 0.1  # for a reader that is slow; once it stood still so long, not again for a second
_AGAIN_AFTER_S = 1.0
_OF_LIBRARIES = ("alembic", "celery", "kombu", "amqp", "billiard", "sqlalchemy")
_PRINTED_CHARS_MAX = 8_192  # of a line that is not ended
_PRINTED_LINES_MAX = 100  # that are not ended
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LogFile:
    """Where lines go: a logger for structlog that writes each as it is, or loses it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._fd: int | None = None
        self._stood_still = 0.0
        self._before = ""  # of the next line: the one before it was cut short
        self.lost = 0
        # A file descriptor of its own: what code of authors does to standard output is theirs.
        with contextlib.suppress(OSError, ValueError):
            self._fd = os.dup(file.fileno())

    def msg(self, line: str) -> None:
        """Write the line, if it can be written within a moment."""
        try:
            self._write(line)
        except (OSError, ValueError):
            self.lost += 1

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = msg

    def _write(self, line: str) -> None:
        if self._fd is None:
            self._file.write(line + "\n")
            self._file.flush()
            return
        if not self._has_room(self._fd):
            self.lost += 1
            return
        if not self._file.closed:
            with contextlib.suppress(RuntimeError):  # in a signal that came amid a flush
                self._file.flush()  # what was printed before comes before
        data = (self._before + line + "\n").encode(errors="backslashreplace")
        self._before = ""
        while data:
            # So much is taken at once by a pipe that has room; of more it may keep the writer.
            data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
            if data and not self._has_room(self._fd):
                self.lost, self._before = self.lost + 1, "\n"
                return

    def _has_room(self, fd: int) -> bool:
        """A pipe whose reader stands still would keep the writer for ever."""
        now = time.monotonic()
        wait_s = _WAIT_S if now - self._stood_still >= _AGAIN_AFTER_S else 0.0
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if poll.poll(wait_s * 1_000):
            return True
        self._stood_still = time.monotonic()
        return False


class Rendering:
    """The one processor of structlog: a line from an event, whatever its values do when asked."""

    def __init__(self, *, is_console: bool) -> None:
        self._steps: list[Any] = [
            structlog.contextvars.merge_contextvars,
            _add_facts,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if is_console else structlog.processors.JSONRenderer(),
        ]

    def __call__(self, logger: Any, method: str, event: Any) -> str:
        """The line."""
        name = event.get("event")
        try:
            for step in self._steps:
                event = step(logger, method, event)
            return str(event)
        except BaseException as error:  # noqa: BLE001 - a value of an author's may raise anything
            known = {"event": name if type(name) is str else "log.unreadable", "level": method}
            known |= {"unreadable": type(error).__name__}
            return str(structlog.processors.JSONRenderer()(logger, method, known))


def _add_facts(_logger: Any, _method: str, event: Any) -> Any:
    for name, value in log_facts().items():
        event.setdefault(name, value)
    return event


class AuthorsLogs(logging.Handler):
    """What code of authors and libraries logs, as lines like ours.

    `extra` is kept: beside the line's own fields, or below `extra` where it has their names.
    """

    def __init__(self, rendering: Rendering, file: LogFile) -> None:
        super().__init__()
        self._rendering, self._file = rendering, file

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            event = _event_of(record)
        except Exception as error:  # noqa: BLE001 - `%` of a message may raise anything
            event = {"event": str(record.msg), "unreadable": type(error).__name__}
        self._file.msg(self._rendering(None, record.levelname.lower(), event))


def _event_of(record: logging.LogRecord) -> dict[str, Any]:
    event: dict[str, Any] = {"logger": record.name, **log_facts(), "event": record.getMessage()}
    taken = event.keys() | {"level", "timestamp", "exception", "exc_info", "stack_info"}
    extra = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
    event |= {k: v for k, v in extra.items() if k not in taken}
    clashing = {k: v for k, v in extra.items() if k in taken}
    if clashing:
        event["extra"] = clashing
    if record.exc_info:
        event["exc_info"] = record.exc_info
    elif record.exc_text:
        event["exception"] = record.exc_text
    if record.stack_info:
        event["stack"] = record.stack_info
    return event


def configure(log_format: str, log_level: str) -> tuple[Rendering, LogFile, int]:
    """structlog writes lines to standard output from now on; with what, and from which level."""
    is_console = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    rendering, file = Rendering(is_console=is_console), LogFile(sys.stdout)
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(
        processors=[rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: file,
        cache_logger_on_first_use=False,
    )
    return rendering, file, level


def take_over_logging(log_format: str, log_level: str, *, has_prints: bool = True) -> None:
    """In a worker: `logging` and `print` write lines like ours, and lose what cannot be written.

    Without `has_prints` standard output stays as code writes it: a debugger asks its questions
    there. Whatever is printed outside of a run stays so too.
    """
    rendering, file, level = configure(log_format, log_level)
    root = logging.getLogger()
    root.handlers[:] = [AuthorsLogs(rendering, file)]
    root.setLevel(level)
    for name in _OF_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    _forgive("stdout", Prints(rendering, file) if has_prints else None)
    _forgive("stderr")


class _Lossy(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


class Prints:
    """What code of runs prints, as lines that say of which run and step they are.

    A line without its end waits for it, as it would in a terminal; of few runs at a time, and not
    for ever: one that is long is told in parts.
    """

    def __init__(self, rendering: Rendering, file: LogFile) -> None:
        self._rendering, self._file = rendering, file
        self._begun: dict[tuple[Any, Any], tuple[dict[str, Any], str]] = {}

    def take(self, text: str) -> bool:
        """Whether it was printed by code of a run, and is told."""
        facts = log_facts()
        if not facts:
            return False
        key = facts["run_id"], facts.get("position")
        *lines, rest = (self._begun.pop(key, (facts, ""))[1] + text).split("\n")
        for line in lines:
            self._tell(facts, line)
        if len(rest) >= _PRINTED_CHARS_MAX:
            self._tell(facts, rest)
        elif rest:
            self._begun[key] = facts, rest
        while len(self._begun) > _PRINTED_LINES_MAX:
            with contextlib.suppress(KeyError, StopIteration, RuntimeError):  # of another thread
                self._tell(*self._begun.pop(next(iter(self._begun))))
        return True

    def flush(self) -> None:
        """Tell the beginning of a line that this run has printed."""
        if self._begun and (facts := log_facts()):
            begun = self._begun.pop((facts["run_id"], facts.get("position")), None)
            if begun is not None:
                self._tell(*begun)

    def _tell(self, facts: dict[str, Any], line: str) -> None:
        if line.strip():
            self._file.msg(
                self._rendering(None, "info", {"logger": "print", **facts, "event": line})
            )


class _Lasting(io.TextIOWrapper):
    prints: Prints | None = None

    def write(self, text: str, /) -> int:
        if self.prints is not None and self.prints.take(text):
            return len(text)
        return super().write(text)

    def flush(self) -> None:
        if self.prints is not None:
            self.prints.flush()
        super().flush()

    def close(self) -> None:
        """A step that closes it closes it for the runs after it as well."""
        self.flush()


def _forgive(name: str, prints: Prints | None = None) -> None:
    file = getattr(sys, name)
    try:
        raw = _Lossy(file.fileno(), "w", closefd=False)
    except (OSError, ValueError):
        return
    lasting = _Lasting(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
    lasting.prints = prints
    setattr(sys, name, lasting)
