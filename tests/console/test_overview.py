"""The first page: what needs a person stands before everything else, and says what to do."""

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import Engine

from tests.console.conftest import OPERATOR, Shown, showing
from tests.console.test_actions import session_of
from tests.support.services import Services
from tests.support.settled import run_sql, settle
from tests.support.workers import forget_workers, report
from veltrix.console.alarms import alarms
from veltrix.console.figures import Figures
from veltrix.console.live import Live, Rates
from veltrix.doctor.examine import Finding
from veltrix.doctor.rule import Severity
from veltrix.doctor.watch import look_rows
from veltrix.operations.failures.read_urgent import urgent
from veltrix.operations.runs.read_pace import WorkflowPace, paces
from veltrix.pipeline.execute.journal_rows import JournalEntry
from veltrix.store.transactions import transaction


@pytest.fixture(scope="module")
def own(services: Services) -> Iterator[Shown]:
    """A console of this module's own, with one run failed, one open and one succeeded."""
    with showing(services) as there:
        yield there


def figures_of(engine: Engine, *, is_broker_up: bool = True) -> Figures:
    return Live(engine, lambda: is_broker_up).figures()


def told(engine: Engine) -> str:
    """All alarms as one text."""
    return "\n".join(f"{alarm.what}: {alarm.detail}" for alarm in alarms(figures_of(engine)))


def test_a_new_failure_and_a_bare_queue_come_before_the_books(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)

    page = own.api.get("/console/", cookie=cookie).text

    places = [page.index(words) for words in ("No worker serves", "PaymentRefused", "The books")]
    assert places == sorted(places)
    assert "nobody will do the open runs there" in page
    assert "calc&#39;!A0 " not in page  # of the error's message, which not everybody may read


def finding(id_: str, severity: Severity, queue: str, accepted: str | None = None) -> Finding:
    return Finding(
        id=id_,
        severity=severity,
        subject="canaries",
        title="an event is late",
        why="So are others.",
        found=f"that of queue {queue!r} is late",
        origin="table canaries",
        cure="more workers",
        file=None,
        line=None,
        source="docs",
        accepted=accepted,
    )


def test_what_the_doctors_watch_has_found_is_told_by_rule_and_a_silent_watch_too(
    engine: Engine,
) -> None:
    def look(*findings: Finding, hold_s: float = 60.0) -> str:
        with transaction(engine) as tx:
            assert look_rows.take(tx, "one", hold_s)
            look_rows.note(tx, "one", findings, [], held=50, took_ms=9)
        return told(engine)

    assert "doctor" not in told(engine), "nobody has ever watched"
    text = look(
        *(finding("O16", Severity.STALL, queue) for queue in ("orders", "mails")),
        finding("B06", Severity.LOSS, "orders"),
        finding("B09", Severity.LOSS, "orders", accepted="single node"),
        finding("O12", Severity.LOSS, "orders"),  # which this page says in its own words
    )
    assert "(O16): That of queue 'mails' is late, and 1 more. Cure: more workers" in text
    assert "(B06)" in text
    assert "B09" not in text
    assert "O12" not in text
    assert [one.is_bad for one in alarms(figures_of(engine))] == [True, False]
    assert "The doctor's watch has said nothing for " in look(hold_s=0.0)


