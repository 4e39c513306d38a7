"""A stranger's first minutes: six commands from an empty folder to the outcome of an event."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.packaging.installing import PIP, done
from tests.support.wait import until


class Stranger:
    """Somebody with an empty virtual environment in a folder of his own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, 0
        self._bin = folder / ".venv" / "bin"

    def run(self, *command: str | Path) -> str:
        self.commands += 1
        return done(self._found(command), self.folder, VELTRIX_FLOWER_PORT="0")

    def refused(self, *command: str) -> str:
        """What is said where the command ends with 2."""
        ended = subprocess.run(
            self._found(command), cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2, ended.stderr
        return ended.stderr

    @contextmanager
    def beside(self, *command: str) -> Iterator[Path]:
        """In another terminal, ended by Ctrl-C."""
        self.commands += 1
        output = self.folder / "output"
        ports = {f"VELTRIX_{kind}_PORT": "0" for kind in ("API", "RELAY", "WORKER", "FLOWER")}
        with output.open("wb") as stdout:
            process = subprocess.Popen(
                self._found(command),
                cwd=self.folder,
                env=os.environ | ports,
                stdout=stdout,
                stderr=subprocess.STDOUT,
            )
        try:
            yield output
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, output.read_text()
        finally:
            process.kill()
            process.wait()

    def _found(self, command: tuple[str | Path, ...]) -> list[str | Path]:
        return [self._bin / command[0], *command[1:]]


@pytest.fixture
def stranger(wheel: Path, tmp_path: Path) -> Stranger:
    """With the wheel installed beside an `app` of his own, and the libraries of the tests."""
    folder = tmp_path / "My Shop"
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "__init__.py").write_text("raise RuntimeError('not yours')\n")
    one = Stranger(folder)
    done([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"])
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / ".venv" / "bin" / "python"
    done([*PIP, "--python", python, "install", "--no-index", "--no-deps", wheel])
    one.commands = 2
    return one


def test_six_commands_lead_to_a_settled_run(
    stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    whose = "import veltrix; print(veltrix.__file__)"
    assert ".venv" in done([stranger.folder / ".venv/bin/python", "-c", whose], stranger.folder)

    told = stranger.run("veltrix", "init")
    assert "veltrix dev" in told
    with stranger.beside("veltrix", "dev") as output:
        until(lambda: "Ready." in output.read_text(), 180.0, "veltrix dev to be ready")
        stranger.run("veltrix", "send", "events.ndjson")

        def states() -> list[str]:
            runs = json.loads(stranger.run("veltrix", "runs", "--json"))
            stranger.commands = 6  # asked again and again: a person looks a little later
            return sorted(run["state"] for run in runs["items"])

        settled = ["failed", "succeeded"]
        until(lambda: states() == settled, 60.0, "both orders to be settled")
        took_s = time.monotonic() - began
        until(lambda: "CardDeclined" in output.read_text(), 10.0, "the line of the failed run")

    with capsys.disabled():
        sys.stdout.write(f"{stranger.commands} commands, {took_s:.0f} s to a settled run ")
    assert "2 passed" in stranger.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_init_keeps_what_is_there_and_writes_no_sample_beside_workflows(
    stranger: Stranger,
) -> None:
    (stranger.folder / "workflows").mkdir()
    (stranger.folder / "README.md").write_text("mine")
    (stranger.folder / "requirements.txt").write_text("flask  # not veltrix\n")

    told = stranger.run("veltrix", "init")

    assert "kept  README.md" in told
    assert (stranger.folder / "README.md").read_text() == "mine"
    assert "wrote Dockerfile" in told
    assert "requirements.txt does not ask for Veltrix: add the line  ./veltrix-" in told
    assert not (stranger.folder / "workflows.py").exists()
    assert not (stranger.folder / "events.ndjson").exists()
    assert "\nCOPY workflows/ workflows/\n" in (stranger.folder / "Dockerfile").read_text()
    compose = (stranger.folder / "docker-compose.override.yml").read_text()
    assert "my-shop" in compose
    assert "VELTRIX_WORKFLOWS: workflows" in compose


def test_a_project_asks_for_the_very_wheel_that_wrote_it(stranger: Stranger, wheel: Path) -> None:
    told = stranger.run("veltrix", "init", "Two Words/mail")

    folder = stranger.folder / "Two Words" / "mail"
    assert "cd 'Two Words/mail' && veltrix dev" in told
    assert (folder / wheel.name).read_bytes() == wheel.read_bytes()
    assert (folder / "requirements.txt").read_text() == f"./{wheel.name}\n"
    assert f"./{wheel.name}[embedded]\n" in (folder / "requirements-dev.txt").read_text()
    command = ("install", "--no-index", "--no-deps", "--dry-run", "-r", "requirements.txt")
    python = stranger.folder / ".venv" / "bin" / "python"
    done([*PIP, "--python", python, *command], folder)  # what the image does with it
    image = (folder / "Dockerfile").read_text()
    assert "COPY requirements.txt *.whl ./" in image
    assert "useradd --system --no-create-home --uid 10001 veltrix" in image, (
        "mail is a user already"
    )


def test_what_is_in_the_way_is_said_and_kept(stranger: Stranger) -> None:
    (stranger.folder / "taken").write_text("a file")
    (stranger.folder / "half").mkdir()
    (stranger.folder / "half" / "README.md").symlink_to("nowhere")

    assert "taken is a file; name a folder" in stranger.refused("veltrix", "init", "taken")
    assert "kept  README.md" in stranger.run("veltrix", "init", "half")
    assert (stranger.folder / "half" / "workflows.py").is_file()
