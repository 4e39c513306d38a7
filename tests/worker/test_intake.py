"""A worker takes as much as its children keep up with, and nothing while none of them is free."""

from veltrix.worker.parent.intake import Intake

AFTER_S = 0.25


def wide(*queues: str, width_max: int = 64) -> Intake:
    return Intake(queues, width_max, AFTER_S)


def closed(*queues: str, free: int = 1) -> Intake:
    """One that was stuck until one second, when children are free again."""
    intake = wide(*queues)
    intake.note(0, 0.0)
    assert intake.is_stuck(AFTER_S)
    assert intake.close()
    intake.note(free, 1.0)
    return intake


def test_it_starts_wide_and_stays_so_while_children_end_their_lists() -> None:
    intake = wide("a", "b")
    for tenth in range(20):
        now = tenth / 10
        intake.note(0, now)
        assert not intake.is_stuck(now + 0.1)
        intake.note(1, now + 0.1)
        assert not intake.widen(1, now)

    assert intake.widths == {"a": 64, "b": 64}


def test_a_child_that_is_not_free_for_long_enough_is_what_it_is_closed_for() -> None:
    intake = wide("a")
    intake.note(1, 0.0)
    intake.note(0, 1.0)
    intake.note(0, 1.2)

    assert not intake.is_stuck(1.24)
    assert intake.is_stuck(1.25), "since the first time that none was free"
    assert intake.close()
    assert not intake.widths
    assert not intake.close(), "it was closed"
    assert not intake.widen(0, 9.0)


def test_it_opens_with_a_message_for_each_free_child() -> None:
    intake = closed("a", "b", free=2)

    assert intake.open(2, 1.0) == {"a": 2, "b": 2}


def test_of_many_queues_it_begins_with_a_few_by_turns_and_soon_has_all() -> None:
    names = [f"q{number}" for number in range(10)]
    intake = closed(*names)
    assert list(intake.open(1, 1.0)) == names[:4]
    assert len(intake.widen(1, 1.1)) == 4
    assert len(intake.widen(1, 1.2)) == 2
    assert set(intake.widths) == set(names)

    intake.close()
    assert next(iter(intake.open(1, 2.0))) == "q1", "the next is the first"


def test_a_flood_of_short_runs_keeps_no_queue_shut() -> None:
    intake = closed("a", "b", "c", "d", "e")
    intake.open(1, 1.0)
    for tenth in range(1, 5):
        intake.note(1, 1.0 + tenth / 10)  # a list has ended, and the next begun
        intake.note(0, 1.0 + tenth / 10)
        intake.widen(0, 1.0 + tenth / 10)

    assert "e" in intake.widths


def test_a_queue_that_gives_what_it_may_gives_double_while_children_keep_up() -> None:
    intake = closed("a", "b")
    intake.open(1, 1.0)
    found = []
    for tenth in range(1, 9):
        now = 1.0 + tenth / 10
        intake.note(0, now - 0.05)
        intake.note(1, now)
        for _ in range(intake.widths["a"]):
            intake.received("a")
        found.append(dict(intake.widen(1, now)))

    assert [one.get("a") for one in found] == [2, 4, 8, 16, 32, 64, None, None]
    assert intake.widths == {"a": 64, "b": 1}, "the other gave nothing"


def test_it_does_not_widen_while_no_list_has_ended() -> None:
    intake = closed("a")
    intake.open(1, 1.0)
    intake.received("a")
    intake.note(0, 1.0)

    assert not intake.widen(0, 1.1)
