"""Replays as resources: planned, started, judged, paused, resumed, aborted; each run once."""

import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from threading import Thread
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import subscribe, subscription
from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.settled import hold, run_sql, settle
from tests.support.wait import until
from veltrix.domain.ids import EventIds
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import balance
from veltrix.operations.replays import read, replay_rows
from veltrix.operations.replays.move import replay_now
from veltrix.operations.replays.mover import Mover
from veltrix.operations.replays.plan import PlanRequest, act, plan
from veltrix.operations.replays.read import ReplayStory
from veltrix.operations.replays.rules import GENERATION_MAX, SPENT, Options, ReplayRefused, Verb
from veltrix.operations.runs import archive_rows
from veltrix.operations.runs.query import RunQuery
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry, Settlement
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit, transaction

BYTES_MAX = 1_000_000
FAST = 100_000.0
UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"


def executor(engine: Engine, seed: int = 1) -> Mover:
    return Mover(engine, Settings(), EventIds(Random(seed).getrandbits))


def failed(engine: Engine, count: int, **given: Any) -> list[str]:
    ids = add_runs(engine, count, **given)
    settle(engine, ids, "failed", reason="error", fingerprint="f", failed_step="charge")
    return ids


def asked(wanted: RunQuery, **options: Any) -> PlanRequest:
    is_all = options.pop("is_all", False)
    given = {"rate": FAST, "stop_share": None} | options
    return PlanRequest(
        wanted=wanted,
        is_all=is_all,
        options=Options(**given),
        author="ann",
        reason="payments are back",
        request={"asked": True},
    )


def planned(engine: Engine, ids: Sequence[str], **options: Any) -> ReplayStory:
    return plan(engine, asked(RunQuery(ids=tuple(ids)), **options), BYTES_MAX)


def started(engine: Engine, ids: Sequence[str], **options: Any) -> str:
    id_ = planned(engine, ids, **options).id
    act(engine, id_, Verb.START, reason="go", author="ann")
    return id_


def told(engine: Engine, replay_id: str) -> ReplayStory:
    with transaction(engine) as tx:
        story = read.find(tx, replay_id)
    assert story is not None
    return story


def states(engine: Engine, ids: Sequence[str]) -> Counter[str]:
    return Counter(row.state for row in read_runs(engine, ids, "state"))


def work(one: Mover, until_state: str, engine: Engine, replay_id: str) -> ReplayStory:
    """Let the executor do its duty until the replay is in this state."""

    def reached() -> bool:
        one.once()
        return told(engine, replay_id).state == until_state

    until(reached, what=f"the replay to be {until_state}")
    return told(engine, replay_id)


def actions(engine: Engine) -> list[tuple[str, str, bool, int]]:
    with transaction(engine) as tx:
        rows = tx.execute(text("select action, author, is_refused, runs from audit order by id"))
        return [tuple(row) for row in rows]


def test_a_plan_freezes_the_set_and_moves_nothing(engine: Engine) -> None:
    subscribe(engine, subscription("fulfil", code_version="v2"))
    ids = failed(engine, 3)
    change_runs(engine, ids[:1], "code_version = 'v1'")
    entry = JournalEntry(ids[0], "0", "step", "reserve", output="1")
    with transaction(engine) as tx:
        tx.execute(
            text(
                "insert into journal (run_id, generation, position, kind, name, output, attempts)"
                " values (:id, 0, '0', 'step', :name, '1', 1)"
            ),
            {"id": ids[0], "name": entry.name},
        )

    story = plan(
        engine, asked(RunQuery(fingerprint="f"), mode=ReplayMode.BEGINNING, rate=2.0), BYTES_MAX
    )
    late = failed(engine, 1)

    assert (story.state, story.count, story.by_workflow) == ("planned", 3, {"fulfil": 3})
    assert [(e.fingerprint, e.failed_step, e.count) for e in story.by_error] == [("f", "charge", 3)]
    assert (story.by_age["within_1_h"], story.runs_journalled, story.steps_journalled) == (3, 1, 1)
    assert story.predicted_s == 1.5
    assert {(w.kind, w.step, w.runs) for w in story.warnings} == {
        ("code_changed", None, 1),
        ("effect_repeats", "reserve", 1),
        ("effect_may_repeat", "charge", 3),
    }
    assert executor(engine).once() == 0
    assert states(engine, [*ids, *late]) == {"failed": 4}
    assert actions(engine) == [("replay.plan", "ann", False, 3)]


