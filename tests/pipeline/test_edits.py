"""Edited runs: a new run of the edited payload, linked to an origin that stays failed."""

import json
from collections.abc import Sequence
from random import Random
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.due_runs import add_runs, read_runs
from tests.support.hands import TestHands
from tests.support.settled import settle
from tests.support.wait import until
from veltrix import Event, workflow
from veltrix.domain.ids import EventIds
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import balance
from veltrix.operations.failures.triage import check_groups
from veltrix.operations.replays import edit_rows, read
from veltrix.operations.replays.edit import EditOf
from veltrix.operations.replays.move import replay_now
from veltrix.operations.replays.mover import Mover
from veltrix.operations.replays.patch import (
    Patch,
    PatchInvalid,
    exact,
    parse_patch,
    replacing,
    text_of,
)
from veltrix.operations.replays.plan import EditedNow, PlanRequest, act, edit_now, plan, tag_text
from veltrix.operations.replays.preview import preview
from veltrix.operations.replays.rules import Options, ReplayRefused, Verb
from veltrix.operations.runs import archive_rows, read_story
from veltrix.operations.runs.query import RunQuery
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

MIB = 1024 * 1024
SCHEMA = {
    "type": "object",
    "required": ["cents"],
    "properties": {"cents": {"type": "integer"}},
}
TO_NUMBER: Patch = [{"op": "replace", "path": "/cents", "value": 100}]
_IDS = EventIds(Random(5).getrandbits)


def failed(engine: Engine, count: int, data: str = '{"cents": "100"}') -> list[str]:
    subscribe(engine, subscription("fulfil", PLACED, input_schema=SCHEMA))
    ids = add_runs(engine, count, data=data)
    settle(engine, ids, "failed", reason="error", fingerprint="f")
    return ids


def edit(engine: Engine, run_id: str, patch: Patch, tag: str | None = None) -> EditedNow:
    of = EditOf("", "ann", "the shop sent text", MIB, _IDS, 1_000)
    return edit_now(engine, run_id, patch, tag, of)


def plan_edit(engine: Engine, patch: Patch, **wanted: Any) -> str:
    asked = PlanRequest(
        wanted=RunQuery(**({"fingerprint": "f"} | wanted)),
        options=Options(mode=ReplayMode.BEGINNING, rate=100_000.0, stop_share=None, patch=patch),
        author="ann",
        reason="the shop sent text",
        request={},
    )
    return plan(engine, asked, MIB).id


def rows(engine: Engine, sql: str) -> list[Any]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def test_an_edited_run_is_a_new_run_linked_to_an_origin_that_stays_failed(engine: Engine) -> None:
    (origin,) = failed(engine, 1)

    made = edit(engine, origin, replacing('{"cents": 100}'))

    (old,) = read_runs(engine, [origin], "state, generation, archived_at is not null as archived")
    assert tuple(old) == ("failed", 0, True)
    (new,) = read_runs(
        engine, [made.id], "state, workflow, origin_run_id::text, created_by, generation"
    )
    assert tuple(new) == ("queued", "fulfil", origin, "ann", 0)
    with transaction(engine) as tx:
        story = edit_rows.find(tx, made.id)
        told = read_story.story(tx, origin)
    assert told is not None
    assert told.edited_as == [made.id]
    assert story is not None
    assert (story.origin, story.author, story.replay) == (origin, "ann", made.replay)
    assert json.loads(bytes(story.patch)) == [{"op": "replace", "path": "/cents", "value": 100}]
    assert rows(engine, "select source, type, data::text from events order by id desc limit 1") == [
        ("/veltrix/edits/fulfil", "veltrix.edit", '{"cents":100}')
    ]
    books = balance(engine)
    assert (books.runs.started, books.runs.failed, books.runs.open) == (2, 1, 1)
    assert books.unaccounted == 0
    assert check_groups(engine) == []
    assert rows(engine, "select action, target_id::text, runs from audit") == [
        ("run.edit", origin, 2)
    ]


