"""Failure groups: what failed in the same way is one, counted as its rows are, at every moment."""

from threading import Event, Thread

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, change_runs, subscribe
from tests.support.settled import fold_all, run_sql, settle
from veltrix.access.audit import AuditFilter
from veltrix.access.audit import page as audit_page
from veltrix.domain.dead_letters import DeadLetter
from veltrix.domain.failure_groups import GroupState
from veltrix.domain.states import ReplayMode
from veltrix.operations.failures.read import GroupFilter, GroupRow, GroupStory, page, story
from veltrix.operations.failures.triage import (
    Moved,
    Noted,
    NotMoved,
    check_groups,
    fold_groups_once,
    ignore,
    note,
    reopen,
    resolve,
)
from veltrix.operations.replays.move import replay
from veltrix.operations.runs.bulk import BulkAction, BulkRequest, Done, NotDone, act
from veltrix.operations.runs.query import RunQuery
from veltrix.pipeline.relay import due_rows
from veltrix.pipeline.relay.dead_letter_rows import mark_seen
from veltrix.pipeline.relay.dead_letters import bury
from veltrix.store.transactions import open_autocommit, transaction

ERROR = '{"type": "Declined", "message": "no money"}'
GROUP = "a" * 16
ALL = GroupFilter(is_empty=True)


def fail(
    engine: Engine, runs: int = 1, fingerprint: str = GROUP, code_version: str = "1"
) -> list[str]:
    ids = add_runs(engine, runs)
    fail_again(engine, ids, fingerprint, code_version)
    return ids


def fail_again(
    engine: Engine, ids: list[str], fingerprint: str = GROUP, code_version: str = "1"
) -> None:
    settle(
        engine,
        ids,
        "failed",
        reason="error",
        outcome=ERROR,
        fingerprint=fingerprint,
        failed_step="charge",
        code_version=code_version,
    )


def groups(engine: Engine, wanted: GroupFilter = ALL) -> dict[str, GroupRow]:
    """The groups after all that moved was folded, of which every count is that of the rows."""
    while fold_groups_once(engine):
        pass
    assert check_groups(engine) == []
    with open_autocommit(engine) as tx:
        return {row.id: row for row in page(tx, wanted).items}


def group(engine: Engine, id_: str = GROUP) -> GroupStory:
    groups(engine)
    with transaction(engine, snapshot=True) as tx:
        found = story(tx, id_)
    assert found is not None
    return found


def named(action: BulkAction, ids: list[str]) -> BulkRequest:
    wanted = RunQuery(ids=tuple(ids))
    return BulkRequest(action=action, wanted=wanted, reason="r", author="ann")


def test_1204_runs_with_one_error_are_one_group(engine: Engine) -> None:
    ids = fail(engine, 1204)
    others = fail(engine, 2, "b" * 16, "2")
    settle(engine, add_runs(engine, 3), "succeeded")

    found = groups(engine)

    assert {id_: (row.count, row.total) for id_, row in found.items()} == {
        GROUP: (1204, 1204),
        "b" * 16: (2, 2),
    }
    row = found[GROUP]
    assert (row.kind, row.state, row.workflow, row.step) == ("run", "open", "fulfil", "charge")
    assert (row.type, row.message) == ("Declined", "no money")
    assert sum(row.by_hour) == 1204
    told = group(engine)
    assert sum(bucket.seen for bucket in told.sparkline) == 1204
    assert [(v.code_version, v.seen) for v in told.versions] == [("1", 1204)]
    assert [run.id for run in told.runs] == sorted(ids)[::-1][:10]
    assert [run.id for run in group(engine, "b" * 16).runs] == sorted(others)[::-1]


def test_a_run_that_succeeds_writes_nothing_for_groups(engine: Engine) -> None:
    settle(engine, add_runs(engine, 10), "succeeded")

    assert fold_groups_once(engine) == 0


def test_replay_archive_and_restore_move_the_counts(engine: Engine) -> None:
    ids = fail(engine, 5)

    replay(engine, ids[:2], ReplayMode.FAILED_STEP, "again", "ann")
    assert (groups(engine)[GROUP].count, groups(engine)[GROUP].total) == (3, 5)
    fail_again(engine, ids[:1])
    assert (groups(engine)[GROUP].count, groups(engine)[GROUP].total) == (4, 6)
    archived = act(engine, named(BulkAction.ARCHIVE, ids[2:4]))
    assert archived == Done(BulkAction.ARCHIVE, 2)
    assert (groups(engine)[GROUP].count, groups(engine)[GROUP].archived) == (2, 2)
    act(engine, named(BulkAction.RESTORE, ids[2:3]))
    replay(engine, ids[3:4], ReplayMode.BEGINNING, "again", "ann")
    row = groups(engine)[GROUP]
    assert (row.count, row.archived, row.total) == (3, 0, 6)


