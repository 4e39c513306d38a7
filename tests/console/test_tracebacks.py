"""Tracebacks: the author's frame is found, whatever raised it and wherever libraries lie."""

import pytest

from tests.console.shop import DECLINED_TRACE
from veltrix.console.tracebacks import SHOWN_CHARS_MAX, trace_of

CAUSED = """Traceback (most recent call last):
  File "/srv/shop/first.py", line 3, in parse
    int("x")
ValueError: invalid literal

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/usr/lib/python3.13/asyncio/tasks.py", line 4, in run
    await it
  File "/srv/shop/second.py", line 9, in place
    raise Refused from error
  File "<frozen importlib._bootstrap>", line 1, in _call
shop.Refused: no
"""


def test_the_useful_frame_is_the_innermost_of_the_author() -> None:
    trace = trace_of(DECLINED_TRACE)

    assert trace is not None
    assert trace.useful is not None
    assert (trace.useful.file, trace.useful.line) == ("/srv/shop/payments/bank.py", 31)
    assert trace.useful.code.startswith("answer = self.session.post(")
    assert [part.kind for part in trace.parts] == [
        *("text", "library", "own", "useful", "library", "text")
    ]
    assert "\n".join(part.text for part in trace.parts) == DECLINED_TRACE.rstrip()


def test_of_a_chain_of_errors_the_last_one_counts() -> None:
    trace = trace_of(CAUSED)

    assert trace is not None
    assert trace.useful is not None
    assert (trace.useful.file, trace.useful.function) == ("/srv/shop/second.py", "place")
    assert [part.kind for part in trace.parts].count("own") == 1  # of the first error
    assert [part.kind for part in trace.parts].count("library") == 2


@pytest.mark.parametrize("text", ["", "no traceback at all", 'File "x", line 99\n  File "', "\n"])
def test_what_is_no_traceback_is_text(text: str) -> None:
    trace = trace_of(text)

    assert trace is None or (trace.useful is None and {p.kind for p in trace.parts} <= {"text"})


def test_of_a_long_traceback_the_end_is_shown() -> None:
    long = "Traceback (most recent call last):\n" + "x" * SHOWN_CHARS_MAX + "\nValueError: no"

    trace = trace_of(long)

    assert trace is not None
    assert trace.left == len(long) - SHOWN_CHARS_MAX
    assert trace.parts[-1].text == "ValueError: no"