def test_a_workflow_sees_the_identity_of_the_origin_also_after_two_edits(engine: Engine) -> None:
    seen: list[tuple[Any, ...]] = []

    @workflow(on=PLACED, name="fulfil", queue="orders")
    async def fulfil(event: Event[dict[str, Any]]) -> None:
        seen.append((event.source, event.type, event.id, event.data))

    (origin,) = failed(engine, 1)
    hands = TestHands(engine, [fulfil])
    first = edit(engine, origin, TO_NUMBER).id
    settle(engine, [first], "failed")
    second = edit(engine, first, [{"op": "replace", "path": "/cents", "value": 7}]).id
    hands.run([second])
    hands.close()

    ((sender_id,),) = rows(engine, "select sender_id from events order by id limit 1")
    assert seen == [("/tests", PLACED, sender_id, {"cents": 7})]


def test_two_operators_edit_a_run_once(engine: Engine) -> None:
    (origin,) = failed(engine, 1)
    with transaction(engine) as tx:
        now = edit_rows.tag_of(tx, origin)
    assert now is not None
    ended: list[Any] = []

    def ask() -> None:
        try:
            ended.append(edit(engine, origin, TO_NUMBER, tag_text(now)))
        except ReplayRefused as refusal:
            ended.append(refusal.slug)

    threads = [Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(str, ended))[1:] == ["precondition-failed"] * 2
    assert rows(engine, "select count(*) from edits") == [(1,)]


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ([{"op": "replace", "path": "/cents", "value": "x"}], "'x' is not of type 'integer'"),
        (
            [{"op": "remove", "path": "/nothing"}],
            "operation 0, remove '/nothing', cannot be applied",
        ),
        (
            [
                {"op": "add", "path": "/new", "value": 1},
                {"op": "test", "path": "/cents", "value": 5},
            ],
            "operation 1, test '/cents', cannot be applied",
        ),
        ([{"op": "add", "path": "/big", "value": "x" * MIB}], "more than the 1,048,576 bytes"),
    ],
)
def test_an_edit_that_does_not_fit_changes_nothing_and_says_why(
    engine: Engine, patch: Patch, says: str
) -> None:
    (origin,) = failed(engine, 1)

    with pytest.raises(ReplayRefused, match="run ") as one:
        edit(engine, origin, patch)
    with pytest.raises(ReplayRefused) as many:
        plan_edit(engine, patch)

    for refusal in (one.value, many.value):
        assert refusal.slug == "edit-refused"
        assert says in str(refusal)
        assert refusal.members["runs"][0]["run"] == origin
    assert rows(engine, "select count(*) from events") == [(1,)]
    assert rows(engine, "select count(*) from replays") == [(0,)]
    assert rows(engine, "select is_refused from audit") == [(True,), (True,)]


def test_only_a_failed_run_is_edited(engine: Engine) -> None:
    failed(engine, 1)
    (queued,) = add_runs(engine, 1)

    with pytest.raises(ReplayRefused, match="is queued: only a failed run"):
        edit(engine, queued, TO_NUMBER)


def test_a_patch_over_a_group_makes_each_new_run_once_whoever_works(engine: Engine) -> None:
    ids = failed(engine, 250)
    id_ = plan_edit(engine, TO_NUMBER)
    act(engine, id_, Verb.START, reason="go", author="ann")
    workers = [Mover(engine, Settings(), EventIds(Random(seed).getrandbits)) for seed in range(2)]
    threads = [Thread(target=lambda one=one: [one.once() for _ in range(10)]) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: workers[0].once() == 0, what="nothing to be left")

    with transaction(engine) as tx:
        items = read.runs(tx, id_, limit=1_000).items
    assert [item.run for item in items] == ids
    new = [item.new_run for item in items if item.new_run]
    assert len(set(new)) == 250
    assert {row.state for row in read_runs(engine, new, "state")} == {"queued"}
    assert {row.state for row in read_runs(engine, ids, "state")} == {"failed"}
    assert balance(engine).unaccounted == 0
    assert check_groups(engine) == []
    settle(engine, new, "succeeded")
    until(lambda: workers[0].once() == 0 and _state(engine, id_) == "done", what="the end")
    assert rows(engine, "select succeeded from replays") == [(250,)]
    with pytest.raises(ReplayRefused, match="no failed run matches"):
        plan_edit(engine, TO_NUMBER)