def test_what_nobody_agreed_to_is_not_done(engine: Engine) -> None:
    fail(engine, 2)

    asked = BulkRequest(
        action=BulkAction.ARCHIVE, is_all=True, expected=0, reason="r", author="ann"
    )
    answer = act(engine, asked)

    assert isinstance(answer, NotDone)
    assert answer.slug == "count-changed"
    assert groups(engine)[GROUP].archived == 0


def test_a_group_without_anything_failed_is_listed_only_when_asked_for(engine: Engine) -> None:
    replay(engine, fail(engine), ReplayMode.FAILED_STEP, "again", "ann")

    assert list(groups(engine)) == [GROUP]
    assert groups(engine, GroupFilter()) == {}


def test_poison_runs_are_a_group_of_their_workflow(engine: Engine) -> None:
    ids = add_runs(engine, 2)
    change_runs(engine, ids, "crashes = 3, alone = true, due_at = now() - interval '1 second'")
    with transaction(engine) as tx:
        due_rows.scan(
            tx,
            [due_rows.QueueShare("orders", 10)],
            hold_s=8,
            hold_s_max=300,
            poison_crashes_max=3,
            rescue=(),
        )

    (row,) = groups(engine).values()

    assert (row.kind, row.workflow, row.count) == ("poison", "fulfil", 2)
    assert {run.id for run in group(engine, row.id).runs} == set(ids)


def test_dead_letters_are_groups_until_somebody_looked_at_them(engine: Engine) -> None:
    letters = [DeadLetter(queue="orders", reason="rejected", body=b"<script>") for _ in range(3)]
    bury(engine, [*letters, DeadLetter(queue="veltrix.unroutable", reason="unroutable")])

    found = {row.kind: row for row in groups(engine).values()}

    assert {kind: row.count for kind, row in found.items()} == {"dead_letter": 3, "unroutable": 1}
    letter = found["dead_letter"]  # type: ignore[index]
    assert (letter.queue, letter.reason) == ("orders", "rejected")
    ids = group(engine, letter.id).dead_letters
    with transaction(engine) as tx:
        assert mark_seen(tx, ids[:2], "ann") == 2
    assert (groups(engine)[letter.id].count, groups(engine)[letter.id].total) == (1, 3)


def test_events_nobody_subscribes_to_are_a_group_of_their_source_and_type(engine: Engine) -> None:
    ids = add_runs(engine, 3, is_routed=False, type_="shop.<b>.placed")
    fold_all(engine)

    (row,) = groups(engine).values()

    assert (row.kind, row.source, row.event_type) == ("unrouted", "/tests", "shop.<b>.placed")
    assert row.count == 3
    assert group(engine, row.id).events == ids[::-1]


def test_what_failed_before_there_were_groups_is_taken_in_with_its_hours(engine: Engine) -> None:
    ids = fail(engine, 3)
    change_runs(engine, ids[:1], "settled_at = now() - interval '5 hours'")
    run_sql(engine, "delete from failure_deltas")

    found = check_groups(engine, is_corrected=True)

    assert [(one.id, one.count, one.is_new) for one in found] == [(GROUP, 3, True)]
    row = groups(engine)[GROUP]
    assert (row.count, row.total, row.by_hour[-1], row.by_hour[-6]) == (3, 3, 2, 1)


def test_what_several_relays_take_in_at_once_is_counted_once(engine: Engine) -> None:
    fail(engine, 200)
    run_sql(engine, "delete from failure_deltas")
    relays = [Thread(target=lambda: check_groups(engine, is_corrected=True)) for _ in range(4)]
    for relay in relays:
        relay.start()
    for relay in relays:
        relay.join()

    row = groups(engine)[GROUP]
    assert (row.count, row.total) == (200, 200)


@pytest.mark.parametrize(
    "falsify",
    ["update failure_groups set count = count + 2", "delete from runs where state = 'failed'"],
)
def test_a_count_that_is_not_that_of_the_rows_is_seen_and_corrected(
    engine: Engine, falsify: str
) -> None:
    fail(engine, 2)
    groups(engine)
    run_sql(engine, falsify)

    assert [one.id for one in check_groups(engine)] == [GROUP]
    assert [one.is_new for one in check_groups(engine, is_corrected=True)] == [False]
    groups(engine)


