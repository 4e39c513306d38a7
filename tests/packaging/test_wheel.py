"""The wheel is whole: outside of a checkout it migrates a database and has all that pages need."""

import sys
from pathlib import Path

import pytest

from tests.packaging.installing import PIP, ROOT, done
from veltrix.store.schema import head


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    done([*PIP, "install", "--no-index", "--no-deps", "--target", folder, wheel])
    return folder


def test_it_installs_one_package_with_all_its_files_and_no_samples(installed: Path) -> None:
    here = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    package = installed / "veltrix"
    files = {"py.typed", "migrations/script.py.mako", "console/templates/base.html"}

    assert here == {"veltrix", "bin"}
    assert all((package / file).is_file() for file in files)
    for folder in ("console/templates", "console/static", "commands/flower_templates"):
        mine = {path.name for path in (ROOT / "app" / "veltrix" / folder).iterdir()}
        assert {path.name for path in (package / folder).iterdir()} == mine


def test_it_migrates_a_database_from_anywhere_beside_a_foreign_app(
    installed: Path, tmp_path: Path, empty_url: str
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (tmp_path / "alembic").mkdir()
    (tmp_path / "alembic" / "env.py").write_text("raise RuntimeError('not ours')\n")
    where = {"PYTHONPATH": str(installed), "VELTRIX_DATABASE_URL": empty_url}
    command: list[str | Path] = [sys.executable, "-m", "veltrix.cli", "db"]

    done([*command, "upgrade"], tmp_path, **where)

    assert head() in done([*command, "current"], tmp_path, **where)
    whose = "import veltrix; print(veltrix.__file__)"
    told = done([sys.executable, "-c", whose], tmp_path, **where)
    assert told.strip() == str(installed / "veltrix" / "__init__.py")