def test_a_run_that_was_edited_or_archived_since_the_plan_is_skipped(engine: Engine) -> None:
    ids = failed(engine, 3)
    plans = [plan_edit(engine, TO_NUMBER)]
    asked = PlanRequest(
        wanted=RunQuery(fingerprint="f"),
        options=Options(rate=100_000.0, stop_share=None),
        author="ann",
        reason="again",
        request={},
    )
    plans.append(plan(engine, asked, MIB).id)
    new = edit(engine, ids[0], TO_NUMBER).id
    with transaction(engine) as tx:
        archive_rows.archive(tx, ids[1:2], reason="of no use", author="bob")

    for id_ in plans[::-1]:
        act(engine, id_, Verb.START, reason="go", author="ann")
        Mover(engine, Settings(), _IDS).once()
        with transaction(engine) as tx:
            told = read.runs(tx, id_).items
        reasons = [run.skip_reason or "" for run in told]
        assert "edited since the plan and ran as another run; ann did edit" in reasons[0]
        assert "archived since the plan; bob did archive" in reasons[1]
        assert ("generation 1" in reasons[2]) == (id_ == plans[0])
    states = [row.state for row in read_runs(engine, [*ids, new], "state")]
    assert sorted(states) == ["failed", "failed", "queued", "queued"]
    assert balance(engine).unaccounted == 0


def test_a_preview_shows_before_and_after_and_keeps_nothing(engine: Engine) -> None:
    good = failed(engine, 2)
    (bad,) = failed(engine, 1, data='{"amount": 1}')

    shown = preview(engine, RunQuery(fingerprint="f"), TO_NUMBER, MIB, is_all=False, limit=10)

    assert shown.count == 3
    assert [item.run for item in shown.items] == [*good, bad]
    assert json.loads(bytes(shown.items[0].before or b"")) == {"cents": "100"}
    assert json.loads(bytes(shown.items[0].after or b"")) == {"cents": 100}
    assert shown.items[2].refused is not None
    assert rows(engine, "select count(*) from replays") == [(0,)]
    assert rows(engine, "select count(*) from audit") == [(0,)]


def test_a_payload_of_a_mebibyte_is_edited(engine: Engine) -> None:
    lines = [{"sku": f"{n:08}", "n": n} for n in range(29_000)]
    data = json.dumps({"cents": "1", "lines": lines})
    assert 0.9 * MIB < len(data) < MIB
    (origin,) = failed(engine, 1, data=data)

    made = edit(engine, origin, TO_NUMBER)
    whole = edit(engine, origin, replacing(json.dumps({"cents": 1, "lines": lines})))

    assert read_runs(engine, [made.id, whole.id], "state")[0].state == "queued"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        "x",
        [1],
        [{}],
        [{"op": "grow", "path": "/a"}],
        [{"op": "add", "path": "a", "value": 1}],
        [{"op": "add", "path": "/a"}],
        [{"op": "move", "path": "/a"}],
        [{"op": "replace", "path": 7, "value": 1}],
        [{"op": "remove", "path": "/a"}] * 1_001,
    ],
)
def test_what_is_no_patch_is_refused(value: Any) -> None:
    with pytest.raises(PatchInvalid):
        parse_patch(value)


@pytest.mark.parametrize(
    "sent", ["12345678901234.123456789", "1.10", "123456789012345678901234567890", "0.1"]
)
def test_numbers_that_a_patch_does_not_name_keep_every_digit(engine: Engine, sent: str) -> None:
    (origin,) = failed(engine, 1, data=f'{{"cents": "1", "x": {sent}}}')

    edit(engine, origin, TO_NUMBER)

    (last,) = rows(engine, "select data::text from events order by id desc limit 1")[0]
    assert last == f'{{"cents":100,"x":{sent}}}'
    assert text_of(exact(sent)) == sent


