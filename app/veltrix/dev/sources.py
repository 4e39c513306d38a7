"""The Python files of whoever develops: which have changed, and whether they can be read."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

ENTRIES_MAX = 20_000  # of folders that are looked through for new files, which takes 50 ms
LIST_S = 2.0  # between two looks for new files; where one takes long, 20 times that
_LIST_SHARE = 20
_NOT_THEIRS = {"node_modules", "site-packages", "__pycache__", "build", "dist"}


class SourceFiles:
    """The files below a folder, but for hidden folders and what was installed."""

    def __init__(self, folder: Path, list_s: float = LIST_S) -> None:
        self._folder, self._list_s = folder, list_s
        self._list_at = 0.0
        self._unsure: set[Path] = set()
        self._known = dict(self._stamps(self._files()))

    def changed(self) -> list[Path]:
        """Those that were written, made or removed since the last look."""
        is_due = time.monotonic() >= self._list_at
        files = {*self._files(), *self._known} if is_due else set(self._known)
        now = dict(self._stamps(files))
        changed = [path for path in files if now.get(path) != self._known.get(path)]
        self._known = now
        self._unsure |= set(changed)
        return sorted(changed)

    def mistake(self) -> str | None:
        """`file:line: what` of one that Python cannot read, also if it changed before.

        None: all that have changed can be read.
        """
        for path in sorted(self._unsure):
            if (found := mistake_in(path)) is not None:
                return found
            self._unsure.discard(path)
        return None

    def _files(self) -> set[Path]:
        began, found, entries = time.monotonic(), set[Path](), 0
        for folder, folders, names in os.walk(self._folder):
            folders[:] = [one for one in folders if self._is_theirs(Path(folder) / one)]
            found |= {Path(folder) / name for name in names if name.endswith(".py")}
            entries += len(folders) + len(names)
            if entries >= ENTRIES_MAX:  # a home, or a folder of data: its first files are enough
                break
        took_s = time.monotonic() - began
        self._list_at = began + max(self._list_s, _LIST_SHARE * took_s * bool(self._list_s))
        return found

    def _is_theirs(self, folder: Path) -> bool:
        is_venv = (folder / "pyvenv.cfg").exists()
        return not (folder.name.startswith(".") or folder.name in _NOT_THEIRS or is_venv)

    def _stamps(self, files: set[Path]) -> Iterator[tuple[Path, int]]:
        for path in files:
            try:
                yield path, path.stat().st_mtime_ns
            except OSError:
                continue  # removed, or replaced at this moment


def mistake_in(path: Path) -> str | None:
    """`file:line: what`, where Python cannot read it."""
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{path}:{error.lineno}: {error.msg}"
    except (RecursionError, MemoryError):
        return f"{path}:1: nested too deep"
    except (OSError, ValueError):
        return None  # removed, or not text: importing it says what is wrong
    return None
