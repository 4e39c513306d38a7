"""What policies would let go, day by day; and policies put in force, with who did it and why."""

import random
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, subscribe
from tests.support.old_ledger import add_past, days_ago
from tests.support.settled import fold_all, settle
from veltrix.access.audit import AuditFilter, entry, page
from veltrix.domain.states import RunState
from veltrix.operations.retention import plan as plans
from veltrix.operations.retention.plan import RetentionDay, RetentionPlan, plan
from veltrix.operations.retention.policies import read, set_policies
from veltrix.operations.retention.rules import (
    DAY_S,
    DEFAULTS,
    JudgedEvent,
    JudgedRun,
    PolicyOutcome,
    PolicyRefused,
    RetentionPolicy,
    Stays,
    by_subject,
    why_it_stays,
)
from veltrix.store.transactions import transaction

WHY = ("a test", "ann")
SUCCEEDED, FAILED = PolicyOutcome.SUCCEEDED, PolicyOutcome.FAILED


def now_of(engine: Engine) -> datetime:
    with transaction(engine) as tx:
        found: datetime = tx.execute(text("select now()")).scalar_one()
    return found


def ended(at: datetime, state: RunState = RunState.SUCCEEDED, workflow: str = "a") -> JudgedEvent:
    return JudgedEvent(at, False, True, [JudgedRun(workflow, state, at)])


def all_days(engine: Engine, rows_max: int) -> list[RetentionDay]:
    found: list[RetentionDay] = []
    cursor = None
    while True:
        one = plan(engine, DEFAULTS, cursor=cursor, rows_max=rows_max)
        found += one.days
        if one.next is None:
            return found
        assert cursor is None or int(one.next) > cursor
        cursor = int(one.next)


def test_a_ledger_without_policies_lets_nothing_go_and_is_not_read(engine: Engine) -> None:
    add_past(engine, [ended(days_ago(now_of(engine), 900))])

    found = plan(engine)

    assert (found.days, found.next, found.policies, found.young_since) == ([], None, [], None)


def test_a_plan_counts_each_event_of_each_day_once_however_it_is_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = now_of(engine)
    chance = random.Random(5)
    past = []
    for _ in range(600):
        at = days_ago(now, chance.uniform(31.1, 36))
        state = chance.choice([RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.FAILED])
        settled_at = at + timedelta(days=chance.uniform(0, 4))
        own = [JudgedRun("a", state, settled_at)] * (chance.random() < 0.8)
        past.append(JudgedEvent(at, not own, True, own))
    add_past(engine, past)

    whole = plan(engine, DEFAULTS)
    monkeypatch.setattr(plans, "PART_ROWS", 40)
    in_parts = all_days(engine, rows_max=150)

    rules = by_subject(DEFAULTS)
    said = [why_it_stays(event, rules, whole.as_of) for event in past]
    young_since = whole.young_since
    assert young_since is not None
    assert young_since <= whole.as_of - timedelta(days=30)
    read_ = [
        (event, why) for event, why in zip(past, said, strict=True)
        if event.accepted_at < young_since
    ]  # fmt: skip
    for days in (whole.days, in_parts):
        assert sum(day.events for day in days) == len(read_)
        assert sum(day.leaving for day in days) == sum(why is None for _, why in read_)
        assert sum(day.runs for day in days) == sum(len(event.runs) for event, _ in read_)
        for reason in Stays:
            found = sum(getattr(day.stay, reason.value) for day in days)
            assert found == sum(why is reason for _, why in read_), reason
    assert len(in_parts) > len(whole.days) > 3
    assert all(day.until - day.since == timedelta(days=1) for day in whole.days)
    assert [day.since for day in in_parts[1:]] == [
        max(before.until, day.since) for before, day in pairwise(in_parts)
    ]
    assert all(day.bytes > 0 for day in whole.days if day.leaving)


def test_what_is_too_young_for_every_policy_is_not_read(engine: Engine) -> None:
    now = now_of(engine)
    add_past(engine, [ended(days_ago(now, days)) for days in (1, 29, 33)])
    settle(engine, add_runs(engine, 2), "succeeded")
    fold_all(engine)

    found = plan(engine, DEFAULTS)

    assert [(day.events, day.leaving) for day in found.days] == [(1, 1)]
    assert found.young_since is not None
    assert found.young_since < now - timedelta(days=30)


