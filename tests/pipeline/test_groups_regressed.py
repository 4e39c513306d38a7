"""A group that was resolved is regressed by whatever is seen again, whenever it is folded."""

from collections.abc import Callable
from threading import Thread

import pytest
from sqlalchemy import Engine, text

from tests.pipeline.test_groups import GROUP, fail, group, groups
from tests.support.due_runs import add_runs
from tests.support.settled import fold_all, run_sql
from tests.support.wait import until
from veltrix.domain.dead_letters import DeadLetter
from veltrix.domain.failure_groups import GroupKind, GroupState
from veltrix.operations.failures.triage import Moved, NoVersion, fold_groups_once, resolve
from veltrix.pipeline.relay.dead_letters import bury
from veltrix.store.transactions import transaction

OTHER = "b" * 16
_BLOCKED = text(
    "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    " and datname = current_database()"
)


_STATE = text("select state from failure_groups where id = :id")


def is_blocked(engine: Engine) -> bool:
    with transaction(engine) as tx:
        return bool(tx.execute(_BLOCKED).scalar_one())


def test_a_failure_that_comes_in_the_middle_of_a_fold_is_not_lost(engine: Engine) -> None:
    for id_ in (GROUP, OTHER):
        fail(engine, fingerprint=id_)
    groups(engine)
    for id_ in (GROUP, OTHER):
        assert isinstance(resolve(engine, id_, None, "mended", "ann"), Moved)
    fail(engine, fingerprint=OTHER)
    folding = Thread(target=lambda: fold_groups_once(engine))

    with transaction(engine) as tx:
        tx.execute(text("select from failure_groups where id = :id for update"), {"id": OTHER})
        folding.start()
        until(lambda: is_blocked(engine), what="the fold to wait for the other group")
        fail(engine)
    folding.join()

    assert group(engine, OTHER).state == GroupState.REGRESSED
    assert group(engine).state == GroupState.REGRESSED


def test_a_fold_judges_exactly_what_it_takes(engine: Engine) -> None:
    for id_ in (GROUP, OTHER):
        fail(engine, fingerprint=id_)
    groups(engine)
    resolve(engine, GROUP, None, "mended", "ann")
    fail(engine, fingerprint=OTHER)
    fail(engine)

    def state() -> str:
        with transaction(engine) as tx:
            found = tx.execute(
                text("select state from failure_groups where id = :id"), {"id": GROUP}
            )
            return str(found.scalar_one())

    assert (fold_groups_once(engine, 1), state()) == (1, "resolved")
    assert (fold_groups_once(engine, 1), state()) == (1, "regressed")


def letter(engine: Engine) -> None:
    bury(engine, [DeadLetter(queue="orders", reason="rejected")])


def unroutable(engine: Engine) -> None:
    bury(engine, [DeadLetter(queue="veltrix.unroutable", reason="unroutable")])


def unrouted(engine: Engine) -> None:
    add_runs(engine, 1, is_routed=False)
    fold_all(engine)


WITHOUT_CODE = pytest.mark.parametrize(
    ("occur", "kind"),
    [
        (letter, GroupKind.DEAD_LETTER),
        (unroutable, GroupKind.UNROUTABLE),
        (unrouted, GroupKind.UNROUTED),
    ],
)


@WITHOUT_CODE
def test_what_never_came_to_code_regresses_with_the_next_of_it(
    engine: Engine, occur: Callable[[Engine], None], kind: GroupKind
) -> None:
    occur(engine)
    ((id_, _),) = groups(engine).items()

    assert resolve(engine, id_, "2", "mended", "ann") == NoVersion(
        id_, GroupState.OPEN, None, kind=kind
    )
    assert group(engine, id_).state == GroupState.OPEN
    assert isinstance(resolve(engine, id_, None, "mended", "ann"), Moved)
    assert group(engine, id_).state == GroupState.RESOLVED
    occur(engine)
    assert group(engine, id_).state == GroupState.REGRESSED


@WITHOUT_CODE
def test_a_version_that_was_taken_for_it_once_keeps_nothing_from_regressing(
    engine: Engine, occur: Callable[[Engine], None], kind: GroupKind
) -> None:
    occur(engine)
    ((id_, row),) = groups(engine).items()
    resolve(engine, id_, None, "mended", "ann")
    run_sql(engine, "update failure_groups set resolved_version = '2'")

    occur(engine)

    assert (row.kind, group(engine, id_).state) == (kind, GroupState.REGRESSED)


def test_an_unrouted_event_is_seen_in_its_minute_however_late_it_is_folded(engine: Engine) -> None:
    add_runs(engine, 1, is_routed=False)
    run_sql(engine, "update counter_deltas set minute = minute - 90")
    fold_all(engine)

    with transaction(engine) as tx:
        found = tx.execute(
            text(
                "select floor(extract(epoch from seen_at) / 60) = (select minute from counters)"
                " from failure_deltas"
            )
        )
        assert found.scalar_one()
