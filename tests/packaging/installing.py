"""Commands of somebody who installs the product."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIP: tuple[str, ...] = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


def done(command: Sequence[str | Path], cwd: Path | None = None, **environment: str) -> str:
    """What it printed; it has to end well."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
