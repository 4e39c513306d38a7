"""What may leave the ledger: the rules, and that SQL says the same of each event."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from tests.support.old_ledger import add_past, days_ago
from veltrix.domain.states import OPEN, RunState
from veltrix.operations.retention.leaving_rows import JUDGED, judged_values
from veltrix.operations.retention.rules import (
    DAY_S,
    DEFAULTS,
    JudgedEvent,
    JudgedRun,
    PolicyMap,
    PolicyOutcome,
    PolicyRefused,
    RetentionPolicy,
    Stays,
    by_subject,
    check,
    shortest_s,
    why_it_stays,
)
from veltrix.store.transactions import transaction

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
WORKFLOWS = ("a", "b", "c")
DAYS = st.integers(0, 200)


def moments() -> st.SearchStrategy[datetime]:
    return DAYS.map(lambda days: NOW - timedelta(days=days))


@st.composite
def runs(draw: st.DrawFn) -> JudgedRun:
    state = draw(st.sampled_from(list(RunState)))
    is_failed = state is RunState.FAILED
    return JudgedRun(
        workflow=draw(st.sampled_from(WORKFLOWS)),
        state=state,
        settled_at=None if state in OPEN else draw(moments()),
        archived_at=draw(st.none() | moments()) if is_failed else None,
        resolved_at=draw(st.none() | moments()) if is_failed else None,
    )


@st.composite
def events(draw: st.DrawFn) -> JudgedEvent:
    is_unrouted = draw(st.booleans())
    own = [] if is_unrouted else draw(st.lists(runs(), min_size=1, max_size=3))
    return JudgedEvent(draw(moments()), is_unrouted, draw(st.booleans()), own)


@st.composite
def policies(draw: st.DrawFn) -> PolicyMap:
    found = []
    for outcome in PolicyOutcome:
        for workflow in ("", *WORKFLOWS):
            if outcome is PolicyOutcome.UNROUTED and workflow:
                continue
            if draw(st.booleans()):
                continue
            days = draw(st.none() | st.integers(1, 150))
            content_s = None if days is None else days * DAY_S
            found.append(RetentionPolicy(workflow, outcome, content_s, None))
    return by_subject(found)


@given(events())
def test_without_a_policy_nothing_leaves(event: JudgedEvent) -> None:
    assert why_it_stays(event, {}, NOW) is not None


@given(events(), policies())
def test_what_leaves_is_settled_sealed_and_older_than_the_shortest_policy(
    event: JudgedEvent, in_force: PolicyMap
) -> None:
    if why_it_stays(event, in_force, NOW) is not None:
        return

    least = timedelta(seconds=shortest_s(in_force) or 0)
    assert event.is_sealed
    assert not any(run.state in OPEN for run in event.runs)
    assert all(run.settled_at and run.settled_at + least <= NOW for run in event.runs)
    assert all(
        run.archived_at or run.resolved_at for run in event.runs if run.state is RunState.FAILED
    )
    assert event.runs or event.accepted_at + least <= NOW


@given(events(), policies(), st.sampled_from(list(PolicyOutcome)), st.integers(0, 100))
def test_a_longer_policy_lets_nothing_more_go(
    event: JudgedEvent, in_force: PolicyMap, outcome: PolicyOutcome, days: int
) -> None:
    longer = {
        subject: RetentionPolicy(
            one.workflow,
            one.outcome,
            None
            if one.content_s is None
            else one.content_s + days * DAY_S * (one.outcome is outcome),
            None,
        )
        for subject, one in in_force.items()
    }

    if why_it_stays(event, longer, NOW) is None:
        assert why_it_stays(event, in_force, NOW) is None


@given(events(), policies(), st.integers(0, 1_000))
def test_what_may_leave_may_leave_later_and_the_order_of_runs_says_nothing(
    event: JudgedEvent, in_force: PolicyMap, days: int
) -> None:
    found = why_it_stays(event, in_force, NOW)

    backwards = JudgedEvent(event.accepted_at, event.is_unrouted, event.is_sealed, event.runs[::-1])
    assert why_it_stays(backwards, in_force, NOW) == found
    if found is None:
        assert why_it_stays(event, in_force, NOW + timedelta(days=days)) is None


def test_the_defaults_keep_failures_until_somebody_has_dealt_with_them_and_unrouted_for_ever() -> (
    None
):
    in_force = by_subject(DEFAULTS)
    old, older = NOW - timedelta(days=31), NOW - timedelta(days=1_000)

    def said(**run: object) -> Stays | None:
        judged = JudgedRun("a", **({"settled_at": old} | run))  # type: ignore[arg-type]
        return why_it_stays(JudgedEvent(older, False, True, [judged]), in_force, NOW)

    failed = {"state": RunState.FAILED, "settled_at": older}
    assert said(state=RunState.SUCCEEDED) is None
    assert said(state=RunState.CANCELLED) is None
    assert said(state=RunState.SUCCEEDED, settled_at=NOW - timedelta(days=29)) is Stays.YOUNG
    assert said(**failed) is Stays.FAILED
    assert said(**failed, archived_at=NOW - timedelta(days=89)) is Stays.YOUNG
    assert said(**failed, archived_at=NOW - timedelta(days=91)) is None
    assert said(**failed, resolved_at=NOW - timedelta(days=91)) is None
    assert said(state=RunState.WAITING, settled_at=None) is Stays.OPEN
    assert why_it_stays(JudgedEvent(older, True, True), in_force, NOW) is Stays.UNROUTED
    assert why_it_stays(JudgedEvent(older, False, True), in_force, NOW) is Stays.ASTRAY


def test_a_workflow_with_a_longer_policy_keeps_the_whole_event() -> None:
    own = RetentionPolicy("b", PolicyOutcome.SUCCEEDED, None, None)
    in_force = by_subject([*DEFAULTS, own])
    old = NOW - timedelta(days=31)
    ended = [JudgedRun(name, RunState.SUCCEEDED, old) for name in ("a", "b")]

    assert why_it_stays(JudgedEvent(old, False, True, ended), in_force, NOW) is Stays.POLICY
    assert why_it_stays(JudgedEvent(old, False, True, ended[:1]), in_force, NOW) is None


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (("a", PolicyOutcome.UNROUTED, None, None), "have no workflow"),
        (("", PolicyOutcome.FAILED, 60, None), "from one day"),
        (("", PolicyOutcome.FAILED, 40_000 * DAY_S, None), "from one day"),
        (("", PolicyOutcome.FAILED, 2 * DAY_S, DAY_S), "as long as content"),
    ],
)
def test_a_policy_that_nobody_can_mean_is_refused(
    policy: tuple[str, PolicyOutcome, int | None, int | None], says: str
) -> None:
    with pytest.raises(PolicyRefused, match=says):
        check(RetentionPolicy(*policy))


def drawn_past(chance: random.Random, count: int) -> list[JudgedEvent]:
    """Events of the last 200 days, some of which nearly may leave. A minute is sealed or not."""
    found = []
    for _ in range(count):
        at = days_ago(NOW, chance.uniform(0, 200))
        minute = int(at.timestamp()) // 60
        own = []
        is_unrouted = chance.random() < 0.2
        for _ in range(0 if is_unrouted else chance.choice((0, 1, 1, 1, 2, 3))):
            state = chance.choice(list(RunState))

            def later(at: datetime = at) -> datetime:
                return min(NOW, at + timedelta(days=chance.uniform(0, 60)))

            is_failed = state is RunState.FAILED
            own.append(
                JudgedRun(
                    chance.choice(WORKFLOWS),
                    state,
                    None if state in OPEN else later(),
                    later() if is_failed and chance.random() < 0.4 else None,
                    later() if is_failed and chance.random() < 0.4 else None,
                )
            )
        found.append(JudgedEvent(at, is_unrouted, minute % 5 > 0, own))
    return found


def test_sql_says_of_each_event_what_the_rules_say(engine: Engine) -> None:
    chance = random.Random(3)
    past = drawn_past(chance, 1_500)
    ids = add_past(engine, past)
    reasons = set()
    for _ in range(12):
        in_force = by_subject(
            RetentionPolicy(workflow, outcome, chance.choice((None, 1, 20, 60, 120)), None)
            for outcome in PolicyOutcome
            for workflow in ("", *WORKFLOWS)
            if chance.random() < 0.6 and not (workflow and outcome is PolicyOutcome.UNROUTED)
        )
        in_force = {
            subject: RetentionPolicy(
                one.workflow,
                one.outcome,
                None if one.content_s is None else one.content_s * DAY_S,
                None,
            )
            for subject, one in in_force.items()
        }
        values = judged_values(in_force, NOW, 0, int(NOW.timestamp()) // 60 + 1)
        with transaction(engine) as tx:
            statement = f"with {JUDGED} select id::text, stays from judged"
            said = {row[0]: row[1] for row in tx.exec_driver_sql(statement, values)}

        expected = {
            id_: why_it_stays(event, in_force, NOW) for id_, event in zip(ids, past, strict=True)
        }
        assert said == expected
        reasons |= set(said.values())
    assert reasons == {None, *Stays}


def test_a_minute_with_something_left_to_fold_is_not_sealed(engine: Engine) -> None:
    old = NOW - timedelta(days=40)
    ended = [JudgedRun("a", RunState.SUCCEEDED, old)]
    (id_,) = add_past(engine, [JudgedEvent(old, False, True, ended)])
    minute = int(old.timestamp()) // 60
    values = judged_values(by_subject(DEFAULTS), NOW, minute, minute + 1)

    def said() -> object:
        with transaction(engine) as tx:
            statement = f"with {JUDGED} select stays from judged where id = '{id_}'"
            return tx.exec_driver_sql(statement, values).scalar_one()

    assert said() is None
    with transaction(engine) as tx:
        tx.execute(text(f"insert into counter_deltas (account_id, minute) values (8, {minute})"))
    assert said() == "unsealed"
