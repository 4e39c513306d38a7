"""`veltrix dev` runs everything in one terminal and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.processes import is_alive, sigkill
from tests.support.services import Services
from tests.support.wait import until
from veltrix.dev.servers.postgres import Postgres
from veltrix.settings.fields import Settings

SCRIPT = """
import sys
from pathlib import Path
from veltrix.dev.run import run_dev
from veltrix.settings.load import load_settings
sys.exit(run_dev(Path(sys.argv[1]), settings=load_settings(env_file=None)))
"""
ANY_PORT = {f"VELTRIX_{kind}_PORT": "0" for kind in ("API", "RELAY", "WORKER", "FLOWER")}


class Dev:
    """A running `dev` and what it printed."""

    def __init__(self, folder: Path, output: Path, owner: subprocess.Popen[bytes]) -> None:
        self.folder, self._output, self.owner = folder, output, owner

    @property
    def printed(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str, deadline_s: float = 60) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.owner.poll() is None, self.printed
            return re.search(pattern, self.printed)

        found_it = until(found, deadline_s, what=f"{pattern!r} in what dev prints")
        assert found_it is not None
        return found_it

    def family(self) -> dict[int, str]:
        children = psutil.Process(self.owner.pid).children(recursive=True)
        return {one.pid: " ".join(one.cmdline()) for one in children}

    def pid_of(self, kind: str) -> int | None:
        argv = f"-m veltrix.cli {kind}"
        direct = psutil.Process(self.owner.pid).children()
        named = (one.pid for one in direct if " ".join(one.cmdline()).endswith(argv))
        return next(named, None)


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[Dev]:
    folder.mkdir()
    output = folder / "output"
    with output.open("wb") as stdout:
        owner = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder / "dev")],
            env={**os.environ, **ANY_PORT, **variables},
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )
    with owner:
        try:
            yield Dev(folder / "dev", output, owner)
        finally:
            owner.kill()


def given(settings: Settings) -> dict[str, str]:
    names = ("database_url", "broker_url", "management_url")
    return {f"VELTRIX_{name.upper()}": getattr(settings, name).get_secret_value() for name in names}


def test_it_runs_on_the_embedded_default_and_leaves_nothing_when_killed(services: Services) -> None:
    with running(services.folder("dev")) as dev:
        api = dev.wait_for(r"API +(http://\S+)").group(1)
        dev.wait_for("Ready\\.")

        with urllib.request.urlopen(f"{api}/docs", timeout=10) as page:  # noqa: S310
            assert page.status == 200
        family = dev.family()
        assert sum("beam.smp" in line for line in family.values()) == 1
        assert (dev.folder / "env").stat().st_mode & 0o077 == 0

        sigkill(dev.owner.pid)

        until(lambda: not any(map(is_alive, family)), what="everything of the killed dev to end")


@pytest.mark.slow
def test_what_dies_is_started_again_and_ctrl_c_stops_everything_but_given_servers(
    services: Services, settings: Settings
) -> None:
    with running(services.folder("dev"), **given(settings)) as dev:
        dev.wait_for("Ready\\.")
        assert not any("beam.smp" in line or "postgres" in line for line in dev.family().values())
        killed = dev.pid_of("api")
        assert killed is not None

        sigkill(killed)

        dev.wait_for("api +\\| ended by SIGKILL; starting it again")
        until(lambda: dev.pid_of("api") not in {None, killed}, what="another api")
        family = dev.family()

        dev.owner.send_signal(signal.SIGINT)

        assert dev.owner.wait(timeout=40) == 0
        assert [line for pid, line in family.items() if is_alive(pid)] == []
        assert isinstance(services.postgres, Postgres)
        assert services.postgres.is_running
        assert services.rabbitmq.is_running


@pytest.mark.slow
def test_a_taken_port_is_replaced_by_a_free_one_and_said(
    services: Services, settings: Settings
) -> None:
    with running(services.folder("dev"), **given(settings)) as first:
        taken = first.wait_for(r"API +http://127\.0\.0\.1:(\d+)").group(1)
        first.wait_for("Ready\\.")

        with running(services.folder("dev"), **given(settings), VELTRIX_API_PORT=taken) as second:
            second.wait_for(f"api +\\| port {taken} is taken; using \\d+")


def test_a_folder_in_use_is_refused_in_one_sentence(services: Services) -> None:
    folder = services.folder("dev")
    with Postgres(folder / "dev" / "postgres", durable=False):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder / "dev")],
            env={**os.environ, "VELTRIX_BROKER_URL": "amqp://127.0.0.1:1"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert done.stdout.strip().endswith("stop it, or choose another folder")
    assert done.stderr == ""