def _state(engine: Engine, replay_id: str) -> str:
    with transaction(engine) as tx:
        story = read.find(tx, replay_id)
    assert story is not None
    return story.state


def test_hostile_text_stays_text(engine: Engine) -> None:
    (origin,) = failed(engine, 1)
    hostile: Sequence[str] = ["<script>alert(1)</script>", "=cmd|' /C calc'!A0", "\x00\u202e"]

    edit(engine, origin, replacing(json.dumps({"cents": 1, "x": hostile})))

    (last,) = rows(engine, "select data::text from events order by id desc limit 1")[0]
    assert json.loads(last)["x"] == hostile


def test_a_run_that_failed_again_after_its_edit_is_planned_with_its_group(engine: Engine) -> None:
    (origin,) = failed(engine, 1)
    edit(engine, origin, TO_NUMBER)
    with pytest.raises(ReplayRefused, match="no failed run matches"):
        plan_edit(engine, TO_NUMBER)

    replay_now(engine, [origin], ReplayMode.BEGINNING, "as it was after all", "bob")
    settle(engine, [origin], "failed", reason="error", fingerprint="f")

    assert plan_edit(engine, TO_NUMBER)


def test_the_values_of_a_patch_are_each_runs_own(engine: Engine) -> None:
    origins = failed(engine, 3)
    tagged: Patch = [
        *TO_NUMBER,
        {"op": "add", "path": "/tags", "value": []},
        {"op": "add", "path": "/tags/-", "value": "mended"},
    ]

    replay_id = plan_edit(engine, tagged)
    act(engine, replay_id, Verb.START, reason="go", author="ann")
    executor = Mover(engine, Settings(), _IDS)
    until(lambda: executor.once() == 0 and len(made_of(engine, origins)) == 3, what="three edits")

    made = made_of(engine, origins)
    assert [json.loads(data)["tags"] for data in made] == [["mended"]] * 3


def made_of(engine: Engine, origins: Sequence[str]) -> list[str]:
    """The payloads of the runs that were made of these."""
    with transaction(engine) as tx:
        query = text(
            "select e.data::text from edits d join runs r on r.id = d.run_id"
            " join events e on e.id = r.event_id where d.origin_run_id::text = any(:ids)"
        )
        return list(tx.execute(query, {"ids": list(origins)}).scalars())


def test_a_patch_that_doubles_a_payload_forty_times_is_refused(engine: Engine) -> None:
    (origin,) = failed(engine, 1)
    doubling: Patch = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(40)]

    with pytest.raises(ReplayRefused, match="more than twice the 1,048,576 bytes"):
        edit(engine, origin, doubling)

    assert made_of(engine, [origin]) == []


def test_what_was_copied_may_be_removed(engine: Engine) -> None:
    (origin,) = failed(engine, 1, json.dumps({"cents": 1, "old": "x" * 600_000}))
    renamed: Patch = [
        {"op": "copy", "from": "/old", "path": "/new"},
        {"op": "remove", "path": "/old"},
    ]

    edit(engine, origin, renamed)

    (made,) = made_of(engine, [origin])
    assert json.loads(made) == {"cents": 1, "new": "x" * 600_000}


class _OfOneMoment(EventIds):
    """All ids are drawn in one millisecond, so that they may meet."""

    def make(self, unix_ms: int, count: int) -> list[str]:  # noqa: ARG002
        """As if it were always the same."""
        return super().make(1_790_000_000_000, count)


def test_edits_that_draw_one_id_make_both_runs(engine: Engine) -> None:
    first, second = failed(engine, 2)
    made = [
        edit_now(
            engine,
            run_id,
            replacing('{"cents": 100}'),
            None,
            EditOf("", "ann", "text", MIB, _OfOneMoment(Random(3).getrandbits), 1_000),
        )
        for run_id in (first, second)
    ]

    assert len({one.id for one in made}) == 2
    found = read_runs(engine, [one.id for one in made], "origin_run_id::text")
    assert {row.origin_run_id for row in found} == {first, second}
    assert balance(engine).unaccounted == 0