def test_a_started_replay_moves_each_run_once_and_is_done_with_their_outcomes(
    engine: Engine,
) -> None:
    ids = failed(engine, 5)
    id_ = started(engine, ids)
    one = executor(engine)
    one.once()

    assert states(engine, ids) == {"queued": 5}
    settle(engine, ids[:4], "succeeded")
    settle(engine, ids[4:], "failed")
    story = work(one, "done", engine, id_)

    assert (story.replayed, story.succeeded, story.failed_again, story.skipped) == (5, 4, 1, 0)
    assert {row.generation for row in read_runs(engine, ids, "generation")} == {1}
    assert balance(engine).unaccounted == 0
    assert [row[0] for row in actions(engine)] == ["replay.plan", "replay.start", "replay.finish"]


@pytest.mark.parametrize(
    ("wanted", "options", "slug"),
    [
        (RunQuery(), {}, "needs-all"),
        (RunQuery(ids=()), {}, "empty-set"),
        (RunQuery(fingerprint="none"), {}, "empty-set"),
        (RunQuery(ids=(UNKNOWN,)), {}, "not-found"),
        (RunQuery(), {"is_all": True, "rate": 0.0}, "invalid-options"),
        (RunQuery(), {"is_all": True, "rate": float("nan")}, "invalid-options"),
        (RunQuery(), {"is_all": True, "canary": -1}, "invalid-options"),
        (RunQuery(), {"is_all": True, "stop_share": 1.5}, "invalid-options"),
        (RunQuery(), {"is_all": True, "patch": [{"op": "x"}]}, "invalid-options"),
    ],
)
def test_what_cannot_be_planned_is_refused_audited_and_leaves_nothing(
    engine: Engine, wanted: RunQuery, options: dict[str, Any], slug: str
) -> None:
    failed(engine, 1)

    with pytest.raises(ReplayRefused) as refusal:
        plan(engine, asked(wanted, **options), BYTES_MAX)

    assert refusal.value.slug == slug
    with transaction(engine) as tx:
        assert tx.execute(text("select count(*) from replays")).scalar_one() == 0
        assert tx.execute(text("select count(*) from replay_runs")).scalar_one() == 0
    assert actions(engine) == [("replay.plan", "ann", True, 0)]


def test_a_plan_of_runs_that_are_not_failed_names_them(engine: Engine) -> None:
    ids = failed(engine, 1)
    queued = add_runs(engine, 1)

    with pytest.raises(ReplayRefused) as refusal:
        planned(engine, [*ids, *queued, UNKNOWN])

    assert refusal.value.slug == "wrong-state"
    assert refusal.value.members["runs"] == [
        {"id": UNKNOWN, "state": None},
        {"id": queued[0], "state": "queued"},
    ]


def test_everything_is_planned_when_it_is_asked_for_by_word(engine: Engine) -> None:
    ids = failed(engine, 2) + failed(engine, 1, workflow="other")

    story = plan(engine, asked(RunQuery(), is_all=True), BYTES_MAX)
    mine = plan(engine, asked(RunQuery(workflow="other", queue="orders")), BYTES_MAX)

    assert (story.count, mine.count) == (len(ids), 1)


def test_a_run_that_changed_since_the_plan_is_skipped_with_the_reason(engine: Engine) -> None:
    ids = failed(engine, 3)
    id_ = started(engine, ids)
    replay_now(engine, ids[:1], ReplayMode.BEGINNING, "mine first", "bob")
    replay_now(engine, ids[1:2], ReplayMode.BEGINNING, "mine first", "bob")
    settle(engine, ids[1:2], "failed")

    executor(engine).once()

    with transaction(engine) as tx:
        runs = {run.run: run for run in read.runs(tx, id_).items}
    assert [runs[i].state for i in ids] == ["skipped", "skipped", "replayed"]
    assert "it is queued in generation 1, not failed in 0; bob" in (runs[ids[0]].skip_reason or "")
    assert "it is failed in generation 1, not failed in 0" in (runs[ids[1]].skip_reason or "")
    assert [row.generation for row in read_runs(engine, ids, "generation")] == [1, 1, 1]


def test_a_run_that_was_replayed_as_often_as_can_be_is_skipped_and_said(engine: Engine) -> None:
    ids = failed(engine, 3)
    change_runs(engine, ids[:1], f"generation = {GENERATION_MAX}")
    id_ = started(engine, ids)

    executor(engine).once()

    with transaction(engine) as tx:
        runs = {run.run: run for run in read.runs(tx, id_).items}
    assert [runs[i].state for i in ids] == ["skipped", "replayed", "replayed"]
    assert runs[ids[0]].skip_reason == SPENT


