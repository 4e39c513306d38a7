"""Import what the worker would, in a process of its own: before `veltrix dev` reloads it.

`python -m veltrix.dev.probe`: exit code 0, or 2 with a sentence: why the worker cannot start.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from veltrix.authoring.definitions import DefinitionError
from veltrix.bootstrap import workflows_of
from veltrix.dev.children import Child, Leash, tail
from veltrix.settings.load import SettingsError, load_settings

_LIMIT_S = 30.0  # an import that takes longer is left to the worker


class Probe:
    """One import under way at most; `leash` ends it with us. What it prints goes to `log`."""

    def __init__(self, leash: Leash, log: Path, env: Mapping[str, str]) -> None:
        self._leash, self._log, self._env = leash, log, env
        self._child: Child | None = None
        self._ends_at = 0.0

    def begin(self) -> None:
        """Import anew; one that is under way is about older files, and ended."""
        self.end()
        argv = (sys.executable, "-m", __name__)
        with self._log.open("wb") as output:
            self._child = self._leash.spawn(
                "probe", argv, env=self._env, cwd=Path.cwd(), output=output
            )
        self._ends_at = time.monotonic() + _LIMIT_S

    def ended(self) -> tuple[bool, str | None]:
        """Whether one has ended since the last call, and the mistake that it found."""
        if self._child is None or (self._child.is_running and time.monotonic() < self._ends_at):
            return False, None
        is_refused = self._child.popen.poll() == REFUSED
        self.end()
        return True, tail(self._log, 1) if is_refused else None

    def end(self) -> None:
        """Nothing of it is left."""
        if self._child is not None:
            self._child.kill()
            self._child = None


REFUSED = 2


def main() -> int:
    """The exit code. An error that is not the author's is the worker's to tell."""
    try:
        workflows_of(load_settings())
    except (DefinitionError, SettingsError) as error:
        sys.stdout.flush()
        sys.stderr.write("\n" + " ".join(str(error).split()) + "\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.path.insert(0, "")
    sys.exit(main())
