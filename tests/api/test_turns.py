"""Who asks for much waits for himself."""

import threading
import time
from functools import partial

import pytest

from veltrix.domain.give_way import give_way
from veltrix.web.turns import REST_S_MAX, STEP_S, Turns


def test_a_piece_of_each_is_done_in_turn() -> None:
    turns, done, go_on = Turns("tests"), list[str](), threading.Event()
    first = turns.submit("flood", lambda: go_on.wait(10))
    names = ["flood"] * 50 + ["a", "b", "a"]
    others = [turns.submit(name, partial(done.append, name)) for name in names]
    go_on.set()
    assert first.result(10)
    for one in others:
        one.result(10)

    assert done[:6] == ["flood", "a", "b", "flood", "a", "flood"]
    assert len(done) == 53


def test_what_is_raised_reaches_who_asked_and_nobody_waits_for_who_has_gone() -> None:
    turns, go_on, ran = Turns("tests"), threading.Event(), list[int]()
    first = turns.submit("a", lambda: go_on.wait(10))
    gone, bad = turns.submit("a", lambda: ran.append(1)), turns.submit("b", lambda: 1 // 0)
    assert gone.cancel()
    go_on.set()

    with pytest.raises(ZeroDivisionError):
        bad.result(10)
    assert first.result(10)
    assert turns.submit("a", lambda: 7).result(10) == 7
    assert ran == []


def test_after_a_long_step_it_rests_for_a_multiple_of_it_and_nobody_else_does() -> None:
    """A step holds the interpreter; a MiB in ten of them kept an event loop from its sockets."""
    rested: list[float] = []

    def steps() -> None:
        give_way()  # a short one
        began = time.thread_time()
        while time.thread_time() - began < 2 * STEP_S:
            pass
        give_way()

    def run(rest: float) -> None:
        turns = Turns("tests", rest=rest)
        turns._rests._never.wait = rested.append  # type: ignore[assignment,method-assign]
        turns.submit("a", steps).result(10)

    run(0.0)
    steps()
    assert rested == []

    run(3.0)
    assert 6 * STEP_S <= max(rested) <= REST_S_MAX
