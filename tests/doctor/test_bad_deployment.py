"""Deployment files that cannot be read, or have another form than anybody expects."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.doctor.deploying import SECRET, compose, ids, look
from tests.doctor.examined import write

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{after}: &{after} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, after in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
UNREADABLE: dict[str, tuple[str, str | bytes, str]] = {
    "no YAML": ("compose.yaml", f"services: [\n  {SECRET}: }}", "is not YAML (line 2)"),
    "an unknown alias": ("compose.yaml", f"services: *{SECRET}", "is not YAML (line 1)"),
    "a template": ("compose.yaml", "{{- if .Values.x }}\nkind: Pod", "helm template"),
    "no text": ("compose.yaml", b"services: \xff\xfe", "UnicodeDecodeError"),
    "too large": ("compose.yaml", "# " + "x" * 1_000_001, "is larger than 1,000,000 bytes"),
    "too deep": ("compose.yaml", "[" * 500_000, "nested too deeply"),
    "deep": ("compose.yaml", "[" * 5_000 + "]" * 5_000, "nested too deeply"),
    "something else": ("compose.yaml", "a: 1", "has no services of compose"),
    "nothing": ("compose.yaml", "", "has no services of compose"),
    "a bomb": ("compose.yaml", BOMB, "has no services of compose"),
    "a bomb of merges": ("compose.yaml", MERGES, "has no services of compose"),
    "an alias of itself": ("compose.yaml", "a: &a {b: *a, <<: *a}", "has no services of compose"),
    "no JSON": ("definitions.json", f'{{"queues": {SECRET}', "is not JSON (line 1)"),
    "other JSON": ("definitions.json", '{"a": 1}', "has no definitions of RabbitMQ"),
    "JSON that is too deep": ("definitions.json", "[" * 100_000, "nested too deeply"),
    "a conf that is no text": ("rabbitmq.conf", b"\xff\xfe", "UnicodeDecodeError"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_one_sentence(name: str, tmp_path: Path) -> None:
    file, text, told = UNREADABLE[name]
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    begun = time.monotonic()

    found = look(tmp_path / file)

    assert time.monotonic() - begun < 5
    assert not found.findings
    (reason,) = {one.reason for one in found.not_checked}
    assert told in reason
    assert SECRET not in reason
    assert "\n" not in reason


def test_what_can_be_read_is_examined_beside_what_cannot(tmp_path: Path) -> None:
    bad = compose("w: {image: a, command: celery worker, restart: always, stop_grace_period: 1s}")
    template = "{{ if x }}\nkind: Pod # rabbitmq"
    write(tmp_path, {"compose.yaml": bad, "templates/rabbitmq.yaml": template})

    found = look(tmp_path, tmp_path / "gone.yaml")

    assert ids(found) == ["W34"]
    (reason,) = {one.reason for one in found.not_checked}
    assert "rabbitmq.yaml is a template" in reason
    assert "gone.yaml is not there" in reason

    write(tmp_path, {f"templates/worker-{n}.yaml": template for n in range(20)})
    (reason,) = {one.reason for one in look(tmp_path).not_checked}

    assert "rabbitmq.yaml and 20 more are templates" in reason
    assert "worker-7" not in reason


ODD: Sequence[object] = (None, 1, "x", [], [None, 1, [], {}], {}, {"name": 1, "arguments": []})


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_definitions_of_another_form_are_not_a_failure(odd: object, tmp_path: Path) -> None:
    parts = ["vhosts", "exchanges", "queues", "bindings", "policies"]
    rows = odd if isinstance(odd, list) else [odd]
    write(tmp_path, {"definitions.json": json.dumps(dict.fromkeys(parts, rows))})
    write(tmp_path, {"rabbit.json": json.dumps({"users": [], **dict.fromkeys(parts, odd)})})

    assert "the rule failed" not in str(look(tmp_path).not_checked)


LONG = "9" * 5000  # digits that int() refuses


@pytest.mark.parametrize("key", ["image", "command", "environment", "volumes", "ports", "deploy"])
@pytest.mark.parametrize(
    "odd",
    [
        *("{}", "[]", "[[], {}, ~]", "~", "1", "{a: {b: [c]}}", "'${X}'"),
        *(f"{{replicas: {LONG}}}", f"['{LONG}-{LONG}:{LONG}-{LONG}']", f"'a:{LONG}.{LONG}'"),
    ],
)
def test_services_of_another_form_are_not_a_failure(key: str, odd: str, tmp_path: Path) -> None:
    service = {"image": "rabbitmq", "command": "flower", "ports": "[5555]", key: odd}
    text = ", ".join(f"{name}: {value}" for name, value in service.items())
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
        f"spec: {{containers: [{{image: postgres, {key}: {odd}, env: {odd}}}], volumes: {odd}}}\n"
    )
    conf = f"heartbeat = {odd}\ndisk_free_limit.absolute = {LONG}\nconsumer_timeout = {LONG}\n"
    write(tmp_path, {"compose.yaml": compose(f"a: {{{text}}}"), "pod.yaml": pod})
    write(tmp_path, {"rabbitmq.conf": conf})

    assert "the rule failed" not in str(look(tmp_path).not_checked)
