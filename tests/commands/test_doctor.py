"""`veltrix doctor`: what it prints, its exit codes, and what it makes of bad input."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from jsonschema import Draft202012Validator

from tests.commands.conftest import Veltrix
from tests.doctor.examined import APPS, SPECS, celery_rules, facts_of, held_against, write
from tests.support.wait import until
from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.celery_app import import_app
from veltrix.doctor.report.sarif import sarif
from veltrix.doctor.report.text import Style, lines_of

SECRET = "canary-3f9c"
TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
# What SARIF 2.1.0 requires of the parts that we write (OASIS sarif-v2.1.0, sections 3.13 to 3.35).
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "format": "uri"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name", "rules"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id"],
                                            "properties": {
                                                "id": {"type": "string", "minLength": 1},
                                                "shortDescription": TEXT,
                                                "fullDescription": TEXT,
                                                "help": TEXT,
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "required": ["ruleId", "message"],
                            "properties": {
                                "message": TEXT,
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "locations": {
                                    "type": "array",
                                    "items": {
                                        "required": ["physicalLocation"],
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "required": ["uri"],
                                                        "properties": {
                                                            "uri": {"pattern": r"^[^/\\][^\\ ]*$"}
                                                        },
                                                    },
                                                    "region": {
                                                        "properties": {
                                                            "startLine": {
                                                                "type": "integer",
                                                                "minimum": 1,
                                                            }
                                                        }
                                                    },
                                                },
                                            }
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def doctor(veltrix: Veltrix, name: str, *more: str) -> Any:
    return veltrix("doctor", "--celery-app", SPECS[name], "--folder", str(APPS / name), *more)


def test_it_says_the_worst_first_with_place_and_cure(unset_veltrix: Veltrix) -> None:
    ran = doctor(unset_veltrix, "django_style")

    assert ran.code == 1
    assert ran.out.index("loss ") < ran.out.index("stall ")
    assert "orders/views.py:12" in ran.out
    assert 'broker_transport_options = {"confirm_publish": True}' in ran.out
    assert ran.lines[-1].startswith("found: 9 loss, ")


def test_nothing_found_is_exit_code_0(unset_veltrix: Veltrix) -> None:
    ran = doctor(unset_veltrix, "clean")

    assert ran.code == 0
    assert ran.lines[-1].startswith("found: nothing; ")


def test_fail_on_says_what_is_too_bad(unset_veltrix: Veltrix) -> None:
    ran = doctor(unset_veltrix, "redis_visibility", "--fail-on", "loss")

    assert ran.code == 0
    assert "W42" in ran.out


def test_json_has_findings_and_what_was_not_checked(unset_veltrix: Veltrix) -> None:
    told = doctor(unset_veltrix, "not_importable", "--json").json

    assert {"id", "severity", "subject", "found", "cure"} <= told["findings"][0].keys()
    assert {"id", "subject", "reason"} <= told["not_checked"][0].keys()
    assert told["held"] > 0


def test_sarif_is_as_its_standard_says(unset_veltrix: Veltrix) -> None:
    told = doctor(unset_veltrix, "default_rabbitmq", "--sarif").json

    Draft202012Validator(SARIF).validate(told)
    ids = [rule["id"] for rule in told["runs"][0]["tool"]["driver"]["rules"]]
    assert len(ids) == len(set(ids))
    assert {one["ruleId"] for one in told["runs"][0]["results"]} <= set(ids)
    assert any("locations" in one for one in told["runs"][0]["results"])


def test_paths_of_sarif_begin_where_it_runs(unset_veltrix: Veltrix, tmp_path: Path) -> None:
    app = "from celery import Celery\napp = Celery('shop')\napp.conf.task_always_eager = True\n"
    flower = "services:\n  one: {image: mher/flower, ports: ['5555']}\n"
    write(tmp_path, {"my shop/shop.py": app, "my shop/compose.yaml": flower})

    told = unset_veltrix("doctor", "--celery-app", "shop", "--folder", "my shop", "--sarif").json

    places = {
        one["ruleId"]: one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for one in told["runs"][0]["results"]
    }
    assert (places["P17"], places["O06"]) == ("my%20shop/shop.py", "my%20shop/compose.yaml")
    # What is a default is in no file, and code hosts refuse what is nowhere.
    files = {"my%20shop/shop.py", "my%20shop/compose.yaml"}
    assert set(places.values()) == files | {"my%20shop"}


@pytest.mark.parametrize("name", ["default_rabbitmq", "django_style", "redis_visibility", "clean"])
def test_secrets_are_in_no_output(name: str) -> None:
    files = [path for path in (APPS / name).rglob("*") if path.suffix in {".py", ".yaml"}]
    assert any(SECRET in path.read_text(encoding="utf-8") for path in files)

    found = held_against(facts_of(name))

    told = [
        *lines_of(found, Style(has_colour=False), 100),
        msgspec.json.encode(found).decode(),
        json.dumps(sarif(found, celery_rules(), "1")),
    ]
    assert found.held
    assert SECRET not in "\n".join(told)


def test_secrets_of_options_and_errors_stay_where_they_are(
    unset_veltrix: Veltrix, tmp_path: Path
) -> None:
    write(
        tmp_path,
        {
            "settings.py": f"""
