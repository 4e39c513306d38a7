"""`veltrix doctor` for this deployment, and the processes that refuse to start on what loses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.doctor.conftest import unaccepted
from tests.support.services import Broker, Services
from tests.support.wait import until
from veltrix.cli import run
from veltrix.dev.platform import Platform
from veltrix.dev.servers.ports import free_port
from veltrix.dev.servers.postgres import Postgres
from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.examine import Examination, examine
from veltrix.doctor.facts.platform_settings import PlatformSettings, settings_in_effect
from veltrix.doctor.facts.postgres import LiveDatabase
from veltrix.doctor.facts.workers import LiveWorkers
from veltrix.doctor.facts.workflow_code import WorkflowCode
from veltrix.doctor.platform import LiveReaders, readers_of
from veltrix.doctor.rules import platform_settings
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import SettingsError, load_settings
from veltrix.store.schema import upgrade

URL = "postgresql+psycopg://u:secret@127.0.0.1/x"
LOSING = f"{URL}?options=-c%20synchronous_commit%3Doff"
TRIPS: dict[str, tuple[dict[str, Any], str]] = {
    "D08": ({"database_url": LOSING}, "loss"),
    "B01": ({"broker_url": "amqp://u:secret@127.0.0.1/x"}, "blind"),
    "B02": ({"delivery_limit": 10}, "stall"),
    "W39": ({"broker_heartbeat_s": 300}, "stall"),
    "D16": ({"deploy_grace_s": 5}, "stall"),
    "P17": ({"prove": True}, "stall"),
}
Doctor = Callable[..., tuple[int, Any, str]]


def look(is_production: bool = True, **values: Any) -> Any:
    settings = Settings.model_validate(values)
    return examine(
        platform_settings.rules,
        {PlatformSettings: lambda: settings_in_effect(settings)},
        is_production=is_production,
    )


def test_the_defaults_have_no_fault() -> None:
    assert look(database_url=URL).findings == []
    assert look(is_production=False, broker_url="amqp://u:p@127.0.0.1/x").findings == []


@pytest.mark.parametrize("id_", TRIPS)
def test_each_rule_of_settings_sees_its_fault(id_: str) -> None:
    values, severity = TRIPS[id_]

    (one,) = look(**values).findings

    assert (one.id, one.severity.value) == (id_, severity)
    assert "secret" not in f"{one.found}{one.cure}{one.origin}"


@pytest.mark.parametrize(
    ("options", "is_seen"),
    [
        ("-c%20synchronous_commit%3Dlocal", True),
        ("-csynchronous_commit%3DOFF", True),
        ("--synchronous_commit%3Doff%20-c%20jit%3Doff", True),
        ("-c%20synchronous_commit%3Don", False),
        ("-c%20jit%3Doff", False),
    ],
)
def test_options_of_a_url_are_read_as_libpq_does(options: str, is_seen: bool) -> None:
    found = look(database_owner_url=f"{URL}?options={options}")

    assert (unaccepted(found) == {"D08"}) is is_seen


def test_what_is_accepted_is_read_and_mistakes_are_named() -> None:
    given = {"VELTRIX_DOCTOR_ACCEPTED": "D08=a copy; B10=one node is enough"}
    assert load_settings(given, env_file=None).doctor_accepted

    for wrong in ("D08", "D08=", "everything=fine", "D08=a; =b"):
        with pytest.raises(SettingsError, match="VELTRIX_DOCTOR_ACCEPTED has"):
            load_settings({"VELTRIX_DOCTOR_ACCEPTED": wrong}, env_file=None)


def begin(kind: str, folder: Path, **settings: str) -> "subprocess.Popen[str]":
    """A real process of ours; what it needs is away."""
    port = free_port()
    away = {
        "DATABASE_URL": f"postgresql://u:secret@127.0.0.1:{port}/x?options=-csynchronous_commit%3Doff",
        "BROKER_URL": f"amqp://u:secret@127.0.0.1:{port}/x",
        "LOG_FORMAT": "json",
        "RELAY_PORT": "0",
        "WORKFLOWS": "examples.none",
    }
    named = {f"{PREFIX}{name}": value for name, value in (away | settings).items()}
    env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1", **named}
    return subprocess.Popen(
        [sys.executable, "-m", "veltrix.cli", kind],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("kind", ["api", "relay", "worker"])
def test_a_process_does_not_start_on_a_setting_that_loses(tmp_path: Path, kind: str) -> None:
    with begin(kind, tmp_path) as child:
        try:
            told, _ = child.communicate(timeout=60)
        finally:
            child.kill()  # one that did start

    assert child.returncode == 2
    assert "veltrix: D08: a database URL asks for commits" in told
    assert "VELTRIX_DOCTOR_ACCEPTED=D08=" in told
    assert "secret" not in told


def test_what_is_accepted_is_said_at_each_start(tmp_path: Path) -> None:
    with begin("relay", tmp_path, DOCTOR_ACCEPTED="D08=it is a toy; B10=one node") as child:
        assert child.stdout is not None
        told = []
        try:
            for line in child.stdout:
                told.append(json.loads(line))
                if told[-1]["event"] == "health.listening":
                    break
        finally:
            child.kill()

    accepted = {one["id"]: one["reason"] for one in told if one["event"] == "finding.accepted"}
    assert accepted == {"D08": "it is a toy", "B10": "one node"}


@pytest.fixture
def doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Doctor:
    """`doctor("--live", DATABASE_URL=...)`: exit code, what JSON it printed, standard error."""

    def call(*arguments: str, **settings: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name, value in settings.items():
                patch.setenv(f"{PREFIX}{name}", value)
            code = run(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return call


def test_without_a_server_the_settings_are_examined(doctor: Doctor) -> None:
    code, found, _ = doctor()

    assert code == 0
    assert found["findings"] == []
    static = {PlatformSettings, WorkflowCode}
    assert found["held"] == sum(rule.reads in static for rule in all_rules())


def test_servers_that_are_away_are_not_checked_and_the_rest_is(doctor: Doctor) -> None:
    port = free_port()
    code, found, _ = doctor(
        "--live",
        DATABASE_URL=f"postgresql://u:secret@127.0.0.1:{port}/x",
        BROKER_URL=f"amqp://u:secret@127.0.0.1:{port}/x",
        DELIVERY_LIMIT="10",
    )

    assert code == 1
    assert [one["id"] for one in found["findings"]] == ["B02"]
    assert len(found["not_checked"]) > 30
    assert "secret" not in json.dumps(found)


def test_what_is_accepted_does_not_count(doctor: Doctor) -> None:
    code, found, _ = doctor(DELIVERY_LIMIT="10", DOCTOR_ACCEPTED="B02=a test of limits")

    assert code == 0
    assert [one["accepted"] for one in found["findings"]] == ["a test of limits"]


def test_an_id_that_no_rule_has_cannot_be_accepted(doctor: Doctor) -> None:
    code, _, told = doctor(DOCTOR_ACCEPTED="X99=why not")

    assert code == 2
    assert "X99" in told


def test_a_platform_as_dev_has_it_shows_what_one_node_implies(
    platform: Callable[..., Platform],
    own_postgres: Postgres,
    broker: Broker,
    services: Services,
    doctor: Doctor,
) -> None:
    upgrade(own_postgres.create_database("shop"))
    made = platform(postgres=own_postgres, database="shop")
    settings = {
        name.removeprefix(PREFIX): value
        for name, value in made.env.items()
        if name.startswith(PREFIX)
    }

    def is_settled() -> Any:
        code, found, _ = doctor("--live", **settings)
        return found if code == 0 else None

    found = until(is_settled, what="the topology of a new platform")
    assert found["not_checked"] == []
    assert {one["id"]: one["accepted"] for one in found["findings"]} == {
        "B09": "single node",
        "B10": "single node",
        "B18": "old broker",
    }

    code, found, _ = doctor("--live", "--profile", "production", **settings)
    assert code == 1
    assert {one["id"] for one in found["findings"]} >= {"B09", "B10", "B18"}
    assert {one["accepted"] for one in found["findings"]} == {None}


def ids_of(found: Examination) -> list[str]:
    assert found.not_checked == []
    return [one.id for one in found.findings]


def sessions_of_doctor(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "select pid from pg_stat_activity where application_name = 'veltrix-doctor'"
            " and datname = current_database()"
        )
        return [row[0] for row in found]


def test_who_looks_again_and_again_keeps_its_session(
    database_url: str, broker: Broker, engine: Engine
) -> None:
    settings = Settings.model_validate(
        {
            "database_url": database_url,
            "broker_url": broker.url,
            "management_url": broker.management_url,
        }
    )
    with LiveReaders(settings) as live:
        once = examine(all_rules(), live.readers)
        (first,) = sessions_of_doctor(engine)
        again = examine(all_rules(), live.readers)

        assert sessions_of_doctor(engine) == [first]
        assert ids_of(again) == ids_of(once)

        with engine.connect() as connection:  # as by a restart of the server
            connection.exec_driver_sql(f"select pg_terminate_backend({first}, 5000)")

        assert ids_of(examine(all_rules(), live.readers)) == ids_of(once)
        (other,) = sessions_of_doctor(engine)
        assert other != first
    until(lambda: sessions_of_doctor(engine) == [])

    assert examine(all_rules(), readers_of(settings, is_live=True)).not_checked == []
    until(lambda: sessions_of_doctor(engine) == [])


def test_a_kept_session_says_that_the_database_is_away_and_comes_back(
    own_postgres: Postgres,
) -> None:
    url = own_postgres.create_database("shop")
    upgrade(url)
    rules = [rule for rule in all_rules() if rule.reads in {LiveDatabase, LiveWorkers}]
    with LiveReaders(Settings.model_validate({"database_url": url})) as live:
        assert examine(rules, live.readers).not_checked == []
        own_postgres.stop()

        away = examine(rules, live.readers)
        assert len(away.not_checked) == len(rules)
        assert {one.reason.partition("(")[0] for one in away.not_checked} == {
            "the database cannot be asked "
        }

        own_postgres.start()
        assert examine(rules, live.readers).not_checked == []
