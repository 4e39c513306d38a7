"""What is found in applications as people have them: exactly this."""

import pytest

from tests.doctor.examined import SPECS, celery_rules, facts_of, held_against
from veltrix.doctor.rule import Severity

# What Celery's defaults cost on RabbitMQ, whatever the tasks are.
_DEFAULTS = "B09 O01 P01 P02 P04 P14 P21 W05 W16 W37"
EXPECTED = {
    "default_rabbitmq": f"{_DEFAULTS} P05 P18 W01 W07 W20 W21 W23 W34 W35",
    "django_style": f"{_DEFAULTS} D12 D14 D16 P16 P22 W03 W12 W13 W14 W21",
    "acks_late_alone": f"{_DEFAULTS} W02 W14 W20",
    "chords": "B09 D01 D02 D04 D05 D12 D14 O01 P02 P06 P14 P21 W03 W05 W07 W12 W14 W15 W16 W21 W37",
    "redis_visibility": "O01 P14 W14 W24 W37 W42",
    "clean": "",
    "named_app": f"{_DEFAULTS} P22 W01 W20 W21 W34 W35",
    "not_importable": "D05 O01 P14 P17 P18 W02 W14 W22 W23 W37",
}


@pytest.mark.parametrize("name", SPECS)
def test_exactly_what_is_wrong_is_found(name: str) -> None:
    found = held_against(facts_of(name))

    assert {one.id for one in found.findings} == set(EXPECTED[name].split())


def test_the_default_application_loses_in_ten_ways() -> None:
    found = held_against(facts_of("default_rabbitmq"))

    lost = {one.id for one in found.findings if one.severity is Severity.LOSS}
    assert len(lost) >= 10


def test_in_the_clean_application_every_rule_was_checked_and_holds() -> None:
    found = held_against(facts_of("clean"))

    assert not found.findings
    assert not found.not_checked
    assert found.held == len(celery_rules())


def test_a_finding_says_file_and_line() -> None:
    found = held_against(facts_of("django_style"))

    places = {one.id: (one.file, one.line) for one in found.findings if one.file}
    assert places["P16"] == ("orders/views.py", 12)
    assert places["P22"] == ("settings.py", 12)
    assert places["W03"] == ("settings.py", 10)


def test_a_package_called_app_is_theirs() -> None:
    facts = facts_of("named_app")

    assert [task.name for task in facts.tasks] == ["app.celery.count"]
    assert not facts.is_read


def test_what_cannot_be_imported_is_read_and_what_it_does_not_tell_is_not_checked() -> None:
    facts = facts_of("not_importable")

    found = held_against(facts)

    assert facts.is_read
    unchecked = {one.id for one in found.not_checked}
    assert {"P01", "B09", "W05", "W20", "W17"} <= unchecked
    assert all("BILLING_BROKER_URL_CANARY" in one.reason for one in found.not_checked)


def test_reading_tells_what_importing_tells() -> None:
    from tests.doctor.examined import APPS
    from veltrix.doctor.facts.celery_read import read_app

    imported = facts_of("acks_late_alone")
    read = read_app("tasks", APPS / "acks_late_alone", "to compare")

    same = {"task_acks_late", "worker_prefetch_multiplier", "broker_url", "task_time_limit"}
    assert {key: read.value(key) for key in same} == {key: imported.value(key) for key in same}
    assert [one.name for one in read.tasks] == [one.name for one in imported.tasks]