def test_what_was_archived_by_a_transaction_older_than_the_plan_is_skipped(engine: Engine) -> None:
    ids = failed(engine, 2)
    with transaction(engine) as older:
        older.execute(text("select now()"))  # from here on it is this transaction's time
        id_ = plan(engine, asked(RunQuery(fingerprint="f")), BYTES_MAX).id
        archive_rows.archive(older, ids[:1], reason="dealt with", author="bob")
    act(engine, id_, Verb.START, reason="go", author="ann")

    executor(engine).once()

    with transaction(engine) as tx:
        runs = {run.run: run for run in read.runs(tx, id_).items}
    assert [runs[i].state for i in ids] == ["skipped", "replayed"]
    assert "archived since the plan; bob did archive" in (runs[ids[0]].skip_reason or "")


def test_what_was_archived_before_the_plan_is_replayed_when_it_is_named(engine: Engine) -> None:
    ids = failed(engine, 2)
    with transaction(engine) as tx:
        archive_rows.archive(tx, ids[:1], reason="dealt with", author="bob")

    group = plan(engine, asked(RunQuery(fingerprint="f")), BYTES_MAX)
    id_ = started(engine, ids)
    executor(engine).once()

    assert (group.count, told(engine, id_).replayed) == (1, 2)


def test_a_replay_that_cannot_go_on_does_not_hold_up_those_behind_it(engine: Engine) -> None:
    ids = failed(engine, 2)
    broken, whole = started(engine, ids[:1]), started(engine, ids[1:])
    run_sql(engine, f"update replays set mode = 'sideways' where id = '{broken}'")

    executor(engine).once()

    assert (told(engine, broken).replayed, told(engine, whole).replayed) == (0, 1)


def test_more_replays_than_one_turn_takes_all_get_theirs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veltrix.operations.replays.mover.REPLAYS_MAX", 3)
    ids = failed(engine, 8)
    each = [started(engine, [id_]) for id_ in ids]
    one, another = executor(engine), executor(engine, 2)

    one.once()
    assert [told(engine, id_).replayed for id_ in each] == [1, 1, 1, 0, 0, 0, 0, 0]
    until(lambda: not another.once() and not one.once() and not left(engine), what="all to move")
    settle(engine, ids, "succeeded")
    until(lambda: not one.once() and are_done(engine, each), what="all to be followed")


def left(engine: Engine) -> bool:
    with transaction(engine) as tx:
        query = text("select exists (select from replay_runs where state = 'planned')")
        return bool(tx.execute(query).scalar_one())


def are_done(engine: Engine, replay_ids: Sequence[str]) -> bool:
    return all(told(engine, id_).state == "done" for id_ in replay_ids)


def test_a_plan_that_nobody_started_is_forgotten_after_its_days(engine: Engine) -> None:
    ids = failed(engine, 3)
    old, young, begun = planned(engine, ids).id, planned(engine, ids).id, started(engine, ids)
    run_sql(
        engine,
        "update replays set planned_at = now() - interval '31 days'"
        f" where id in ('{old}', '{begun}')",
    )

    with transaction(engine) as tx:
        assert [replay_rows.forget_unstarted(tx, 30) for _ in range(2)] == [1, 0]
        assert read.find(tx, old) is None

    assert (told(engine, young).planned, told(engine, begun).planned) == (3, 3)
    assert ("replay.plan", "ann", False, 3) in actions(engine)


@pytest.mark.parametrize(
    "rate", [0.0, -1.0, 1e-310, 1e-12, 0.0009, 1e6, float("inf"), float("nan")]
)
def test_a_rate_that_makes_no_sense_is_refused(engine: Engine, rate: float) -> None:
    ids = failed(engine, 1)

    with pytest.raises(ReplayRefused, match=r"runs per second are from 0\.001 to 100,000"):
        planned(engine, ids, rate=rate)


def test_the_slowest_rate_is_a_run_each_quarter_of_an_hour(engine: Engine) -> None:
    id_ = started(engine, failed(engine, 2), rate=0.001)

    executor(engine).once()

    assert told(engine, id_).replayed == 1


def test_two_operators_on_one_group_replay_each_run_once_and_the_loser_skips(
    engine: Engine,
) -> None:
    ids = failed(engine, 300)
    both = [started(engine, ids), started(engine, ids)]
    threads = [
        Thread(target=lambda seed=seed: [executor(engine, seed).once() for _ in range(20)])
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: executor(engine).once() == 0, what="nothing to be left")

    first, second = (told(engine, id_) for id_ in both)
    assert first.replayed + second.replayed == 300
    assert first.skipped + second.skipped == 300
    assert {row.generation for row in read_runs(engine, ids, "generation")} == {1}
    assert balance(engine).unaccounted == 0


