"""What cannot be imported keeps the code before: an import elsewhere comes before a reload."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dev.test_sources import write
from tests.support.wait import until
from veltrix.dev.children import Leash
from veltrix.dev.probe import Probe
from veltrix.dev.run import _grace_s, _Reload
from veltrix.dev.sources import SourceFiles
from veltrix.settings.fields import Settings


class _Supervisor:
    def __init__(self) -> None:
        self.restarted: list[str] = []

    def restart(self, name: str) -> None:
        self.restarted.append(name)


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path / ".veltrix")
    leash.open()
    yield leash
    leash.close()


def test_a_mistake_at_import_is_told_once_and_the_worker_goes_on(
    tmp_path: Path, leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "shop_flows.py")
    env = {**os.environ, "VELTRIX_WORKFLOWS": "shop_flows"}
    said: list[tuple[str, str]] = []
    supervisor = _Supervisor()
    probe = Probe(leash, tmp_path / ".veltrix" / "probe.log", env)
    reload = _Reload(
        SourceFiles(tmp_path, 0.0),
        probe,
        supervisor,  # type: ignore[arg-type] # all that it asks of one
        10.0,
        lambda name, line: said.append((name, line)),
    )

    def told(count: int) -> bool:
        reload.look()
        return len(said) >= count

    write(file, "print('noise')\n\nx = nowhere\n")
    until(lambda: told(1), 30.0, "the mistake")
    mistake = "shop_flows.py:3: NameError: name 'nowhere' is not defined"
    assert said == [("worker", f"{mistake}; going on with the code before")]
    reload.look()
    write(file, "def f(:\n")
    until(lambda: told(2), 30.0, "the syntax error")
    assert said[1][1].endswith("; going on with the code before")
    assert not supervisor.restarted

    write(file, "x = 2\n")
    until(lambda: told(3), 30.0, "the reload")
    again = "shop_flows.py changed; starting again; steps in hand have 5 s"
    assert said[2:] == [("worker", again)]
    assert supervisor.restarted == ["worker"]


def test_a_grace_that_was_chosen_is_kept() -> None:
    assert _grace_s(Settings()) == 10.0
    assert _grace_s(Settings(grace_s=30.0)) == 30.0
    assert _grace_s(Settings(step_overrun_s=20.0)) == 30.0
