"""Progress is a table that is drawn in place for a person, and plain lines for everybody else."""

import io
import re

import pytest
from rich.console import Console

from veltrix.dev import progress
from veltrix.dev.progress import DemoProgress

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written, where nothing in the environment speaks against a table."""
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return io.StringIO()


def shown(out: io.StringIO, *, is_terminal: bool = True) -> str:
    """What a whole run writes."""
    shows = DemoProgress(1_000, Console(file=out, force_terminal=is_terminal, width=100))
    shows.show(500, 100, 400)
    shows.note("killed", "worker-1 [of 2]")
    shows.show(1_000, 250, 750)
    shows.say("[beside it]")
    shows.show(1_000, 1_000, 0)
    shows.close()
    return out.getvalue()


def test_in_a_terminal_a_table_is_drawn_in_place_and_the_cursor_comes_back(
    out: io.StringIO,
) -> None:
    written = shown(out)

    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    last = CONTROL.sub("", written.rpartition("[beside it]")[2])
    assert re.search(r"accepted +\S+ +1,000 +[\d,]+/s", last)
    assert re.search(r"settled +\S+ +1,000 +[\d,]+/s", last)
    assert re.search(r"open +of 1,000, 0:0\d +0 *\n", last)
    assert re.search(r"killed +worker-1 \[of 2\]\n", last)


@pytest.mark.parametrize(
    ("name", "value"), [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb"), ("", "no terminal")]
)
def test_elsewhere_it_is_plain_lines(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    if name:
        monkeypatch.setenv(name, value)

    written = shown(out, is_terminal=bool(name))

    assert "\x1b" not in written
    first, killed, beside, last = written.splitlines()
    assert first == "0:00  accepted 500 of 1,000 (0/s)  settled 100 (0/s)  open 400"
    assert killed == "killed: worker-1 [of 2]"
    assert beside == "[beside it]"
    assert "settled 1,000" in last
    assert last.endswith("open 0")


def test_a_rate_is_told_however_rarely_somebody_looks(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_RATE_S", 0.0)

    written = shown(out, is_terminal=False)

    assert re.search(r"settled 1,000 \([1-9][\d,]*/s\)", written)


def test_closed_before_it_was_drawn_it_writes_nothing(out: io.StringIO) -> None:
    DemoProgress(10, Console(file=out, force_terminal=True)).close()

    assert out.getvalue() == ""
