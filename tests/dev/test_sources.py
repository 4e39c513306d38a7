"""What changed is seen, what is not the author's is not looked at, a mistake is named."""

import os
from itertools import count
from pathlib import Path

from veltrix.dev.sources import SourceFiles

LATER_NS = count(1_000_000, 1_000_000)


def write(path: Path, text: str = "x = 1\n") -> Path:
    """Later than any before it, also on a disk whose clock is coarse."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    stamp = path.stat().st_mtime_ns + next(LATER_NS)
    os.utime(path, ns=(stamp, stamp))
    return path


def test_files_that_are_written_made_or_removed_are_told_once(tmp_path: Path) -> None:
    one, other = write(tmp_path / "shop" / "orders.py"), write(tmp_path / "pay.py")
    sources = SourceFiles(tmp_path, 0.0)
    assert sources.changed() == []

    write(one, "x = 2\n")
    assert sources.changed() == [one]
    assert sources.changed() == []

    made = write(tmp_path / "shop" / "made.py")
    other.unlink()
    assert sources.changed() == sorted([made, other])
    assert sources.changed() == []


def test_what_was_installed_or_is_hidden_or_no_python_is_not_looked_at(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    write(venv / "pyvenv.cfg")
    sources = SourceFiles(tmp_path, 0.0)
    write(venv / "lib" / "a.py")
    write(tmp_path / ".veltrix" / "b.py")
    write(tmp_path / "node_modules" / "c.py")
    write(tmp_path / "notes.md")

    assert sources.changed() == []


def test_what_python_cannot_read_is_named_until_it_can(tmp_path: Path) -> None:
    """Also when another file changes meanwhile: the worker would start and die of the first."""
    bad, good = write(tmp_path / "bad.py"), write(tmp_path / "good.py")
    sources = SourceFiles(tmp_path, 0.0)
    write(bad, "x = 1\ndef f(:\n")
    sources.changed()
    assert str(sources.mistake()).startswith(f"{bad}:2: ")

    write(good, "y = 2\n")
    assert sources.changed() == [good]
    assert str(sources.mistake()).startswith(f"{bad}:2: ")

    write(bad, "x = 2\n")
    sources.changed()
    assert sources.mistake() is None
    write(bad, "x = " + "+".join("a" * 20_000) + "\n")
    sources.changed()
    assert "nested too deep" in str(sources.mistake())
    bad.unlink()
    sources.changed()
    assert sources.mistake() is None
