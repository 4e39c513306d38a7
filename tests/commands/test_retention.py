"""`veltrix retention`: policies shown, planned and applied from a terminal."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.archive.history import add_day, day_ago
from tests.commands.conftest import Veltrix
from tests.support.due_runs import subscribe
from tests.support.old_days import make_old_days
from tests.support.old_ledger import add_past, days_ago
from tests.support.roles import make_roles
from tests.support.settled import fold_all, run_sql
from veltrix.domain.states import RunState
from veltrix.operations.books.books import recount_once
from veltrix.operations.retention.rules import JudgedEvent, JudgedRun
from veltrix.settings.fields import PREFIX

WHY = ("--reason", "a test")


def add_ended(engine: Engine, days: float, state: RunState = RunState.SUCCEEDED) -> None:
    at = days_ago(datetime.now(UTC), days)
    add_past(engine, [JudgedEvent(at, False, True, [JudgedRun("a", state, at)])])


def test_without_policies_everything_is_kept_and_that_is_said(
    veltrix: Veltrix, engine: Engine
) -> None:
    add_ended(engine, 900)

    shown, planned = veltrix("retention", "show"), veltrix("retention", "plan")

    assert (shown.code, planned.code) == (0, 0)
    assert shown.out == "no policy is in force: everything is kept\n"
    assert "everything is kept" in planned.out
    assert veltrix("retention", "show", "--json").json["policies"] == []


def test_a_plan_shows_days_and_why_events_stay_and_changes_nothing(
    veltrix: Veltrix, engine: Engine
) -> None:
    add_ended(engine, 40)
    add_ended(engine, 40, RunState.FAILED)

    planned = veltrix("retention", "plan", "--defaults")

    assert planned.code == 0
    assert "succeeded of every workflow: content 30 d, lines 400 d" in planned.out
    assert "unrouted of every workflow: content never, lines never" in planned.out
    assert "1 of 2 events may leave" in planned.out
    (day,) = veltrix("retention", "plan", "--defaults", "--json").json["days"]
    assert (day["leaving"], day["stay"]["failed"]) == (1, 1)
    assert veltrix("retention", "show", "--json").json["policies"] == []


def test_apply_shows_the_plan_and_asks(veltrix: Veltrix, engine: Engine) -> None:
    add_ended(engine, 40)

    unasked = veltrix("retention", "apply", "--defaults", *WHY)
    done = veltrix("retention", "apply", "--defaults", *WHY, "--yes", "--author", "ann")

    assert unasked.code == 1
    assert "1 of 1 events may leave" in unasked.out
    assert "by which 1 events may leave now?" in unasked.err
    assert done.code == 0
    assert "1 of 1 events may leave" in done.out
    policies = veltrix("retention", "show", "--json").json["policies"]
    assert {one["changed_by"] for one in policies} == {"ann"}
    assert len(policies) == 4


def test_a_workflow_may_have_a_policy_of_its_own(veltrix: Veltrix, engine: Engine) -> None:
    subscribe(engine, "a")
    add_ended(engine, 40)
    own = ("--workflow", "a", "--outcome", "succeeded", "--outcome", "cancelled")

    veltrix("retention", "apply", "--defaults", *WHY, "--yes")
    planned = veltrix("retention", "plan", *own, "--content", "60d")
    veltrix("retention", "apply", *own, "--content", "500d", *WHY, "--yes")

    assert "0 of 1 events may leave" in planned.out
    (day,) = veltrix("retention", "plan", "--json").json["days"]
    assert day["stay"]["policy"] == 1
    policies = veltrix("retention", "show", "--json").json["policies"]
    found = [(p["content_s"], p["lines_s"]) for p in policies if p["workflow"] == "a"]
    assert found == [(500 * 86_400, 500 * 86_400)] * 2, "lines as long as content, at least"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("apply", *WHY), "--defaults, or --outcome"),
        (("plan", "--outcome", "failed"), "needs both"),
        (("plan", "--content", "30d"), "needs both"),
        (("plan", "--defaults", "--content", "30d"), "not both"),
        (("plan", "--outcome", "failed", "--content", "30 days"), "write 30d"),
        (("plan", "--outcome", "failed", "--content", "1h"), "from one day"),
        (("plan", "--outcome", "failed", "--content", "9d", "--lines", "3d"), "as long as"),
        (("plan", "--workflow", "no", "--outcome", "failed", "--content", "9d"), "registered"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    veltrix: Veltrix, arguments: tuple[str, ...], says: str
) -> None:
    ran = veltrix("retention", *arguments)

    assert ran.code == 2
    assert says in " ".join(ran.err.replace("│", " ").split())


def test_who_only_reads_can_plan_and_not_apply(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", make_roles(database_url).read)

    planned = veltrix("retention", "plan", "--defaults")
    applied = veltrix("retention", "apply", "--defaults", *WHY, "--yes")

    assert planned.code == 0
    assert applied.code == 2
    assert "permission denied for table" in applied.err


def test_a_drop_asks_tells_its_steps_and_leaves_an_archive(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    day = day_ago(60)
    make_old_days(engine, day, 1)
    add_day(engine, day)
    run_sql(engine, "update runs set settled_at = started_at + interval '1 minute'")
    fold_all(engine)
    recount_once(engine)
    assert veltrix("retention", "drop", "--yes").err.startswith("no day is due")
    assert veltrix("retention", "apply", "--defaults", *WHY, "--yes").code == 0

    unasked = veltrix("retention", "drop")
    archive = str(tmp_path / "archive")
    done = veltrix("retention", "drop", "--all", "--archive", archive, "--yes", "--json")

    assert unasked.code == 1
    assert f"Drop 8 events of {day:%Y%m%d}? 6 stay" in unasked.err
    (drop,) = done.json
    assert (drop["state"], drop["events_left"], drop["events_kept"]) == ("freed", 8, 6)
    assert "out of sight" in done.err
    assert veltrix("archive", "read", archive, "--verify", "--ledger").code == 0
    assert "retention.drop" in veltrix("audit", "list").out
    assert veltrix("balance").code == 0


def test_a_split_ledger_says_so_and_is_split_once(veltrix: Veltrix) -> None:
    first, again = veltrix("db", "partition"), veltrix("db", "partition", "--json")

    assert (first.code, again.code) == (0, 0)
    assert first.out == "split into days; 8 of them are there from today on\n"
    assert again.json["ahead"] == 8
