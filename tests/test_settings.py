"""Wrong settings stop a process at its start, with a sentence and a cure for each mistake."""

import os
import re
from itertools import chain
from pathlib import Path

import prometheus_client
import pytest
from pydantic import ValidationError

from veltrix import telemetry
from veltrix.commands.processes import _solo_settings
from veltrix.docs import settings_page
from veltrix.settings.fields import Settings
from veltrix.settings.load import (
    SettingsError,
    effective,
    load_settings,
    masked,
    require,
    variables_of_authors,
)
from veltrix.settings.rules import bounds_of

URL = "postgresql+psycopg://veltrix:hunter2@db/veltrix"


def load(**variables: str) -> Settings:
    environ = {f"VELTRIX_{name}": value for name, value in variables.items()}
    if any(value and "_URL" in name for name, value in variables.items()):
        environ.setdefault("VELTRIX_PLAIN_HOSTS", "db,h")
    return load_settings(environ, env_file=None)


def mistakes(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    return caught.value.mistakes


def test_without_variables_every_default_holds_and_none_contradicts_another() -> None:
    assert load() == Settings()


def test_the_environment_is_what_is_passed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_API_PORT", "1234")

    assert load().api_port == 8080
    assert load_settings(env_file=None).api_port == 1234
    assert Settings().api_port == 8080


def test_settings_never_change() -> None:
    settings = load()

    with pytest.raises(ValidationError):
        settings.hold_s = 1.0  # type: ignore[misc]


def test_an_unknown_variable_is_an_error_with_a_suggestion() -> None:
    assert mistakes(HOLDS_S="3") == [
        "VELTRIX_HOLDS_S (in the environment) is not a setting; did you mean VELTRIX_HOLD_S?"
    ]
    assert "docs/settings.md" in mistakes(ZZZ="3")[0]


def test_variables_of_others_are_left_alone() -> None:
    others = {"PATH": "/bin", "VELTRIX_API_KEY": "of the command line"}
    assert load_settings(others, env_file=None) == Settings()


def test_the_workflows_of_prove_are_served_only_when_asked_for() -> None:
    assert not load_settings({}, env_file=None).prove
    assert load_settings({"VELTRIX_PROVE": "1"}, env_file=None).prove


def test_every_mistake_is_named_at_once() -> None:
    unknown, *found = mistakes(
        API_PORT="99999", HOLD_S="soon", LOG_LEVEL="loud", REFUSE_UNROUTED="x", A="b"
    )

    assert unknown.startswith("VELTRIX_A (in the environment) is not a setting; remove it")
    assert found == [
        "VELTRIX_API_PORT is '99999'; set it to a whole number from 0 to 65535.",
        "VELTRIX_REFUSE_UNROUTED is 'x'; set it to true or false.",
        "VELTRIX_HOLD_S is 'soon'; set it to a number of seconds from 1 to 600.",
        "VELTRIX_LOG_LEVEL is 'loud'; set it to one of debug, info, warning, error.",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e999", "8,0", " "])
def test_what_is_no_number_within_bounds_is_refused(value: str) -> None:
    assert mistakes(HOLD_S=value)[0].startswith(f"VELTRIX_HOLD_S is {value!r}; set it to a number")


def test_an_empty_value_is_no_value() -> None:
    assert load(HOLD_S="", RELEASE="", DATABASE_URL="") == Settings()


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({"HOLD_S": "20", "HOLD_S_MAX": "10"}, "VELTRIX_HOLD_S_MAX is 10.0 and VELTRIX_HOLD_S is"),
        (
            {"HOLD_S": "2", "QUEUE_BOUND_S": "2"},
            "VELTRIX_HOLD_S is 2.0 and VELTRIX_QUEUE_BOUND_S is 2.0",
        ),
        ({"HOLD_S": "8", "LIST_WORK_S": "8"}, "VELTRIX_HOLD_S is 8.0 and VELTRIX_LIST_WORK_S"),
        ({"HOLD_S": "8", "RELAY_SCAN_S": "9"}, "VELTRIX_HOLD_S is 8.0 and VELTRIX_RELAY_SCAN_S"),
        ({"GRACE_S": "6", "STEP_OVERRUN_S": "6"}, "VELTRIX_GRACE_S is 6.0 and VELTRIX_STEP_OVER"),
        (
            {"BATCH_BYTES_MAX": "100000"},
            "VELTRIX_BATCH_BYTES_MAX is 100000 and VELTRIX_EVENT_BYTES",
        ),
        ({"LIST_BYTES_MAX": "100000"}, "VELTRIX_LIST_BYTES_MAX is 100000 and VELTRIX_EVENT_BYTES"),
        (
            {"ACCEPT_WAITING_EVENTS_MAX": "1"},
            "VELTRIX_ACCEPT_WAITING_EVENTS_MAX is 1 and VELTRIX_B",
        ),
        ({"WORKER_NAME": "w1"}, "VELTRIX_WORKER_NAME is 'w1'; write it as name@host"),
        ({"METRICS_ADDRESSES": "10.0.0.7/16"}, "VELTRIX_METRICS_ADDRESSES cannot be used: 10.0"),
        ({"METRICS_ADDRESSES": "prometheus"}, "VELTRIX_METRICS_ADDRESSES cannot be used: 'prom"),
        ({"WORKFLOWS": "shop.py/x"}, "VELTRIX_WORKFLOWS names 'shop.py/x', which is no module"),
    ],
)
def test_a_combination_that_loses_or_stalls_is_refused(
    variables: dict[str, str], first: str
) -> None:
    found = mistakes(**variables)

    assert len(found) == 1
    assert found[0].startswith(first)


