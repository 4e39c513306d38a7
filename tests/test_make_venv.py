"""`make setup` takes the Python that is fastest here, and never fails where one would do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "make-venv.sh"
PLAIN = {"CONFIG_ARGS": "'--prefix=/p'", "PGO_PROF_GEN_FLAG": "-g", "PGO_PROF_USE_FLAG": "-u"}
CONFIGURED = {**PLAIN, "CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}
FLAGGED = {**PLAIN, "PY_CORE_CFLAGS": "-O3 -fprofile-use -fprofile-correction"}
DEBIAN = {**PLAIN, "PGO_PROF_USE_FLAG": ""}
CONFIGS = {"plain": PLAIN, "configured": CONFIGURED, "flagged": FLAGGED, "debian": DEBIAN}


class Machine:
    """Folders of Pythons, in the order of PATH; each is this one, saying that it is another."""

    def __init__(self, root: Path) -> None:
        self.root, self.folders = root, [root / "tools of the system"]
        self.folders[0].mkdir()
        for tool in ("sh", "rm", "mkdir"):
            found = shutil.which(tool)
            assert found
            (self.folders[0] / tool).symlink_to(found)

    def has(self, name: str, kind: str, *, makes_venvs: bool = True, minor: int = 12) -> Path:
        """A Python of that build in a folder of its own, behind all others."""
        python = self.root / f"a folder {len(self.folders)}" / name
        python.parent.mkdir()
        self.folders.append(python.parent)
        cleared = dict.fromkeys(("CFLAGS", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS"), "")
        (python.parent / "as_it_says.py").write_text(
            "import sys, sysconfig\n"
            f"sysconfig.get_config_vars().update({cleared | CONFIGS[kind]})\n"
            f"sys.version_info = (3, {minor}, 0)\n"
            "exec(sys.argv[1])\n",
            encoding="utf-8",
        )
        made = f'mkdir .venv && echo "{python}" > .venv/made_by'
        python.write_text(
            "#!/bin/sh\n"
            f'[ "$1" != -m ] || {{ {made if makes_venvs else "mkdir .venv; exit 1"}; exit; }}\n'
            f'exec "{sys.executable}" "{python.parent}/as_it_says.py" "$2"\n',
            encoding="utf-8",
        )
        python.chmod(0o755)
        return python

    def setup(self, *names: str) -> tuple[str, str]:
        """The Python that made .venv, or nothing, and what was said."""
        ended = subprocess.run(
            ["sh", SCRIPT, *names],
            cwd=self.root,
            env={"PATH": os.pathsep.join(map(str, self.folders))},
            capture_output=True,
            text=True,
            check=False,
        )
        made = self.root / ".venv" / "made_by"
        assert made.exists() == (ended.returncode == 0), ended.stderr
        assert made.exists() == (self.root / ".venv").exists(), "half a .venv is left"
        return made.read_text(encoding="utf-8").strip() if made.exists() else "", ended.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("kind", ["configured", "flagged", "debian"])
def test_one_built_with_optimisations_is_taken_from_behind_one_that_is_not(
    machine: Machine, kind: str
) -> None:
    machine.has("python3.11", "plain")
    fast = machine.has("python3.11", kind)

    assert machine.setup("python3.11", "python3") == (
        str(fast),
        f"creating .venv with {fast}: it was built with optimisations\n",
    )


def test_the_first_of_several_is_taken_in_the_order_of_names_and_of_the_path(
    machine: Machine,
) -> None:
    machine.has("python3.12", "configured")
    first = machine.has("python3.11", "debian")
    machine.has("python3.11", "configured")

    assert machine.setup("python3.11", "python3.12")[0] == str(first)


def test_the_only_python_will_do_whatever_its_build(machine: Machine) -> None:
    only = machine.has("python3", "plain")

    made_by, said = machine.setup("python3.11", "python3.12", "python3")

    assert made_by == str(only)
    assert said.startswith(f"creating .venv with {only}: none that was built with optimisations")


def test_one_that_cannot_make_a_venv_leaves_it_to_the_next(machine: Machine) -> None:
    broken = machine.has("python3.11", "debian", makes_venvs=False)
    plain = machine.has("python3.11", "plain")

    made_by, said = machine.setup("python3.11")

    assert made_by == str(plain)
    assert f"{broken} cannot make a .venv; on Debian: apt-get install python3-venv" in said


def test_nothing_is_made_by_an_older_python_or_by_none(machine: Machine) -> None:
    machine.has("python3", "debian", minor=10)

    for names in (["python3"], ["python3.11"]):
        made_by, said = machine.setup(*names)

        assert not made_by
        assert "Veltrix needs Python 3.11 or newer" in said


def test_a_python_that_is_named_by_its_path_is_taken_as_it_is(machine: Machine) -> None:
    # Make parts a list at spaces, so that this has none.
    named = machine.has("python3.11", "plain")
    machine.has("python3.11", "debian")
    link = machine.root / "mine"
    link.symlink_to(named)

    assert machine.setup(str(link))[0] == str(named)
