"""A traceback in a log is an error that nobody foresaw."""

from pathlib import Path

from veltrix.prove import load
from veltrix.prove.check.logs import nothing_unforeseen

RAW = """{"event": "api.started"}
Traceback (most recent call last):
  File "api.py", line 1, in edit
    dumps(value)
TypeError: Decimal is not JSON serializable
{"event": "api.ended"}
"""
WITHIN = (
    '{"event": "callback.failed", "exception": "Traceback (most recent call last):\\n  File'
    ' \\"consumer.py\\"\\nInternalError: 541\\n"}\n'
)


# Where they really are: they were moved once, and their faults were ours from then on.
ODD_AUTHORS = [str(file) for file in sorted(Path(load.__file__).parent.glob("authors*.py"))]


def test_a_traceback_is_found_and_what_it_came_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "api-1.log").write_text(RAW)
    (tmp_path / "worker-1.log").write_text('{"event": "worker.started"}\n' + WITHIN)

    found = nothing_unforeseen(tmp_path)

    assert found.broken == 2
    assert found.samples == [
        "api-1: TypeError: Decimal is not JSON serializable",
        "worker-1: callback.failed: InternalError: 541",
    ]


def test_an_error_that_is_told_in_a_sentence_was_foreseen(tmp_path: Path) -> None:
    (tmp_path / "relay-1.log").write_text(
        '{"event": "run.failed", "level": "error", "reason": "poison"}\n'
        'no JSON at all: "exception"\n'
        '["a list", "exception"]\n'
    )

    assert nothing_unforeseen(tmp_path).is_held


def test_one_in_any_shape_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(
        "  + Exception Group Traceback (most recent call last):\n  | x\n"
    )
    (tmp_path / "b.log").write_text("Traceback (most recent call last):\n  File 'killed.py'\n")
    (tmp_path / "c.log").write_text(
        '{"event": "x", "why": "Traceback (most recent call last): y"}\n'
    )

    found = nothing_unforeseen(tmp_path)

    assert found.broken == 3


def test_only_a_clock_of_faketime_refuses_a_sleep(tmp_path: Path) -> None:
    (tmp_path / "worker-1.log").write_text(
        "Traceback (most recent call last):\n"
        '  File "prefork.py", line 237, in fire_timers_loop\n'
        "    time.sleep(0.5)\n"
        "OSError: [Errno 22] Invalid argument\n"
    )

    assert nothing_unforeseen(tmp_path, has_faketime=True).is_held
    assert nothing_unforeseen(tmp_path).broken == 1


def test_what_an_odd_author_of_prove_raised_is_his(tmp_path: Path) -> None:
    (tmp_path / "worker-1.log").write_text(
        WITHIN.replace("consumer.py", ODD_AUTHORS[0]) + RAW.replace("api.py", ODD_AUTHORS[1])
    )

    assert nothing_unforeseen(tmp_path).is_held


def test_a_child_whose_parent_was_killed_while_it_began_is_foreseen_and_nothing_else_of_it(
    tmp_path: Path,
) -> None:
    trace = (
        "Traceback (most recent call last):\n"
        '  File "pool.py", line 291, in __call__\n    self.on_loop_start(pid=pid)\n'
    )
    log = tmp_path / "worker-1.log"
    log.write_text(trace + "BrokenPipeError: [Errno 32] Broken pipe\n")
    assert nothing_unforeseen(tmp_path).is_held

    log.write_text(trace + "KeyError: 1\n" + trace.replace("on_loop_start", "other") + "OSError\n")
    assert nothing_unforeseen(tmp_path).broken == 2