def test_a_secret_is_read_from_the_file_that_its_variable_names(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(URL + "\n")

    settings = load(DATABASE_URL_FILE=str(tmp_path / "url"))

    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == URL


def test_a_secret_given_twice_or_in_no_readable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    both = mistakes(DATABASE_URL=URL, DATABASE_URL_FILE=str(tmp_path / "empty"))
    absent = mistakes(BROKER_URL_FILE=str(tmp_path / "absent"))
    empty = mistakes(BROKER_URL_FILE=str(tmp_path / "empty"))

    assert both == [
        "VELTRIX_DATABASE_URL and VELTRIX_DATABASE_URL_FILE are both set; remove one of them."
    ]
    assert "cannot be read (No such file or directory)" in absent[0]
    assert "is empty" in empty[0]


def test_the_driver_of_a_database_url_is_ours_whoever_wrote_it() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        url = load(DATABASE_URL=f"{scheme}://u:p@db/x").database_url

        assert url is not None
        assert url.get_secret_value() == "postgresql+psycopg://u:p@db/x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@db/x"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql+asyncpg://u:hunter2@db/x"),
        ("BROKER_URL", "redis://:hunter2@h/0"),
        ("BROKER_URL", "amqp://u:hunter2@h:port/"),
        ("MANAGEMENT_URL", "h:15672/hunter2"),
    ],
)
def test_a_url_of_the_wrong_kind_is_refused_without_showing_it(name: str, value: str) -> None:
    found = mistakes(**{name: value})

    assert len(found) == 1
    assert found[0].startswith(f"VELTRIX_{name} is not a URL of the right kind")
    assert "hunter2" not in found[0]