broker_url = "amqp://user:{SECRET}/@:x@host//?password={SECRET}"
broker_password = "{SECRET}"
redis_password = "{SECRET}"
broker_transport_options = {{"sentinel_kwargs": {{"password": "{SECRET}"}}}}
beat_schedule = {{"one": {{"task": "none", "kwargs": {{"api_key": "{SECRET}"}}}}}}
task_always_eager = True
""",
            "broken.py": f"""
from celery import Celery
app = Celery("broken", broker="amqp://user:{SECRET}@host//")
raise RuntimeError("amqp://user:{SECRET}@host// token={SECRET} is not there")
""",
        },
    )

    for form in ((), ("--json",), ("--sarif",)):
        config = unset_veltrix("doctor", "--celery-config", str(tmp_path / "settings.py"), *form)
        assert "P17" in config.out
        assert SECRET not in config.out + config.err
    broken = unset_veltrix("doctor", "--celery-app", "broken", "--folder", str(tmp_path))
    assert "RuntimeError" in broken.out
    assert SECRET not in broken.out + broken.err


@pytest.mark.parametrize(
    "text",
    [
        "task_always_eager = True",
        "CELERY_TASK_ALWAYS_EAGER = True\nCELERY_TASK_ACKS_LATE = True\nDATABASES = {}",
        "CELERY_ALWAYS_EAGER = True",
    ],
    ids=["new names", "Django's", "old names"],
)
def test_a_module_of_settings_is_examined(
    unset_veltrix: Veltrix, tmp_path: Path, text: str
) -> None:
    write(tmp_path, {"settings.py": text})

    ran = unset_veltrix("doctor", "--celery-config", str(tmp_path / "settings.py"), "--json")

    found = {one["id"]: one for one in ran.json["findings"]}
    assert "P17" in found
    assert ran.code == 1


def test_list_and_explain(unset_veltrix: Veltrix) -> None:
    rules = unset_veltrix("doctor", "--list", "--json").json
    table = unset_veltrix("doctor", "--list").out
    story = unset_veltrix("doctor", "--explain", "p18").out
    wrong = unset_veltrix("doctor", "--explain", "P99")

    assert len({rule["id"] for rule in rules}) >= 80
    assert all(rule["title"] and rule["why"] and rule["safe"] and rule["source"] for rule in rules)
    assert "W01" in table
    assert "Safe:" in story
    assert "Source:" in story
    assert wrong.code == 2
    assert "P01" in wrong.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("import os\nos._exit(3)", "ended the Python that imported it"),
        ("def (", "SyntaxError"),
        ("one = 1", "0 Celery applications"),
        (
            "import celery\none, two = celery.Celery('one'), celery.Celery('two')",
            "2 Celery applications; name one as MODULE:NAME",
        ),
    ],
    ids=["missing", "exit", "hard exit", "syntax", "no app", "two apps"],
)
def test_what_cannot_be_imported_is_one_sentence(
    unset_veltrix: Veltrix, tmp_path: Path, text: str, told: str
) -> None:
    write(tmp_path, {"theirs.py": text})

    ran = unset_veltrix("doctor", "--celery-app", "theirs", "--folder", str(tmp_path))

    assert told in " ".join((ran.out + ran.err).split())
    assert "Traceback" not in ran.out + ran.err
    assert ran.code == 2


def test_a_misspelt_name_is_not_another_application(unset_veltrix: Veltrix, tmp_path: Path) -> None:
    write(tmp_path, {"shop.py": "from celery import Celery\napp = Celery('shop')"})

    ran = unset_veltrix("doctor", "--celery-app", "shp", "--folder", str(tmp_path))

    assert ran.code == 2
    assert "No module named 'shp'" in " ".join(ran.out.split())


def test_what_is_printed_by_theirs_is_not_in_the_answer(
    unset_veltrix: Veltrix, tmp_path: Path
) -> None:
    theirs = "from celery import Celery\nprint('noise')\napp = Celery('noisy')\nprint('{}')"
    write(tmp_path, {"noisy.py": theirs})

    ran = unset_veltrix("doctor", "--celery-app", "noisy", "--folder", str(tmp_path), "--json")

    assert ran.json["findings"]
    assert "noise" not in ran.out


def test_what_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    theirs = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('child.txt', 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    write(tmp_path, {"hangs.py": theirs})
    begun = time.monotonic()

    with pytest.raises(Unread, match=r"not imported within 2 s"):
        import_app("hangs", tmp_path, timeout_s=2)

    assert time.monotonic() - begun < 10
    child = int((tmp_path / "child.txt").read_text(encoding="utf-8"))
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


def test_a_python_that_is_none_is_told(unset_veltrix: Veltrix, tmp_path: Path) -> None:
    ran = doctor(unset_veltrix, "clean", "--python", str(tmp_path / "python"), "--json")

    reasons = {one["reason"] for one in json.loads(ran.out)["not_checked"]}
    assert any("name another --python" in one for one in reasons)


def test_one_application_at_a_time(unset_veltrix: Veltrix) -> None:
    both = unset_veltrix("doctor", "--celery-app", "one", "--celery-config", "two.py")
    missing = unset_veltrix("doctor", "--celery-config", "two.py")

    assert (both.code, missing.code) == (2, 2)
    assert "not both" in both.err
    assert "name a module of settings" in " ".join(missing.out.split())