def test_counts_are_those_of_the_rows_in_every_snapshot_while_runs_move(engine: Engine) -> None:
    is_over, seen = Event(), []

    def look() -> None:
        while not is_over.is_set():
            seen.append(len(check_groups(engine)))
            fold_groups_once(engine)

    looking = Thread(target=look)
    looking.start()
    for _ in range(5):
        ids = fail(engine, 20)
        replay(engine, ids[:10], ReplayMode.FAILED_STEP, "again", "ann")
        act(engine, named(BulkAction.ARCHIVE, ids[10:]))
    is_over.set()
    looking.join()

    assert set(seen) == {0}
    assert groups(engine)[GROUP].archived == 50


def versions(engine: Engine, *names: str) -> None:
    for number, name in enumerate(names):
        subscribe(engine, code_version=name)
        run_sql(
            engine,
            f"update subscriptions set registered_at = now() + interval '{number} minutes'"
            f" where code_version = '{name}'",
        )


@pytest.mark.parametrize(
    ("resolved_in", "failed_in", "state"),
    [
        ("2", "1", GroupState.RESOLVED),
        ("2", "2", GroupState.REGRESSED),
        ("2", "3", GroupState.REGRESSED),
        ("2", "never registered", GroupState.REGRESSED),
        (None, "1", GroupState.REGRESSED),
        ("not deployed yet", "3", GroupState.RESOLVED),
        ("not deployed yet", "not deployed yet", GroupState.REGRESSED),
    ],
)
def test_only_a_failure_of_code_that_is_not_older_makes_it_regressed(
    engine: Engine, resolved_in: str | None, failed_in: str, state: GroupState
) -> None:
    versions(engine, "1", "2", "3")
    fail(engine)
    groups(engine)
    assert isinstance(resolve(engine, GROUP, resolved_in, "mended", "ann"), Moved)
    assert group(engine).state == GroupState.RESOLVED

    fail(engine, code_version=failed_in)

    assert group(engine).state == state


def test_a_failure_from_before_it_was_resolved_does_not_make_it_regressed(engine: Engine) -> None:
    fail(engine)
    groups(engine)
    fail(engine)
    resolve(engine, GROUP, None, "mended", "ann")

    assert group(engine).state == GroupState.RESOLVED
    assert group(engine).count == 2


def test_two_operators_at_once_decide_once_and_the_other_hears_who(engine: Engine) -> None:
    fail(engine)
    groups(engine)
    answers: list[Moved | NotMoved] = []
    operators = [
        Thread(target=lambda by=by: answers.append(resolve(engine, GROUP, None, "mended", by)))
        for by in ("ann", "ben")
    ]
    for operator in operators:
        operator.start()
    for operator in operators:
        operator.join()

    (moved,) = (answer for answer in answers if isinstance(answer, Moved))
    (late,) = (answer for answer in answers if isinstance(answer, NotMoved))
    with open_autocommit(engine) as tx:
        rows = audit_page(tx, AuditFilter(action="group.resolve")).items
    done = {row.author for row in rows if not row.is_refused}
    assert moved.state == late.state == GroupState.RESOLVED
    assert {late.by} == done
    assert len(rows) == 2


def test_a_group_is_ignored_reopened_and_noted_and_every_word_of_it_kept(engine: Engine) -> None:
    fail(engine)
    groups(engine)

    assert ignore(engine, GROUP, "a test tenant", "ann") == Moved(GROUP, GroupState.IGNORED)
    assert ignore(engine, GROUP, "again", "ben") == NotMoved(GROUP, GroupState.IGNORED, "ann")
    assert reopen(engine, GROUP, "it was not", "ben") == Moved(GROUP, GroupState.OPEN)
    noted = note(engine, GROUP, "<img src=x>", "ann")
    assert isinstance(noted, Noted)
    assert note(engine, "unknown", "x", "ann") == NotMoved("unknown", None)

    told = group(engine)
    assert [(n.author, n.text) for n in told.notes] == [("ann", "<img src=x>")]
    assert (told.state_changed_by, told.state_reason) == ("ben", "it was not")
    with open_autocommit(engine) as tx:
        rows = audit_page(tx, AuditFilter(target="group")).items
    assert [(row.action, row.author, row.is_refused) for row in rows[::-1]] == [
        ("group.ignore", "ann", False),
        ("group.ignore", "ben", True),
        ("group.reopen", "ben", False),
        ("group.note", "ann", False),
        ("group.note", "ann", True),
    ]