def test_a_canary_goes_first_and_the_rest_follows_when_it_succeeded(engine: Engine) -> None:
    ids = failed(engine, 10)
    id_ = started(engine, ids, canary=3, stop_share=0.0)
    one = executor(engine)
    for _ in range(3):
        one.once()

    assert told(engine, id_).state == "canary"
    assert states(engine, ids) == {"queued": 3, "failed": 7}
    settle(engine, ids[:2], "succeeded")
    one.once()
    assert states(engine, ids[3:]) == {"failed": 7}, "one of the canary is still open"
    settle(engine, ids[2:3], "succeeded")
    work(one, "running", engine, id_)
    until(lambda: one.once() >= 0 and states(engine, ids[3:]) == {"queued": 7}, what="the rest")


def test_a_canary_that_fails_again_stops_the_replay_and_a_resume_tries_another(
    engine: Engine,
) -> None:
    ids = failed(engine, 10)
    id_ = started(engine, ids, canary=2, stop_share=0.4)
    one = executor(engine)
    one.once()
    settle(engine, ids[:1], "succeeded")
    settle(engine, ids[1:2], "failed")
    story = work(one, "stopped", engine, id_)

    assert story.why == "1 of 2 runs failed again (50%), more than the 40% allowed"
    assert states(engine, ids[2:]) == {"failed": 8}
    assert actions(engine)[-1][:2] == ("replay.stop", "veltrix")

    act(engine, id_, Verb.RESUME, reason="mended", author="bob")
    one.once()
    assert told(engine, id_).state == "canary"
    assert states(engine, ids[2:]) == {"queued": 2, "failed": 6}
    settle(engine, ids[2:4], "succeeded")
    work(one, "running", engine, id_)


def failed_in(engine: Engine, count: int, position: str = "1") -> list[str]:
    """Failed runs whose step `charge` failed at this position, after another `charge` was done."""
    ids = add_runs(engine, count)
    for id_ in ids:
        entries = [
            JournalEntry(id_, "0", "step", "charge", output="1"),
            JournalEntry(id_, position, "step", "charge", error='{"type": "Declined"}'),
        ]
        settle(engine, [id_], "failed", entries, reason="error", failed_step="charge")
    return ids


def goes_on(engine: Engine, run_id: str, position: str, error: str | None = None) -> None:
    """A worker journals this call of `charge`; then the run sleeps for two days."""
    token = hold(engine, [run_id])
    output = None if error else "1"
    entry = JournalEntry(run_id, position, "step", "charge", output=output, error=error)
    with open_autocommit(engine) as tx:
        asleep = Settlement(run_id=run_id, state="waiting", wait_s=172_800.0)
        assert journal_rows.write(tx, token, "worker", [entry], [], [asleep])


@pytest.mark.parametrize("mode", ["failed_step", "beginning"])
def test_a_canary_is_over_when_its_runs_are_beyond_the_step_they_had_failed_in(
    engine: Engine, mode: str
) -> None:
    ids = failed_in(engine, 6)
    id_ = started(engine, ids, canary=2, mode=mode)
    one = executor(engine)
    one.once()
    assert told(engine, id_).replayed == 2
    goes_on(engine, ids[0], "1")
    one.once()
    assert told(engine, id_).state == "canary", "one of them has neither passed nor ended"
    goes_on(engine, ids[1], "1")

    story = work(one, "running", engine, id_)
    one.once()

    assert told(engine, id_).replayed == 6
    assert (story.succeeded, story.failed_again) == (0, 0)
    assert states(engine, ids[:2]) == {"waiting": 2}


def test_a_step_before_the_one_that_failed_ends_no_canary(engine: Engine) -> None:
    ids = failed_in(engine, 3)
    id_ = started(engine, ids, canary=1, mode=ReplayMode.BEGINNING)
    one = executor(engine)
    one.once()
    goes_on(engine, ids[0], "0")

    one.once()

    assert told(engine, id_).state == "canary"


def test_a_canary_that_partly_passed_is_judged_by_all_of_it(engine: Engine) -> None:
    ids = failed_in(engine, 6)
    id_ = started(engine, ids, canary=2, stop_share=0.4)
    one = executor(engine)
    one.once()
    goes_on(engine, ids[0], "1")
    settle(engine, ids[1:2], "failed", reason="error", failed_step="charge")

    story = work(one, "stopped", engine, id_)

    assert "1 of 2 runs failed again (50%)" in (story.why or "")
    assert story.replayed == 2