def test_urgent_is_what_is_new_growing_or_back_and_nothing_else(own: Shown) -> None:
    with transaction(own.engine) as tx:
        for id_, state, first, hours in (
            ("steady", "open", "3 days", {0: 2, **dict.fromkeys(range(2, 23), 2)}),
            ("growing", "open", "3 days", {0: 9, **dict.fromkeys(range(2, 23), 2)}),
            ("back", "regressed", "3 days", {0: 1}),
            ("ignored", "ignored", "1 hour", {0: 9}),
        ):
            tx.exec_driver_sql(
                "insert into failure_groups (id, kind, state, workflow, count, archived, total,"
                " first_seen_at, last_seen_at) values (%(id)s, 'run', %(state)s, 'fulfil', 1, 0,"
                " 99, now() - %(first)s::interval, now())",
                {"id": id_, "state": state, "first": first},
            )
            for ago, seen in hours.items():
                tx.exec_driver_sql(
                    "insert into failure_hours (group_id, hour, code_version, seen) values (%(id)s,"
                    " date_trunc('hour', now()) - %(ago)s * interval '1 hour', '', %(seen)s)",
                    {"id": id_, "ago": ago, "seen": seen},
                )
        found = [(group.id, group.why, group.lately) for group in urgent(tx)]
        tx.rollback()

    known = {id_ for id_, _, _ in found}
    assert found[0] == ("back", "regressed", 1)
    assert ("growing", "growing", 9) in found
    assert ("f00d", "new", 1) in found
    assert {"steady", "ignored"} & known == set()


def test_a_pace_is_without_sleeps_however_they_overlap(own: Shown) -> None:
    own.accept("slept", {"order": 7})
    run = own.runs["slept"]
    sleeps = [
        JournalEntry(run, position, "sleep", "sleep", output=seconds)
        for position, seconds in (("1.0.1", "60.0"), ("1.1.1", "60.0"), ("2", "1e300"))
    ]
    settle(own.engine, [run], "succeeded", sleeps)
    run_sql(
        own.engine,
        f"update runs set workflow = 'slept', settled_at = started_at + interval '100 s'"
        f" where id = '{run}'",
        *(
            f"update journal j set recorded_at = r.started_at + interval '{after} s' from runs r"
            f" where r.id = j.run_id and run_id = '{run}' and position = '{position}'"
            for position, after in (("1.0.1", 10), ("1.1.1", 20), ("2", 95))
        ),
    )

    with transaction(own.engine) as tx:
        found = {pace.workflow: pace for pace in paces(tx)}

    # From 10 to 80 and from 95 on it slept: 25 of 100 seconds are left.
    assert found["slept"].p95_s == pytest.approx(25.0)
    assert found[None].settled == sum(p.settled for name, p in found.items() if name is not None)


def test_alarms_name_the_queue_the_delay_and_the_cure(own: Shown) -> None:
    run_sql(
        own.engine,
        f"update runs set due_at = now() - interval '5 minutes' where id = '{own.runs['open']}'",
    )
    assert "late" not in told(own.engine)  # that nobody serves it says more

    report(own.engine, "1", None, ["orders"])
    report(own.engine, "lost", None, ["orders"], seen_ago_s=60)
    served = told(own.engine)
    forget_workers(own.engine, "1", "lost")

    assert "orders: the oldest due run is 5 min" in served
    assert "1 worker child gone without a word: lost" in served
    assert "No worker serves" not in served


def test_a_workflow_that_became_slower_is_named(own: Shown) -> None:
    quiet = figures_of(own.engine)
    everything, slower, same, few = (
        WorkflowPace(workflow, settled, 0.2, 3.0, before, lately, None)
        for workflow, settled, before, lately in (
            (None, 500, 1.0, 9.0),
            ("pay", 200, 1.0, 3.0),
            ("pack", 200, 2.0, 3.0),
            ("send", 20, 1.0, 9.0),
        )
    )

    found = alarms(msgspec.structs.replace(quiet, paces=[everything, slower, same, few]))

    assert [alarm.what for alarm in found if "slower" in alarm.what] == ["pay became slower"]


def test_rates_are_there_however_long_figures_take_to_be_read(own: Shown) -> None:
    books = figures_of(own.engine).books
    later = msgspec.structs.replace(
        books,
        as_of=books.as_of + timedelta(seconds=40),
        events=msgspec.structs.replace(books.events, accepted=books.events.accepted + 80),
    )
    rates = Rates()

    assert rates.with_these(books) == (None, None)
    assert rates.with_these(later) == (2.0, 0.0)
