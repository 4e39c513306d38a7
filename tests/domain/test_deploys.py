"""Whose code routes: the release deployed last, of those that somebody serves."""

from datetime import UTC, datetime, timedelta

from veltrix.releases.rules import Release, Routed, Switch, release_id, switches

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def release(name: str, minute: float, **versions: str) -> Release:
    return Release(name, at(minute), versions or {"w": name})


def decide(
    live: list[Release], version: str, minute: float, *, may_go_back: bool = True
) -> list[Switch]:
    return switches(live, [Routed("w", version, at(minute))], may_go_back=may_go_back)


def test_while_both_run_the_one_deployed_last_routes() -> None:
    both = [release("A", 0), release("B", 1)]

    assert decide(both, "A", 0) == [Switch("w", "B", "B", is_back=False)]
    assert decide(both, "B", 1) == []
    assert decide(both[::-1], "B", 1) == []


def test_what_nobody_serves_gives_way_when_that_is_certain() -> None:
    left = [release("A", 0)]

    assert decide(left, "B", 1, may_go_back=False) == []
    assert decide(left, "B", 1) == [Switch("w", "A", "A", is_back=True)]


def test_a_later_deploy_takes_over_whatever_is_certain() -> None:
    assert decide([release("C", 2)], "B", 1, may_go_back=False) == [
        Switch("w", "C", "C", is_back=False)
    ]


def test_who_was_gone_back_to_is_not_taken_over_by_what_is_left_of_the_other() -> None:
    assert decide([release("A", 5), release("B", 1)], "A", 5) == []


def test_a_workflow_that_no_worker_has_keeps_what_it_has() -> None:
    assert decide([], "B", 1) == []
    assert decide([release("A", 2, other="A")], "B", 1) == []


def test_services_with_one_workflow_in_common_differ_only_in_that() -> None:
    live = [release("A", 0, w="1", x="1"), release("B", 1, w="2", y="1")]
    routed = [Routed(name, "1", at(0)) for name in ("w", "x", "y")]

    assert switches(live, routed, may_go_back=True) == [Switch("w", "2", "B", is_back=False)]


def test_what_workers_of_old_code_wrote_stays_while_they_are_there() -> None:
    live, row = [release("A", 0)], Routed("w", "old", at(1), is_of_old_code=True)

    assert switches(live, [row], may_go_back=True, has_old_workers=True) == []
    assert len(switches(live, [row], may_go_back=True)) == 1


def test_a_release_is_known_by_its_versions_types_and_queues_in_any_order() -> None:
    one, two = ("w", "1", ("a",), "q"), ("x", "1", (), "q")

    assert release_id([one, two]) == release_id([two, one])
    changed = [("w", "2", ("a",), "q"), ("w", "1", ("b",), "q"), ("w", "1", ("a",), "p")]
    assert len({release_id([each, two]) for each in (one, *changed)}) == 4
