"""A benchmark that lost something, or whose claim does not hold, fails."""

import json
from typing import Any

import msgspec
import pytest

from bench.report import Books, Result, percentiles, show, us_per_event

BALANCED = Books(accepted=10, succeeded=10, failed=0, open=0, unaccounted=0, missing=0)


def result(books: Books | None = BALANCED, **changes: Any) -> Result:
    return Result(
        benchmark="x", settings={"rate": 1}, figures=[{"p50": 2.0}], books=books, **changes
    )


@pytest.mark.parametrize("name", ["failed", "open", "unaccounted", "missing"])
def test_a_benchmark_fails_when_its_books_do_not_balance(name: str) -> None:
    assert result().exit_code == 0
    assert result(msgspec.structs.replace(BALANCED, **{name: 1})).exit_code == 1


def test_a_benchmark_fails_when_what_it_checks_does_not_hold() -> None:
    assert result(is_as_promised=False).exit_code == 1


def test_where_nothing_was_accepted_there_are_no_books(capsys: pytest.CaptureFixture[str]) -> None:
    show(result(None), as_json=False)

    assert "books" not in capsys.readouterr().out
    assert result(None).exit_code == 0
    assert result(None, is_as_promised=False).exit_code == 1


def test_percentiles_are_milliseconds() -> None:
    assert percentiles([n / 1000 for n in range(1, 1001)], "ack ") == {
        "ack p50": 501.0,
        "ack p99": 991.0,
        "ack p99.9": 1000.0,
        "ack max": 1000.0,
    }
    assert percentiles([]) == {}


def test_cpu_is_told_per_event() -> None:
    assert us_per_event({"api": 0.5, "relay": 0.1}, 1_000) == {
        "api": 500,
        "relay": 100,
        "together": 600,
    }


def test_json_is_one_line_with_machine_and_durability(capsys: pytest.CaptureFixture[str]) -> None:
    show(result(), as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["books"]["missing"] == 0
    assert "synchronous_commit=on" in told["machine"]["durability"]
    assert told["payload"]


def test_a_table_says_whether_the_books_balance(capsys: pytest.CaptureFixture[str]) -> None:
    show(result(msgspec.structs.replace(BALANCED, missing=2)), as_json=False)
    assert "DO NOT BALANCE" in capsys.readouterr().out
