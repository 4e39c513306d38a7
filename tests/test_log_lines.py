"""A log line that cannot be written is lost, and nothing else; those of authors are like ours."""

import io
import json
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from veltrix import log_lines, telemetry
from veltrix.domain.context import StepContext, run_here, step_context

CLAIM = SimpleNamespace(run_id="run-1", event_id="event-1", workflow="fulfil")

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """`logging` as in a worker; what was written."""
    written = io.StringIO()
    root, config = logging.getLogger(), structlog.get_config()
    before = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    log_lines.take_over_logging("json", "info")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:], root.level = before
    structlog.configure(**config)


def fail(error: Exception) -> None:
    raise error


def in_step() -> None:
    """From here on this test is code of a step."""
    run_here.set(CLAIM)
    context = StepContext("run-1", "fulfil", "3", 2, "run-1:3", None, "reserve")
    step_context.set(context)


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    tokens = run_here.set(None), step_context.set(None)
    yield
    run_here.reset(tokens[0])
    step_context.reset(tokens[1])


def test_a_line_of_a_step_says_which_run_it_is_about_and_keeps_its_extra(lines: Lines) -> None:
    in_step()
    logging.getLogger("shop").info("reserved %s", 3, extra={"order": "A-1", "event": "clash"})

    (line,) = lines()
    del line["timestamp"]
    assert line == {
        "logger": "shop",
        "run_id": "run-1",
        "event_id": "event-1",
        "workflow": "fulfil",
        "step": "reserve",
        "position": "3",
        "attempt": 2,
        "event": "reserved 3",
        "order": "A-1",
        "extra": {"event": "clash"},
        "level": "info",
    }


def test_a_line_of_the_workflows_own_code_says_its_run(lines: Lines) -> None:
    run_here.set(CLAIM)
    structlog.get_logger().warning("odd")
    telemetry.logger("steps").warning("loop.ended")

    assert [(line["run_id"], line["event"]) for line in lines()] == [
        ("run-1", "odd"),
        ("run-1", "loop.ended"),
    ]


def test_an_exception_is_in_its_line(lines: Lines) -> None:
    try:
        fail(ValueError("no stock"))
    except ValueError:
        logging.getLogger("shop").exception("failed")

    (line,) = lines()
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: no stock")
    assert "run_id" not in line


def test_levels_are_those_asked_for(lines: Lines) -> None:
    logging.getLogger("shop").debug("too fine")
    logging.getLogger("kombu.connection").info("of a library")
    logging.getLogger("shop").info("seen")

    assert [line["event"] for line in lines()] == ["seen"]


class Nasty:
    def __repr__(self) -> str:
        raise SystemExit(3)

    __str__ = __repr__