def test_days_without_events_are_passed_over_and_a_page_has_so_many_days(engine: Engine) -> None:
    now = now_of(engine)
    add_past(engine, [ended(days_ago(now, days)) for days in (40, 400, 4_000)])

    first = plan(engine, DEFAULTS, days_max=2)
    rest = plan(engine, DEFAULTS, cursor=int(first.next or 0), days_max=2)

    assert len(first.days) == 2
    assert [day.events for day in first.days + rest.days] == [1, 1, 1]
    assert rest.next is None


def test_a_proposed_policy_counts_instead_of_the_one_in_force(engine: Engine) -> None:
    subscribe(engine, "a")
    subscribe(engine, "b")
    now = now_of(engine)
    add_past(engine, [ended(days_ago(now, 40), workflow=name) for name in ("a", "b", "b")])
    set_policies(engine, DEFAULTS, *WHY)

    def leaving(*proposed: RetentionPolicy) -> tuple[int, int]:
        found = plan(engine, proposed)
        return found.days[0].leaving, found.days[0].stay.policy

    assert leaving() == (3, 0)
    assert leaving(RetentionPolicy("b", SUCCEEDED, 60 * DAY_S, None)) == (1, 2)
    assert leaving(RetentionPolicy("b", SUCCEEDED, None, None)) == (1, 2)
    assert leaving() == (3, 0)


def test_policies_are_set_with_who_did_it_and_what_was_in_force_before(engine: Engine) -> None:
    subscribe(engine, "a")
    one = RetentionPolicy("a", FAILED, 7 * DAY_S, 30 * DAY_S)
    set_policies(engine, DEFAULTS, *WHY)
    set_policies(engine, [one], "less room", "bob")
    set_policies(engine, [RetentionPolicy("a", FAILED, None, None)], "it was wrong", "cid")

    with transaction(engine) as tx:
        found = {(p.workflow, p.outcome): p for p in read(tx)}
        rows = page(tx, AuditFilter(action="retention.set")).items
        last = entry(tx, rows[0].id)
    assert len(found) == len(DEFAULTS) + 1
    assert (found["a", FAILED].content_s, found["a", FAILED].changed_by) == (None, "cid")
    assert found["", SUCCEEDED].content_s == 30 * DAY_S
    assert [(row.author, row.reason) for row in rows] == [
        ("cid", "it was wrong"),
        ("bob", "less room"),
        ("ann", "a test"),
    ]
    assert last is not None
    assert b'"content_s":604800' in bytes(last.result).replace(b" ", b"")


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        ([RetentionPolicy("nobody", SUCCEEDED, DAY_S, None)], "was ever registered"),
        ([RetentionPolicy("", SUCCEEDED, 5, None)], "from one day"),
        ([DEFAULTS[0], DEFAULTS[0]], "there twice"),
    ],
)
def test_one_policy_that_cannot_be_and_none_is_set(
    engine: Engine, refused: list[RetentionPolicy], says: str
) -> None:
    with pytest.raises(PolicyRefused, match=says):
        set_policies(engine, [*refused, DEFAULTS[1]], *WHY)
    with pytest.raises(PolicyRefused, match=says):
        plan(engine, refused)

    with transaction(engine) as tx:
        assert read(tx) == []
        assert page(tx, AuditFilter()).items == []


def test_bytes_are_what_events_take_on_average(engine: Engine) -> None:
    add_past(engine, [ended(days_ago(now_of(engine), 40)) for _ in range(500)])

    def told() -> RetentionPlan:
        return plan(engine, DEFAULTS)

    before = told().days[0].bytes
    with transaction(engine) as tx:
        tx.execute(text("analyze events"))
        size = tx.execute(
            text(
                "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' and"
                " relname similar to '(events|runs|journal|failed_attempts)%'"
            )
        ).scalar_one()
    assert told().days[0].bytes == pytest.approx(float(size), rel=0.01)
    assert before > 0
