"""A relay that dies in a replay: each run is replayed once, and the replay goes on by itself."""

import time
from functools import partial

import pytest

from tests.path.seen import Scene, Start
from tests.support.seeded import seed_failed
from tests.support.settled import settle
from tests.support.wait import until
from veltrix.operations.replays import read
from veltrix.operations.replays.plan import PlanRequest, act, plan
from veltrix.operations.replays.read import ReplayStory
from veltrix.operations.replays.rules import Options, Verb
from veltrix.operations.runs.query import RunQuery
from veltrix.store.transactions import transaction

RUNS = 100_000
FEW = 600  # at 150/s: each relay moves the runs of a second at its first look, and is then killed


def started(seen: Scene, wanted: RunQuery, rate: float) -> str:
    asked = PlanRequest(
        wanted=wanted,
        options=Options(rate=rate, stop_share=0.5),
        author="ann",
        reason="mended",
        request={},
    )
    story = plan(seen.engine, asked, 1_000_000)
    act(seen.engine, story.id, Verb.START, reason="mended", author="ann")
    return story.id


def told(seen: Scene, replay_id: str) -> ReplayStory:
    with transaction(seen.engine) as tx:
        story = read.find(tx, replay_id)
    assert story is not None
    return story


def has_moved(seen: Scene, replay_id: str, had: int) -> bool:
    return told(seen, replay_id).replayed > had


def replayed_once(seen: Scene) -> bool:
    """Every run was moved by one action, into its next generation."""
    counts = seen.ask(
        "select r.generation, count(a.run_id) from runs r left join actions a on a.run_id = r.id"
        " group by r.id, r.generation"
    )
    return set(counts) == {(1, 1)}


def test_a_replay_survives_relays_that_die_in_it_and_each_run_is_replayed_once(
    scene: Start,
) -> None:
    seen = scene(relays=0, hold_s=2)
    ids = seen.add([["note"]], FEW)
    settle(seen.engine, ids, "failed", reason="error", fingerprint="f")
    id_ = started(seen, RunQuery(fingerprint="f"), rate=150.0)

    for name in ("relay-1", "relay-2"):
        had = told(seen, id_).replayed
        seen.platform.start(name, "relay")
        until(partial(has_moved, seen, id_, had), 20, "some runs to be replayed")
        seen.platform.kill(name)
    assert told(seen, id_).replayed < FEW, "they died with runs to be replayed"
    for name in ("relay-1", "relay-2"):
        seen.platform.start(name, "relay")
    until(lambda: told(seen, id_).state == "done", 30, "the replay to be done")

    story = told(seen, id_)
    assert (story.replayed, story.succeeded, story.skipped) == (FEW, FEW, 0)
    assert replayed_once(seen)
    assert seen.began_once(1, ids)
    assert seen.unaccounted() == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_replay_of_100000_runs_killed_halfway_replays_each_once(scene: Start) -> None:
    seen = scene(relays=0, workers=2)
    seed_failed(seen.engine, RUNS, workflow="act", queue="path", data='[["note"]]')
    assert seen.unaccounted() == 0

    begun = time.monotonic()
    id_ = started(seen, RunQuery(workflow="act"), rate=100_000.0)
    planned_s = time.monotonic() - begun
    for name in ("relay-1", "relay-2"):
        seen.platform.start(name, "relay")
    until(lambda: told(seen, id_).replayed >= RUNS // 4, 120, "a quarter to be replayed")
    for name in ("relay-1", "relay-2"):
        seen.platform.kill(name)
    assert RUNS // 4 <= told(seen, id_).replayed < RUNS, "they died with runs to be replayed"
    for name in ("relay-1", "relay-2"):
        seen.platform.start(name, "relay")
    until(lambda: told(seen, id_).state == "done", 600, "the replay to be done")

    story = told(seen, id_)
    assert planned_s < 30
    assert (story.replayed, story.succeeded, story.failed_again) == (RUNS, RUNS, 0)
    assert replayed_once(seen)
    assert seen.unaccounted() == 0
