"""Deploys and roll-backs: what was deployed last, and is served, routes events."""

from datetime import datetime

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import subscribe, subscription
from tests.support.due_runs import add_runs
from tests.support.due_runs import subscribe as subscribe_as_old_code
from tests.support.settled import settle
from tests.support.workers import forget_workers, report
from veltrix.operations.replays.plan import PlanRequest, plan
from veltrix.operations.replays.rules import Options
from veltrix.operations.runs.query import RunQuery
from veltrix.releases import subscription_rows
from veltrix.releases.deploy import GAP_S, SETTLE_S, Deploys
from veltrix.releases.subscription_rows import Subscription, Taken, release_of, write
from veltrix.settings.fields import Settings
from veltrix.store.loads import LEFT_S, PRESENT_S
from veltrix.store.transactions import transaction

A = subscription("w", "roll.a", queue="q1", code_version="A")
B = subscription("w", "roll.a", "roll.b", queue="q2", code_version="B")


class Watching:
    """The duty of a relay, with a clock of its own that each look moves on."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.now = 1_000.0
        self.duty = Deploys(engine, settings, lambda: self.now)

    def look(self, after_s: float = 1.0) -> None:
        """The next look."""
        self.now += after_s
        assert self.duty.once() == 0

    def wait(self, seconds: float = PRESENT_S + SETTLE_S) -> None:
        """Looks for so long."""
        end = self.now + seconds
        while self.now < end:
            self.look()


@pytest.fixture
def settings(database_url: str) -> Settings:
    """No broker: nothing is published."""
    return Settings.model_validate({"database_url": database_url})


@pytest.fixture
def watching(engine: Engine, settings: Settings) -> Watching:
    """A relay that has watched for long."""
    found = Watching(engine, settings)
    found.wait()
    return found


def current(engine: Engine) -> Subscription:
    with transaction(engine) as tx:
        (found,) = subscription_rows.current(tx)
    return found


def version(engine: Engine) -> str:
    return current(engine).code_version


def begin(engine: Engine, release: Subscription) -> None:
    """A worker of this release starts: it registers, and reports."""
    subscribe(engine, release)
    report(engine, release.code_version, release_of([release]), [release.queue])


def since(engine: Engine) -> datetime:
    found = current(engine).since
    assert found is not None
    return found


def age(engine: Engine, seconds: float) -> None:
    """All that is known of releases and workers was seen so long ago."""
    with transaction(engine) as tx:
        for table, columns in (
            ("releases", ("deployed_at", "served_at", "held_until")),
            ("workers", ("seen_at", "started_at")),
            ("subscriptions", ("current_at", "registered_at", "since")),
        ):
            moved = ", ".join(f"{c} = {c} - :age * interval '1 second'" for c in columns)
            tx.execute(text(f"update {table} set {moved}"), {"age": seconds})


def test_a_roll_back_takes_by_itself_and_forth_and_back_again(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    begin(engine, B)
    watching.look()
    assert (version(engine), current(engine).queue) == ("B", "q2")
    for there, gone in ((A, B), (B, A), (A, B)):
        forget_workers(engine, gone.code_version)
        begin(engine, there)
        watching.look()

        found = current(engine)
        assert (found.code_version, found.queue, found.replaced) == (
            there.code_version,
            there.queue,
            gone.code_version,
        )
        assert found.is_back == (there is A)


def test_while_both_run_the_later_deployed_routes(engine: Engine, watching: Watching) -> None:
    begin(engine, A)
    begin(engine, B)
    watching.wait()

    assert version(engine) == "B"


@pytest.mark.parametrize("is_seen", [True, False], ids=["beside others", "the last one"])
def test_a_worker_of_old_code_that_starts_again_takes_nothing_back(
    engine: Engine, watching: Watching, is_seen: bool
) -> None:
    begin(engine, A)
    begin(engine, B)
    if not is_seen:
        forget_workers(engine, "A")
    watching.look()
    subscribe(engine, A)
    assert version(engine) == "B"
    report(engine, "A2", release_of([A]), ["q1"])
    watching.wait()

    assert version(engine) == "B"


def test_what_is_left_of_a_release_that_was_rolled_back_takes_nothing_either(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    begin(engine, B)
    watching.look()
    forget_workers(engine, "B")
    watching.look()
    assert version(engine) == "A"
    begin(engine, B)
    watching.wait()

    assert version(engine) == "A"


def test_a_release_that_was_gone_for_longer_than_a_restart_is_deployed_anew(
    engine: Engine, settings: Settings, watching: Watching
) -> None:
    begin(engine, A)
    begin(engine, B)
    forget_workers(engine, "A")
    age(engine, settings.deploy_grace_s + 60)
    begin(engine, B)
    watching.look()
    assert version(engine) == "B"
    begin(engine, A)

    assert (version(engine), current(engine).is_back) == ("A", True)
    watching.wait()
    assert version(engine) == "A"


def test_after_an_outage_nothing_goes_back_before_workers_can_have_said_that_they_are_there(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    begin(engine, B)
    watching.look()
    forget_workers(engine, "B")

    watching.look(after_s=GAP_S + 1)
    watching.look(after_s=GAP_S)
    assert version(engine) == "B"
    watching.wait()
    assert version(engine) == "A"


def test_a_worker_that_said_goodbye_is_gone_a_moment_later_and_not_at_once(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    begin(engine, B)
    report(engine, "B", release_of([B]), ["q2"], has_left=True)
    watching.wait()
    assert version(engine) == "B", "a restart is no departure"
    report(engine, "B", release_of([B]), ["q2"], has_left=True, seen_ago_s=LEFT_S + 1)
    watching.look()

    assert version(engine) == "A"


def test_events_of_the_time_in_which_a_type_was_not_subscribed_never_start_by_themselves(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    first = since(engine)
    begin(engine, B)
    gained = since(engine)
    watching.look()
    forget_workers(engine, "B")
    watching.look()
    back = since(engine)
    forget_workers(engine, "A")
    begin(engine, B)
    watching.look()

    assert version(engine) == "B"
    assert first < gained == back < since(engine)


def test_registered_by_hand_it_is_current_at_once_and_until_nobody_has_come_for_long(
    engine: Engine, settings: Settings, watching: Watching
) -> None:
    begin(engine, A)
    with transaction(engine) as tx:
        done = write(tx, [B], restart_s=settings.deploy_grace_s, is_by_hand=True)
    assert done.taken == [Taken("w", "B", "A", is_back=False)]
    watching.wait()
    assert version(engine) == "B"
    with transaction(engine) as tx:
        done = write(tx, [A], restart_s=settings.deploy_grace_s, is_by_hand=True)
    assert done.taken == [Taken("w", "A", "B", is_back=True)]
    with transaction(engine) as tx:
        write(tx, [B], restart_s=settings.deploy_grace_s, is_by_hand=True)

    age(engine, settings.deploy_grace_s + 1)
    report(engine, "A", release_of([A]), ["q1"], started_ago_s=10_000)
    watching.look()
    assert version(engine) == "A"


def test_registered_and_kept_only_what_nothing_routes_is_taken_up(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    with transaction(engine) as tx:
        done = write(tx, [B, subscription("v", "x")], is_by_hand=True, is_kept=True)
    assert (done.new, [one.workflow for one in done.taken]) == (["v", "w"], ["v"])
    with transaction(engine) as tx:
        assert [s.code_version for s in subscription_rows.current(tx)] == ["v1", "A"]
    report(engine, "B", release_of([B, subscription("v", "x")]), ["q2"])
    watching.look()

    with transaction(engine) as tx:
        assert [s.code_version for s in subscription_rows.current(tx)] == ["v1", "B"]


def test_what_cannot_be_registered_of_a_release_keeps_the_rest_of_it_from_nothing(
    engine: Engine, watching: Watching
) -> None:
    whole = release_of([B, subscription("clashing")])
    begin(engine, A)
    with transaction(engine) as tx:
        write(tx, [B], release=whole)
    report(engine, "B", whole, ["q2"])
    watching.wait()

    assert version(engine) == "B"


def test_what_workers_of_old_code_registered_stays_while_they_are_there(
    engine: Engine, watching: Watching
) -> None:
    begin(engine, A)
    watching.look()
    subscribe_as_old_code(engine, "w", "old", code_version="old")
    report(engine, "old", None, ["old"])
    watching.wait()
    assert version(engine) == "old"
    forget_workers(engine, "old")
    watching.look(after_s=SETTLE_S / 2)

    assert version(engine) == "A"


def test_a_version_that_was_retired_is_not_gone_back_to(engine: Engine, watching: Watching) -> None:
    begin(engine, A)
    begin(engine, B)
    with transaction(engine) as tx:
        assert subscription_rows.retire(tx, ["w"]) == ["w"]
    subscribe(engine, B)
    forget_workers(engine, "B")
    watching.wait()

    assert version(engine) == "B"


def test_a_replay_warns_of_other_code_by_what_is_deployed_now(
    engine: Engine, watching: Watching
) -> None:
    def warned() -> list[str]:
        about = PlanRequest(
            wanted=RunQuery(workflow="w"),
            options=Options(rate=1.0, stop_share=None),
            author="ann",
            reason="deployed again",
            request={},
        )
        return [warning.kind for warning in plan(engine, about, 1_000_000).warnings]

    begin(engine, A)
    (run_id,) = add_runs(engine, 1, workflow="w", queue="q1")
    settle(engine, [run_id], "failed", reason="error", fingerprint="f", code_version="A")
    watching.look()
    assert warned() == []

    forget_workers(engine, "A")
    begin(engine, B)
    watching.look()
    assert warned() == ["code_changed"]

    forget_workers(engine, "B")
    begin(engine, A)
    watching.look()
    assert warned() == []
