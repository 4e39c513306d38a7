"""`veltrix replay watch` as a process: Ctrl-C ends the watching only; a terminal has a bar."""

import signal

from sqlalchemy import Engine

from tests.commands.conftest import Veltrix, as_process
from tests.commands.test_replay import failed, plan, working
from tests.support.pseudo_terminal import on_terminal
from tests.support.wait import until


def started(veltrix: Veltrix, engine: Engine, runs: int) -> str:
    """A replay that goes on, without a relay that would move it."""
    failed(engine, runs)
    id_ = str(plan(veltrix, "--rate", "1000")["id"])
    assert veltrix("replay", "start", id_, "--reason", "go", "--yes").code == 0
    return id_


def test_ctrl_c_ends_the_watching_and_the_replay_goes_on(
    veltrix: Veltrix, engine: Engine, database_url: str
) -> None:
    id_ = started(veltrix, engine, 3)

    with as_process(database_url, "replay", "watch", id_) as watching:
        assert watching.stderr is not None
        assert "0 have an outcome" in watching.stderr.readline(), "it watches"
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=30)

    assert watching.returncode == 1
    assert err.splitlines()[-1] == f"the replay goes on: veltrix replay watch {id_}"
    assert "Traceback" not in err
    assert out == ""
    (listed,) = veltrix("replay", "list", "--json").json["items"]
    assert (listed["state"], listed["replayed"]) == ("running", 0)
    with working(engine, "succeeded"):
        assert veltrix("replay", "watch", id_).code == 0


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    veltrix: Veltrix, engine: Engine, database_url: str
) -> None:
    id_ = started(veltrix, engine, 3)

    with on_terminal(["replay", "watch", id_], VELTRIX_DATABASE_URL=database_url) as terminal:
        until(lambda: "0 have an outcome" in terminal.shown, 30, "the bar")
        assert "━" in terminal.shown
        with working(engine, "succeeded"):
            code = terminal.code()

    assert code == 0, terminal.shown
    assert "3 have an outcome" in terminal.shown
    assert "done  3 of 3 replayed, 3 succeeded" in terminal.shown


def test_ctrl_c_takes_the_bar_away_first(
    veltrix: Veltrix, engine: Engine, database_url: str
) -> None:
    id_ = started(veltrix, engine, 2)

    with on_terminal(["replay", "watch", id_], VELTRIX_DATABASE_URL=database_url) as terminal:
        until(lambda: "0 have an outcome" in terminal.shown, 30, "the bar")
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.code()

    assert code == 1
    assert terminal.shown.splitlines()[-1] == f"the replay goes on: veltrix replay watch {id_}"
    assert "Traceback" not in terminal.shown