def test_failures_stop_a_running_replay_when_enough_have_an_outcome(engine: Engine) -> None:
    ids = failed(engine, 60)
    id_ = started(engine, ids, rate=30.0, stop_share=0.5)
    one = executor(engine)

    def some_moved() -> bool:
        one.once()
        open_ = [
            row.id for row in read_runs(engine, ids, "id::text, state") if row.state == "queued"
        ]
        if open_:
            settle(engine, open_, "failed")
        return told(engine, id_).state == "stopped"

    until(some_moved, what="the replay to stop")

    story = told(engine, id_)
    assert 20 <= story.failed_again < 60
    assert story.why is not None
    assert "failed again (100%)" in story.why


def test_the_rate_is_kept_whoever_works(engine: Engine) -> None:
    ids = failed(engine, 100)
    begun = time.monotonic()
    id_ = started(engine, ids, rate=20.0)
    several = [executor(engine, seed) for seed in range(3)]

    until(
        lambda: [one.once() for one in several] and told(engine, id_).replayed >= 20,
        what="20 runs to be replayed",
    )

    seconds = time.monotonic() - begun
    assert told(engine, id_).replayed <= 1 + 20 * seconds
    assert 0.8 < seconds < 20


def test_paused_nothing_moves_resumed_it_goes_on_and_aborted_it_never_does(engine: Engine) -> None:
    ids = failed(engine, 40)
    id_ = started(engine, ids, rate=10.0)
    one = executor(engine)
    one.once()
    paused = act(engine, id_, Verb.PAUSE, reason="lunch", author="bob")
    for _ in range(3):
        one.once()
    assert told(engine, id_).replayed == paused.replayed < 40

    act(engine, id_, Verb.RESUME, reason="back", author="bob")
    until(lambda: one.once() >= 0 and told(engine, id_).replayed > paused.replayed, what="more")
    ended = act(engine, id_, Verb.ABORT, reason="enough", author="bob")
    one.once()

    assert (ended.state, ended.why, ended.changed_by) == ("aborted", "enough", "bob")
    assert told(engine, id_).replayed == ended.replayed < 40
    settle(engine, ids[:1], "succeeded")
    one.once()
    assert told(engine, id_).succeeded == 1, "what it moved is still followed"
    assert told(engine, id_).ended_at == ended.ended_at


def test_a_verb_in_the_wrong_state_is_refused_and_says_the_state(engine: Engine) -> None:
    id_ = planned(engine, failed(engine, 1)).id

    for verb in (Verb.PAUSE, Verb.RESUME):
        with pytest.raises(ReplayRefused, match="is planned") as refusal:
            act(engine, id_, verb, reason="r", author="ann")
        assert refusal.value.slug == "wrong-state"
    with pytest.raises(ReplayRefused, match="there is no replay"):
        act(engine, UNKNOWN, Verb.START, reason="r", author="ann")
    act(engine, id_, Verb.START, reason="r", author="ann")
    with pytest.raises(ReplayRefused, match="start is for one that is planned"):
        act(engine, id_, Verb.START, reason="r", author="ann")
    assert [row[2] for row in actions(engine)] == [False, True, True, True, False, True]


def test_another_executor_goes_on_where_one_ended(engine: Engine) -> None:
    ids = failed(engine, 30)
    id_ = started(engine, ids, rate=30.0)
    until(lambda: executor(engine).once() >= 0 and told(engine, id_).replayed == 30, what="all")
    settle(engine, ids, "succeeded")
    story = work(executor(engine), "done", engine, id_)

    assert (story.replayed, story.succeeded) == (30, 30)


def test_a_run_replayed_at_once_is_a_replay_that_ends_with_its_outcome(engine: Engine) -> None:
    ids = failed(engine, 1)

    now = replay_now(engine, ids, ReplayMode.FAILED_STEP, "again", "ann")
    assert now.replay_id is not None
    assert told(engine, now.replay_id).state == "running"
    settle(engine, ids, "succeeded")
    story = work(executor(engine), "done", engine, now.replay_id)

    assert (story.planned, story.replayed, story.succeeded) == (1, 1, 1)
    assert actions(engine)[0] == ("run.replay", "ann", False, 1)
    none = replay_now(engine, ids, ReplayMode.FAILED_STEP, "again", "ann")
    assert none.replay_id is None
    assert actions(engine)[-1][:3] == ("run.replay", "ann", True)


def test_a_plan_tells_which_steps_are_transactional(engine: Engine) -> None:
    options = {"transactional_steps": ["charge"]}
    subscribe(engine, subscription("fulfil", options=options))
    ids = failed(engine, 1)

    assert "effect_may_repeat" not in {w.kind for w in planned(engine, ids).warnings}
    assert msgspec.json.encode(planned(engine, ids))
