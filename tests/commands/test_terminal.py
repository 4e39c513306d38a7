"""What a terminal shows: as wide as it is, with the lines of a text, and colours if wanted."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.due_runs import add_runs
from tests.support.pseudo_terminal import on_terminal
from tests.support.settled import hold, settle
from veltrix.commands import terminal
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, Settlement
from veltrix.store.transactions import open_autocommit

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_a_table_is_as_wide_as_its_terminal_and_keeps_the_first_column() -> None:
    rows = [("0199d2c4-6f3a-7b21-9e55-1f7c86a9d0e3", NOW, "w" * 30, "why " * 50)]
    headings = ["run", "when", "workflow", "reason"]

    whole = terminal.columns(headings, rows)
    narrow = terminal.columns(headings, rows, 100)
    tight = terminal.columns(headings, rows, 20)

    assert len(whole[1]) > 200
    assert len(narrow[1]) <= 100
    assert "w" * 15 in narrow[1], "what is longest gives way first"
    assert all(lines[1].startswith(rows[0][0]) for lines in (narrow, tight))


def test_columns_that_can_be_spared_go_before_a_text_is_cut_and_numbers_and_times_are_whole() -> (
    None
):
    rows = [("0199d2c4-6f3a-7b21-9e55-1f7c86a9d0e3", "fulfil_order", 1_000, NOW, "no money")]
    headings = ["run", "workflow", "claims", "started", "reason"]

    lines = [
        terminal.columns(headings, rows, width, ("claims", "started"))[1] for width in (85, 70, 60)
    ]

    assert [("1,000" in line, "12:00:00" in line) for line in lines] == [
        (False, True),
        (False, False),
        (False, False),
    ]
    assert all("no money" in line for line in lines[:2])
    assert len(lines[1]) <= 70
    tight = terminal.columns(headings, rows, 20)[1]
    assert "1,000 " in tight
    assert "2026-01-31 12:00:00" in tight


def test_a_text_keeps_its_lines_or_says_where_they_end() -> None:
    text = "no\tmoney\r\nat\x1b[31m all"

    assert terminal.one_line(text) == "no\ufffdmoney\u21b5at\ufffd[31m all"
    assert terminal.indented(text, "  ") == "  no      money\n  at\ufffd[31m all"


def test_run_shows_where_the_last_error_comes_from(veltrix: Veltrix, engine: Engine) -> None:
    (id_,) = add_runs(engine, 1)
    token = hold(engine, [id_])
    trace = "Traceback (most recent call last):\n  File 'orders.py', line 7\nDeclined: no\nmoney\n"
    failed = FailedAttempt(id_, "1", "charge", 1, "Declined", "no\nmoney", trace, "f1", None)
    with open_autocommit(engine) as tx:
        ends = Settlement(run_id=id_, state="failed", reason="error", outcome="{}")
        journal_rows.write(tx, token, "worker", [], [failed], [ends])

    told = veltrix("run", id_)

    assert "last error, in charge\n  Traceback (most recent call last):\n" in told.out
    assert "\n  Declined: no\n  money\n" in told.out
    assert "Declined: no\u21b5money" in told.out, "in the table on one line"


@pytest.mark.parametrize(("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_that_want_them(
    engine: Engine, database_url: str, environment: dict[str, str], is_coloured: bool
) -> None:
    settle(engine, add_runs(engine, 1), "succeeded", outcome="1")
    told = {"VELTRIX_DATABASE_URL": database_url, "TERM": "xterm", **environment}

    with on_terminal(["runs"], **told) as shown:
        assert shown.code() == 0

    assert (b"\x1b[1m" in shown.raw) is is_coloured
