"""`veltrix replay plan|start|watch|pause|resume|abort|list` on rows as workers leave them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.due_runs import add_runs, read_runs
from tests.support.settled import settle
from veltrix.domain.ids import EventIds
from veltrix.operations.replays.mover import Mover
from veltrix.settings.fields import Settings

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"


def failed(engine: Engine, count: int, data: str = "{}") -> list[str]:
    ids = add_runs(engine, count, data=data)
    settle(engine, ids, "failed", reason="error", fingerprint="f", failed_step="charge")
    return ids


@contextmanager
def working(engine: Engine, outcome: str) -> Iterator[None]:
    """A relay's duty, and workers that settle every replayed run like this."""
    executor = Mover(engine, Settings(), EventIds(Random(1).getrandbits))
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            executor.once()
            with engine.connect() as tx:
                ids = list(
                    tx.exec_driver_sql("select id::text from runs where state = 'queued'").scalars()
                )
            if ids:
                settle(engine, ids, outcome)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def plan(veltrix: Veltrix, *more: str) -> Any:
    ran = veltrix("replay", "plan", "--group", "f", "--reason", "mended", "--json", *more)
    assert ran.code == 0, ran.err
    return ran.json


def test_a_plan_is_shown_and_moves_nothing(veltrix: Veltrix, engine: Engine) -> None:
    ids = failed(engine, 3)

    ran = veltrix("replay", "plan", "--group", "f", "--reason", "mended", "--author", "ann")
    listed = veltrix("replay", "list", "--json").json

    assert ran.code == 0
    assert "0 of 3 replayed" in ran.lines[0]
    assert "warning: 3 runs have tried this step in vain" in ran.out
    assert "veltrix replay start" in ran.lines[-1]
    assert [(r["state"], r["planned"], r["author"]) for r in listed["items"]] == [
        ("planned", 3, "ann")
    ]
    assert {row.state for row in read_runs(engine, ids, "state")} == {"failed"}


def test_start_and_watch_end_with_0_when_all_succeeded(veltrix: Veltrix, engine: Engine) -> None:
    failed(engine, 5)
    id_ = plan(veltrix, "--canary", "2", "--rate", "1000")["id"]

    with working(engine, "succeeded"):
        ran = veltrix("replay", "start", id_, "--reason", "go", "--yes", "--watch", "--json")

    assert ran.code == 0
    assert (ran.json["state"], ran.json["succeeded"]) == ("done", 5)
    again = veltrix("replay", "watch", id_)
    assert again.code == 0
    assert "done  5 of 5 replayed, 5 succeeded, 0 failed again" in again.out


def test_watch_ends_with_1_when_the_replay_stops(veltrix: Veltrix, engine: Engine) -> None:
    failed(engine, 5)
    id_ = plan(veltrix, "--canary", "2", "--stop-share", "0")["id"]

    with working(engine, "failed"):
        ran = veltrix("replay", "start", id_, "--reason", "go", "--yes", "--watch")

    assert ran.code == 1
    assert "stopped: 2 of 2 runs failed again (100%), more than the 0% allowed" in ran.out


def test_start_asks_first(veltrix: Veltrix, engine: Engine) -> None:
    failed(engine, 2)
    id_ = plan(veltrix)["id"]

    ran = veltrix("replay", "start", id_, "--reason", "go")

    assert ran.code == 1, "nobody answered"
    assert "Replay 2 failed runs?" in ran.err


def test_pause_resume_and_abort(veltrix: Veltrix, engine: Engine) -> None:
    failed(engine, 2)
    id_ = plan(veltrix)["id"]
    veltrix("replay", "start", id_, "--reason", "go", "--yes")

    states = [
        veltrix("replay", verb, id_, "--reason", "r", "--json").json["state"]
        for verb in ("pause", "resume", "abort")
    ]
    wrong = veltrix("replay", "resume", id_, "--reason", "r")

    assert states == ["paused", "running", "aborted"]
    assert wrong.code == 1
    assert "is aborted" in wrong.err
    assert veltrix("replay", "watch", id_).code == 1
    assert veltrix("replay", "watch", UNKNOWN).code == 1
    assert veltrix("replay", "pause", "x", "--reason", "r").code == 2


def test_a_patch_comes_from_a_file(veltrix: Veltrix, engine: Engine, tmp_path: Path) -> None:
    failed(engine, 1, data='{"cents": "1"}')
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps([{"op": "replace", "path": "/cents", "value": 1}]))
    bad.write_text('{"op": "replace"}')

    assert plan(veltrix, "--patch", str(good))["is_edit"] is True
    ran = veltrix("replay", "plan", "--group", "f", "--reason", "r", "--patch", str(bad))
    assert ran.code == 2
    assert "cannot be used" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        ([UNKNOWN], 1),
        ([UNKNOWN, "--workflow", "fulfil"], 2),
        (["--workflow", "none"], 1),
        (["--group", "f", "--rate", "0"], 2),
        (["--group", "f", "--stop-share", "0.1", "--never-stop"], 2),
    ],
)
def test_what_cannot_be_planned_is_told_and_nothing_is_kept(
    veltrix: Veltrix, engine: Engine, arguments: list[str], code: int
) -> None:
    failed(engine, 1)

    assert veltrix("replay", "plan", *arguments, "--reason", "r").code == code
    assert veltrix("replay", "list", "--json").json["items"] == []


def test_all_failed_runs_are_planned_by_word(veltrix: Veltrix, engine: Engine) -> None:
    failed(engine, 2)

    ran = veltrix("replay", "plan", "--all", "--never-stop", "--reason", "r", "--json")

    assert (ran.code, ran.json["planned"], ran.json["stop_share"]) == (0, 2, None)
