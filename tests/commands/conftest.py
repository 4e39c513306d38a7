"""Running `veltrix` in this process, as a terminal would: what it prints, and its exit code."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from veltrix.cli import run
from veltrix.settings.fields import PREFIX


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Veltrix = Callable[..., Ran]


@pytest.fixture
def unset_veltrix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Veltrix:
    """`unset_veltrix("runs", "--json")` in an empty folder, without any setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody answers a question

    def call(*arguments: str) -> Ran:
        capsys.readouterr()
        code = run(arguments)
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def veltrix(unset_veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Veltrix:
    """`veltrix("runs", "--json")` on this test's database."""
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", database_url)
    return unset_veltrix


def as_process(where: str, *arguments: str) -> "subprocess.Popen[str]":
    """`veltrix` with these arguments as a process of its own, to be sent signals.

    `where` is the URL of the database, or of an api.
    """
    name = "URL" if where.startswith("http") else "DATABASE_URL"
    env = {key: value for key, value in os.environ.items() if key != f"{PREFIX}DATABASE_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "veltrix.cli", *arguments],
        env=env | {f"{PREFIX}{name}": where},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
