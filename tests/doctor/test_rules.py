"""Every rule over a Celery application sees the fault, and does not see it in what is safe."""

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.doctor.examined import celery_rules, facts_of, held_against, write
from tests.doctor.tripping import OLD, TRIPPING
from tests.doctor.workflow_code import BAD
from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.examine import Unread, examine
from veltrix.doctor.facts.celery_app import CeleryApp, CeleryQueue, import_app, import_config
from veltrix.doctor.facts.workflow_code import WorkflowCode, read_workflows

ROOT = Path(__file__).resolve().parents[2]
# Seen on applications with an older Celery, as one would tell it: this machine has none.
ON_RECORDED = {"B19", "D03", "D15", "O07", "P10", "P23", "W17", "W18", "W30"}


@pytest.fixture(scope="module")
def tripped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[str, str]]]:
    """By application, the rules (id, title) that saw something."""
    seen: dict[str, set[tuple[str, str]]] = {}
    for name, files in TRIPPING.items():
        folder = write(tmp_path_factory.mktemp(name), files)
        app = import_app("application", folder)
        assert app.trouble is None
        seen[name] = {(one.id, one.title) for one in held_against(app).findings}
    for name in ("default_rabbitmq", "django_style", "chords", "redis_visibility"):
        seen[name] = {(one.id, one.title) for one in held_against(facts_of(name)).findings}
    seen["acks_late_alone"] = {
        (one.id, one.title) for one in held_against(facts_of("acks_late_alone")).findings
    }
    return seen


def old_app() -> CeleryApp:
    """The chords, on versions that this machine does not have."""
    app = facts_of("chords")
    config = {
        "worker_deduplicate_successful_tasks": True,
        "worker_send_task_events": True,
        "beat_schedule": {"one": {"task": "pipeline.report"}},
    }
    queue = CeleryQueue(name="celery", arguments={"x-queue-type": "quorum"})
    return msgspec.structs.replace(
        app, versions=dict(OLD), config=app.config | config, queues=[queue]
    )


def test_every_rule_sees_the_fault(tripped: dict[str, set[tuple[str, str]]]) -> None:
    seen = set().union(*tripped.values())
    recorded = {(one.id, one.title) for one in held_against(old_app()).findings}

    missed = {(rule.id, rule.title) for rule in celery_rules()} - seen

    assert {id_ for id_, _ in missed} <= ON_RECORDED
    assert missed <= recorded


def test_a_current_version_has_no_fault_of_an_old_one() -> None:
    app = old_app()
    new = {"celery": "5.7.0", "kombu": "5.7.0", "amqp": "5.4.2"}

    found = held_against(msgspec.structs.replace(app, versions=new))

    assert not [one for one in found.findings if one.subject == "versions"]


def test_rules_of_rabbitmq_say_nothing_of_redis(tmp_path: Path) -> None:
    files = {
        name: text.replace("amqp://localhost//", "redis://localhost/0")
        for name, text in TRIPPING["queues"].items()
    }

    found = held_against(import_app("application", write(tmp_path, files)))

    amqp_only = {"P01", "P02", "P03", "P04", "P06", "P07", "P13", "P20", "P21", "W03", "W05"}
    amqp_only |= {"W06", "W07", "W08", "W15", "W16", "W23", "W25", "W28", "W29", "W32", "W39"}
    seen = {one.id for one in found.findings}
    assert not {one for one in seen if one in amqp_only or one.startswith("B")}
    assert "W42" in seen


@pytest.mark.parametrize("rule", list(all_rules()), ids=lambda rule: f"{rule.id} {rule.title}")
def test_a_rule_tells_its_story(rule: Any) -> None:
    assert rule.title
    assert rule.title[-1] != "."
    assert rule.why.endswith(".")
    assert len(rule.why.split()) <= 45
    assert rule.safe.strip()
    assert rule.source.strip()


def settings_of(text: str) -> dict[str, Any] | None:
    """A safe example that is settings and nothing else."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            return None
        try:
            found[node.targets[0].id] = ast.literal_eval(node.value)
        except ValueError:
            return None
    return found


def test_safe_settings_are_silent(tmp_path: Path) -> None:
    # D16 is about names of tasks, of which a file of settings has none; W42 is for Redis.
    examples = [
        (rule, settings_of(rule.safe)) for rule in celery_rules() if rule.id not in {"D16", "W42"}
    ]
    given: dict[str, Any] = {}
    tried = []
    for rule, settings in examples:
        for key, value in (settings or {}).items():
            both = isinstance(value, dict) and key in given
            given[key] = {**given[key], **value} if both else value
        tried += [rule] if settings else []
    text = "".join(f"{key} = {value!r}\n" for key, value in given.items())
    write(tmp_path, {"celeryconfig.py": text})

    app = import_config(tmp_path / "celeryconfig.py", tmp_path)
    found = examine(tried, {CeleryApp: lambda: app})

    assert len(tried) >= 30
    # A queue of settings alone has no dead letters: those are arguments of a Queue.
    assert {one.id for one in found.findings} <= {"W05"}


def bad_workflows(folder: Path) -> WorkflowCode:
    write(folder, {"flows.py": BAD})
    return read_workflows(["flows"], folder)


def test_every_rule_of_workflow_code_sees_the_fault(tmp_path: Path) -> None:
    rules = [rule for rule in all_rules() if rule.reads is WorkflowCode]

    found = examine(rules, {WorkflowCode: lambda: bad_workflows(tmp_path)}).findings

    marked = sorted(
        (number, word)
        for number, line in enumerate(BAD.splitlines(), 1)
        for word in line.partition("# bad: ")[2].split()
    )
    assert sorted((one.line or 0, one.id) for one in found) == marked
    assert {one.id for one in found} == {rule.id for rule in rules}


@pytest.mark.parametrize("name", ["examples", "workflows"])
def test_our_own_workflows_have_no_fault(name: str) -> None:
    rules = [rule for rule in all_rules() if rule.reads is WorkflowCode]

    found = examine(rules, {WorkflowCode: lambda: read_workflows([name], ROOT)})

    assert not found.findings
    assert not found.not_checked


def test_workflows_of_an_installed_package_are_found_where_python_has_it(tmp_path: Path) -> None:
    found = read_workflows(["celery.contrib.rdb"], tmp_path)

    assert [Path(module.file).name for module in found.modules] == ["rdb.py"]


def test_workflows_that_are_nowhere_are_told(tmp_path: Path) -> None:
    with pytest.raises(Unread, match="nothing_of_this_name cannot be read"):
        read_workflows(["nothing_of_this_name"], tmp_path)