def test_a_dotenv_file_is_read_and_the_environment_covers_it(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(
        f"# local\nVELTRIX_API_PORT=1\nVELTRIX_HOLD_S=9\nOTHER=x\n"
        f"VELTRIX_DATABASE_URL_FILE={env_file}\n"
    )

    environ = {"VELTRIX_API_PORT": "2", "VELTRIX_DATABASE_URL": URL}
    environ["VELTRIX_PLAIN_HOSTS"] = "db"

    settings = load_settings(environ, env_file=env_file)

    assert (settings.api_port, settings.hold_s) == (2, 9.0)
    env_file.write_text("VELTRIX_HOLDS_S=9\n")
    with pytest.raises(SettingsError, match=r"VELTRIX_HOLDS_S \(in .env\) is not a setting"):
        load_settings({}, env_file=env_file)


def test_effective_values_have_an_origin_and_show_no_password(tmp_path: Path) -> None:
    env_file, secret = tmp_path / ".env", tmp_path / "url"
    env_file.write_text("VELTRIX_HOLD_S=9\n")
    secret.write_text("amqp://u:hunter2@h/v")
    environ = {
        "VELTRIX_DATABASE_URL": URL,
        "VELTRIX_BROKER_URL_FILE": str(secret),
        "VELTRIX_API_PORT": "2",
        "VELTRIX_PLAIN_HOSTS": "db,h",
    }

    rows = effective(load_settings(environ, env_file=env_file), environ, env_file=env_file)

    shown = {name: (value, origin) for name, value, origin in rows}
    assert shown["VELTRIX_DATABASE_URL"] == (
        "postgresql+psycopg://veltrix:***@db/veltrix",
        "environment",
    )
    assert shown["VELTRIX_BROKER_URL"] == ("amqp://u:***@h/v", "file")
    assert shown["VELTRIX_API_PORT"] == ("2", "environment")
    assert shown["VELTRIX_HOLD_S"] == ("9.0", ".env")
    assert shown["VELTRIX_MANAGEMENT_URL"] == ("", "default")
    assert len(rows) == len(Settings.model_fields)
    assert "hunter2" not in repr(rows) + repr(load_settings(environ, env_file=env_file))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:p%40ss@h:5672/v", "amqp://u:***@h:5672/v"),
        ("amqp://h/v", "amqp://h/v"),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
        ("hunter2", "***"),
        ("http://[broken", "***"),
    ],
)
def test_a_masked_url_keeps_all_but_its_passwords(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_what_a_command_needs_is_asked_for_with_the_cure() -> None:
    settings = load(DATABASE_URL=URL)
    require(settings, "database_url")

    with pytest.raises(SettingsError) as caught:
        require(settings, "database_url", "broker_url", "admin_key_file")

    broker, key = caught.value.mistakes
    assert broker == (
        "VELTRIX_BROKER_URL is not set; set it to amqps://user:password@host/vhost (or"
        " VELTRIX_BROKER_URL_FILE to a file with it), or run `veltrix dev`, which brings its own."
    )
    assert key.startswith("VELTRIX_ADMIN_KEY_FILE is not set; set it, or run `veltrix dev`")


def test_every_number_has_bounds_and_every_bound_on_a_buffer_says_what_happens_when_full() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if field.annotation in {int, float}:
            assert bounds_of(field), name
        if name.endswith("_max") and settings_page.about(field, "unit") != "seconds":
            assert settings_page.about(field, "full"), name


def test_every_metric_that_a_setting_names_is_exported() -> None:
    assert telemetry.events_accepted is not None
    exported = {
        sample
        for metric in prometheus_client.REGISTRY.collect()
        for sample in (metric.name, f"{metric.name}_total" * (metric.type == "counter"))
    }

    named = {settings_page.about(field, "metric") for field in Settings.model_fields.values()}

    assert named - {""} <= exported
    assert named > {""}


def test_the_page_of_settings_has_each_once() -> None:
    text = settings_page.render()

    assert sorted(chain(*settings_page.groups().values())) == sorted(Settings.model_fields)
    for name in Settings.model_fields:
        assert text.count(f"\n| `VELTRIX_{name.upper()}` | ") >= 1


def test_what_a_file_has_beside_settings_is_for_the_steps(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PAYMENT_URL=http://pay\nVELTRIX_API_PORT=1\nEMPTY=\n")

    assert variables_of_authors(file) == {"PAYMENT_URL": "http://pay"}
    assert load_settings({}, env_file=file).api_port == 1
    assert variables_of_authors(tmp_path / "none") == {}


def code_outside(*names: str) -> str:
    """All of the package but the modules whose names begin so."""
    package = Path(__file__).parents[1] / "app" / "veltrix"
    files = [path for path in package.rglob("*.py") if not path.name.startswith(names)]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_every_setting_is_read_somewhere() -> None:
    """One of them did nothing, for as long as anybody could remember."""
    code = code_outside("settings")

    assert not [name for name in Settings.model_fields if not re.search(rf"\b{name}\b", code)]


def test_every_metric_is_set_somewhere() -> None:
    """One of them said 0 whatever was the matter, and two pages told operators to watch it."""
    code = code_outside("telemetry.py")
    metrics = {
        name
        for name, value in vars(telemetry).items()
        if isinstance(value, prometheus_client.metrics.MetricWrapperBase)
    }

    assert len(metrics) > 40
    assert not {name for name in metrics if not re.search(rf"\b{name}\b", code)}


def test_a_remark_beside_a_setting_is_no_title_of_the_page() -> None:
    titles = list(settings_page.groups())

    assert titles[0] == "Where things are"
    assert all(len(title) <= 30 for title in titles)
    assert all(settings_page.groups().values())


def test_solo_has_the_servers_of_a_dev_in_its_folder_and_the_authors_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("VELTRIX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PAYMENT_KEY", "of the terminal")
    monkeypatch.setenv("PAYMENT_URL", "")  # to be as before at the end
    monkeypatch.delenv("PAYMENT_URL")
    (tmp_path / ".veltrix").mkdir()
    (tmp_path / ".veltrix" / "env").write_text("export VELTRIX_BROKER_URL=amqp://a:b@127.0.0.1/\n")
    (tmp_path / ".env").write_text("PAYMENT_URL=http://pay\nPAYMENT_KEY=file\nPGHOST=far\n")

    settings = _solo_settings()

    assert settings.broker_url is not None
    assert settings.broker_url.get_secret_value() == "amqp://a:b@127.0.0.1/"
    assert os.environ["PAYMENT_URL"] == "http://pay"
    assert os.environ["PAYMENT_KEY"] == "of the terminal"
    assert os.environ.get("PGHOST") != "far"
