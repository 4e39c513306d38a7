"""The command as a whole: help, exit codes, errors as sentences, a quick start."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.commands.conftest import Veltrix
from veltrix.cli import cli, run


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands(typer.main.get_command(cli)))
KEEPS_RUNNING = {"api", "relay", "worker", "flower", "dev"}
# They print a document of their own kind, or nothing.
NOTHING_TO_PARSE = {
    ("topology", "definitions"),
    ("init",),
    *(("db", name) for name in ("upgrade", "downgrade", "grants")),
}


def test_the_verbs_of_the_design_are_there() -> None:
    verbs = {path[0] for path in COMMANDS}

    assert verbs >= {
        "dev", "demo", "api", "relay", "worker", "flower", "send", "runs", "run", "replay",
        "cancel", "balance", "config", "workflows", "events", "topology", "keys", "db",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_and_json_where_something_can_be_parsed(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*path, "--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert (
        f"Example: veltrix {' '.join(path)}" in text
        or f"veltrix {' '.join(path)}" in (text.partition("Example: ")[2])
    )
    assert path[0] in KEEPS_RUNNING or path in NOTHING_TO_PARSE or "--json" in text


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["runs", "--limit", "0"], ["runs", "--state", "odd"], ["run"], ["cancel", "x"]],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(unset_veltrix: Veltrix, arguments: list[str]) -> None:
    ran = unset_veltrix(*arguments)

    assert ran.code == 2
    assert ran.out == ""
    assert "Error" in ran.err


def test_every_mistake_in_the_settings_is_a_sentence(
    unset_veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELTRIX_HOLDS", "3")
    monkeypatch.setenv("VELTRIX_API_PORT", "eighty")

    ran = unset_veltrix("balance")

    assert ran.code == 2
    assert ran.out == ""
    assert [line.split()[1] for line in ran.err.splitlines()] == [
        "VELTRIX_HOLDS",
        "VELTRIX_API_PORT",
    ]


@pytest.mark.parametrize("command", ["api", "relay", "worker", "flower", "runs"])
def test_a_missing_address_is_named_with_its_cure(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}

    ended = subprocess.run(
        [sys.executable, "-m", "veltrix.cli", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert "_URL is not set; set it to " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_database_that_is_away_is_a_sentence_without_its_password(
    unset_veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELTRIX_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/none")

    ran = unset_veltrix("runs")

    assert ran.code == 2
    assert ran.err.startswith("veltrix: the database cannot be reached")
    assert "secret" not in ran.err
    assert "Traceback" not in ran.err


PLATFORM = {
    *("sqlalchemy", "psycopg", "alembic", "celery", "kombu", "fastapi", "starlette", "pydantic"),
    *("httpx", "structlog", "prometheus_client", "rich", "flower", "jsonschema"),
}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import veltrix", PLATFORM | {"asyncio", "ssl", "subprocess", "typer"}),
        ("import veltrix.cli; veltrix.cli.run(['--help'])", PLATFORM | {"asyncio", "ssl"}),
        ("import veltrix.client.events", PLATFORM - {"httpx"}),
        (
            "import veltrix.cli, veltrix.commands.backend.http, veltrix.operations.books.books",
            {"alembic", "celery", "kombu", "fastapi", "starlette", "flower"},
        ),
        (
            "import veltrix.cli; veltrix.cli.run(['balance'])",
            {"alembic", "celery", "kombu", "fastapi", "starlette", "flower", "httpx"},
        ),
    ],
    ids=["front door", "help", "client", "over http", "database"],
)
def test_what_nobody_asked_for_is_not_loaded(code: str, absent: set[str], tmp_path: Path) -> None:
    """Each takes a part of a second that somebody waits for at a prompt, or in every test."""
    told = f"{code}\nimport sys; print('loaded', *sorted({absent!r} & set(sys.modules)))"

    ended = subprocess.run(
        [sys.executable, "-c", told], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "loaded"


def test_help_has_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    groups = capsys.readouterr().out
    assert run(["runs", "--help"]) == 0
    options = capsys.readouterr().out

    headings = [line for line in groups.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [
        *("Options:", "Begin, send and try:", "Look:", "Act on runs and failures:"),
        *("Processes:", "Set up and keep:"),
    ]
    assert options.index("Options:") < options.index("--json") < options.index("Over HTTP:")
    assert options.index("Over HTTP:") < options.index("--url")


def test_an_error_that_nobody_expected_is_a_sentence_and_its_traceback_when_asked(
    unset_veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_name: str) -> str:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("importlib.metadata.version", broken)

    told, traced = unset_veltrix("--version"), unset_veltrix("--debug", "--version")

    assert told.code == traced.code == 3
    assert "ZeroDivisionError: by zero" in told.err
    assert "Traceback" not in told.err
    assert "Traceback" in traced.err
    assert "in broken" in traced.err


def test_the_version_is_that_of_the_project(unset_veltrix: Veltrix) -> None:
    file = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]

    assert unset_veltrix("--version").out == f"veltrix {project['version']}\n"


def test_workflows_of_the_folder_it_stands_in_are_found(tmp_path: Path, database_url: str) -> None:
    """Beside a package of the author's that is called `app`, as most are."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (tmp_path / "orders.py").write_text(
        "from veltrix import Event, workflow\n\n\n"
        "@workflow(on='shop.order.placed')\n"
        "async def fulfil(event: Event) -> None:\n"
        "    pass\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    ended = subprocess.run(
        [Path(sys.executable).with_name("veltrix"), "workflows", "register"],
        cwd=tmp_path,
        env=environment | {"VELTRIX_WORKFLOWS": "orders", "VELTRIX_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "fulfil" in ended.stdout