class NastyError(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_raises_when_it_is_shown_costs_its_line_only(lines: Lines) -> None:
    telemetry.logger("watch").error("watch.failed", error=Nasty())
    # pytest has a handler of its own at the root, which would raise.
    shop = logging.Logger("shop")  # noqa: LOG001
    shop.addHandler(logging.getLogger().handlers[0])
    shop.error("odd", extra={"what": Nasty()})
    shop.error("%d pieces", "three")
    try:
        fail(NastyError())
    except NastyError:
        shop.exception("odder")

    assert [line["event"] for line in lines()] == ["watch.failed", "odd", "%d pieces", "odder"]


def write_to(fd: int) -> log_lines.LogFile:
    with os.fdopen(fd, "w") as file:
        return log_lines.LogFile(file)  # which has a descriptor of its own


def test_a_reader_that_ended_costs_lines_only() -> None:
    reader, writer = os.pipe()
    file = write_to(writer)
    os.close(reader)
    for _ in range(3):
        file.info("line")

    assert file.lost == 3


def test_a_reader_that_stands_still_holds_nobody_up() -> None:
    reader, writer = os.pipe()
    file = write_to(writer)
    written = threading.Thread(target=lambda: [file.info("x" * 1_000) for _ in range(500)])
    written.start()
    written.join(5.0)

    assert not written.is_alive()
    assert file.lost > 400
    while select.select([reader], [], [], 0)[0]:
        os.read(reader, 65_536)
    lost = file.lost
    file.info("again")
    assert file.lost == lost
    assert os.read(reader, 100) == b"again\n"
    os.close(reader)


def test_a_reader_that_stands_still_in_a_long_line_holds_nobody_up() -> None:
    reader, writer = os.pipe()
    file = write_to(writer)
    line = "y" * 40_000  # a traceback; a pipe has room for one of them
    written = threading.Thread(target=lambda: [file.info(line) for _ in range(3)], daemon=True)
    written.start()
    written.join(5.0)

    assert not written.is_alive()
    assert file.lost == 2
    os.read(reader, 65_536)
    file.info("again")
    assert os.read(reader, 100) == b"\nagain\n"
    os.close(reader)


def test_a_full_disk_costs_lines_only() -> None:
    file = write_to(os.open("/dev/full", os.O_WRONLY))
    file.info("line")

    assert file.lost == 1


AUTHOR = """
import logging, sys
from veltrix import log_lines, telemetry
log_lines.take_over_logging("json", "info")
sys.stdin.readline()  # the reader has ended
for _ in range(3):
    print("printed")
    print("told", file=sys.stderr)
    logging.getLogger("shop").info("logged")
    telemetry.logger("watch").error("watch.failed")
    sys.stdout.close()
sys.stdout.flush()
"""


def test_a_worker_whose_reader_has_ended_goes_on_to_its_end() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AUTHOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    with process:
        said = process.stderr.read()

    assert process.wait(10) == 0
    assert said.splitlines() == ["told"] * 3


def test_a_step_that_closes_standard_output_closes_it_for_nobody() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", AUTHOR], input="\n", capture_output=True, text=True, check=True
    )

    assert ran.stdout.count("printed") == 3
    assert ran.stdout.count('"watch.failed"') == 3


PRINTING = """
import sys
from types import SimpleNamespace
from veltrix import log_lines
from veltrix.domain.context import StepContext, run_here, step_context
log_lines.take_over_logging("json", "info", has_prints=sys.argv[1] == "yes")
print("outside")
run_here.set(SimpleNamespace(run_id="run-1", event_id="event-1", workflow="fulfil"))
step_context.set(StepContext("run-1", "fulfil", "3", 2, "run-1:3", None, "reserve"))
print("two\\nlines", {"of": "a step"})
print("a line in ", end="")
print("parts")
print("a question? ", end="", flush=True)
print("x" * 9_000, end="")
step_context.set(None)
print("of the workflow")
run_here.set(None)
print("outside again")
"""


@pytest.mark.parametrize("has_prints", [True, False])
def test_what_a_step_prints_is_a_line_of_its_run_unless_somebody_debugs_it(
    has_prints: bool,
) -> None:
    command = [sys.executable, "-c", PRINTING, "yes" if has_prints else "no"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)

    lines = [json.loads(one) for one in ran.stdout.splitlines() if one.startswith("{")]
    bare = [one for one in ran.stdout.splitlines() if not one.startswith("{")]
    if not has_prints:
        assert not lines
        assert bare[:4] == ["outside", "two", "lines {'of': 'a step'}", "a line in parts"]
        return
    assert bare == ["outside", "outside again"]
    assert [(one["event"], one.get("step")) for one in lines] == [
        ("two", "reserve"),
        ("lines {'of': 'a step'}", "reserve"),
        ("a line in parts", "reserve"),
        ("a question? ", "reserve"),
        ("x" * 9_000, "reserve"),
        ("of the workflow", None),
    ]
    assert {(one["logger"], one["level"], one["run_id"]) for one in lines} == {
        ("print", "info", "run-1")
    }


class _Interrupted(io.RawIOBase):
    """A file in the middle of whose writing a signal comes, whose handler logs."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.handle: Callable[[], None] = lambda: None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file

    def write(self, data: Any) -> int:
        self.handle()
        return os.write(self._file, data)


def test_a_line_of_a_signal_that_comes_amid_another_write_is_written() -> None:
    reader, writer = os.pipe()
    raw = _Interrupted(writer)
    text = io.TextIOWrapper(io.BufferedWriter(raw))
    file = log_lines.LogFile(text)
    raw.handle = lambda: file.msg("leaving")

    text.write("printed\n")
    text.flush()

    assert os.read(reader, 100) == b"leaving\nprinted\n"
    assert file.lost == 0
    os.close(reader)
