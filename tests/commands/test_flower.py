"""Flower shows our workers and workflows by their business names, and changes nothing."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Veltrix
from tests.support.wait import until
from veltrix.broker.celery_app import make_celery
from veltrix.dev.platform import Platform
from veltrix.settings.fields import Settings

Platforms = Callable[..., Platform]
DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]


def ask(url: str, *, login: str | None = None, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method)  # noqa: S310 - http on loopback
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        assert "Access-Control-Allow-Origin" not in response.headers
        body = response.read()
    return json.loads(body) if "json" in response.headers["Content-Type"] else body.decode()


def open_console(url: str) -> Any:
    return urllib.request.urlopen(url, timeout=10)  # noqa: S310 - http on loopback


def refused(url: str, *, login: str | None = None, method: str = "GET") -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(url, login=login, method=method)
    with caught.value as error:
        return error.code


def sent(veltrix: Veltrix, platform: Platform, path: Path, types: dict[str, Any]) -> None:
    lines = [
        {"specversion": "1.0", "id": type_, "source": "/s", "type": type_, "data": data}
        for type_, data in types.items()
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert veltrix("send", str(path), "--url", platform.api_url).code == 0


def test_tasks_and_workers_are_shown_by_name_with_state_runtime_and_run_ids(
    platform: Platforms, veltrix: Veltrix, settings: Settings, tmp_path: Path
) -> None:
    running = platform(
        children=2,
        workflows="tests.commands.shown_workflows",
        env={"PYTHONPATH": str(ROOT)},
    )
    console = f"{running.api_url}/console"
    running.start("flower-1", "flower", {"VELTRIX_CONSOLE_URL": console})
    running.wait_ready("flower-1")
    flower = running.processes["flower-1"].url
    until(lambda: "worker-1@localhost" in ask(f"{flower}/api/workers"), DEADLINE_S, "the worker")
    for name in ("Host", "X-Forwarded-For", "Via"):
        for path in ("/tasks", "/api/workers", "/nothing"):
            rebound = urllib.request.Request(f"{flower}{path}", headers={name: "evil.example"})  # noqa: S310
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(rebound, timeout=10)  # noqa: S310 - http on loopback
    assert open_console(f"{flower}/tasks").headers["X-Frame-Options"] == "DENY"
    gate = tmp_path / "gate"
    types = {"shown.slow": {"path": str(gate)}}
    types |= {"shown.good": {}, "shown.retried": {}, "shown.failed": {}}

    sent(veltrix, running, tmp_path / "events", types)
    states = {"good_order": "SUCCESS", "retried_order": "RETRY", "failed_order": "FAILURE"}
    tasks = until(lambda: tasks_in(flower, states), DEADLINE_S, f"tasks in {states}")

    runs = veltrix("runs", "--json").json["items"]
    for run in runs:
        if run["workflow"] in states:
            assert run["id"] in tasks[run["workflow"]]["args"]
    assert tasks["good_order"]["runtime"] > 0
    failed = tasks["failed_order"]
    (failed_run,) = (run["id"] for run in runs if run["workflow"] == "failed_order")
    page = ask(f"{flower}/task/{failed['uuid']}")
    assert f'href="{console}/runs/{failed_run}"' in page
    assert f'href="{console}/"' in ask(f"{flower}/tasks")
    assert "Task details" in page
    with open_console(f"{console}/deliveries/{failed['uuid']}") as led:
        assert led.url == f"{console}/runs/{failed_run}"
        assert f'/task/{failed["uuid"]}"' in led.read().decode()
    assert tasks["good_order"]["worker"] == "worker-1@localhost"
    inspect = make_celery(settings, [], []).control.inspect(timeout=2.0)
    active: Any = until(
        lambda: (inspect.active() or {}).get("worker-1@localhost"), what="active tasks"
    )
    slow = next(run["id"] for run in runs if run["workflow"] == "slow_order")
    assert [task["name"] for task in active] == ["slow_order"]
    assert slow in str(active[0]["args"])
    gate.touch()
    until(lambda: tasks_in(flower, {"slow_order": "SUCCESS"}), DEADLINE_S, "the slow one to end")


def tasks_in(flower: str, states: dict[str, str]) -> dict[str, Any]:
    """Flower's tasks by name once they are all in these states; else empty."""
    by_name = {task["name"]: task for task in ask(f"{flower}/api/tasks").values()}
    is_so = all(by_name.get(name, {}).get("state") == state for name, state in states.items())
    return by_name if is_so else {}


def test_it_is_read_only_and_with_a_password_open_to_its_owner_only(platform: Platforms) -> None:
    running = platform(apis=0, relays=0, workers=0)
    running.start("open", "flower")
    running.start("closed", "flower", {"VELTRIX_FLOWER_BASIC_AUTH": "ann:long word"})
    running.wait_ready("open", "closed")
    is_open, closed = (running.processes[name].url for name in ("open", "closed"))

    assert ask(f"{is_open}/api/workers") == {}
    assert refused(f"{is_open}/api/worker/shutdown/a@b", method="POST") == 403
    assert refused(f"{closed}/api/workers") == 401
    assert refused(f"{closed}/api/workers", login="ann:wrong") == 401
    assert ask(f"{closed}/api/workers", login="ann:long word") == {}
    assert ask(f"{closed}/healthcheck") == "OK"


@pytest.mark.slow
def test_it_runs_while_rabbitmq_is_away_and_ends_cleanly(platform: Platforms) -> None:
    running = platform(apis=0, relays=0, workers=0)
    running.start("flower", "flower", {"VELTRIX_BROKER_URL": "amqp://me:secret@127.0.0.1:1/v"})
    running.wait_ready("flower")

    running.terminate("flower")

    assert running.wait_ended("flower") == 0
    assert "secret" not in running.logs("flower")
    assert "Traceback" not in running.logs("flower")


def test_others_cannot_look_without_a_password(tmp_path: Path) -> None:
    environment = {
        "VELTRIX_BROKER_URL": "amqp://127.0.0.1",
        "VELTRIX_FLOWER_HOST": "0.0.0.0",  # noqa: S104 - what is refused
        "PYTHONPATH": str(Path.cwd()),
    }

    ended = subprocess.run(
        [sys.executable, "-m", "veltrix.cli", "flower"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert "VELTRIX_FLOWER_BASIC_AUTH" in ended.stderr
