"""The pages for users, and the blocks of code that stand in them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial" / "index.md"
USER_PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        DOCS / "changelog.md",
        DOCS / "index.md",
        DOCS / "console.md",
        *(DOCS / "tutorial").glob("*.md"),
        *(DOCS / "how-to").glob("*.md"),
        *(DOCS / "reference").glob("*.md"),
    ]
)
# `curl` fails where a server answers with an error, and ends its line.
_CURL = 'curl() { command curl -sS --fail-with-body "$@"; echo; }'
_END = "----- end of block"
_SHELL = f"set -euo pipefail\n{_CURL}\nwhile read -r file; do . $file; echo '{_END}'; done"
_BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block: the language it names, its text, and the line that it begins in."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that its first line names: `# shop.py`."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else None


def blocks_of(page: Path) -> list[Block]:
    """In their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    """As it is called from the repository's root."""
    return page.relative_to(ROOT).as_posix()


class Terminal:
    """A shell in which one block after the other is run: variables of one are there in the next."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "-c", _SHELL],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._block = folder / "block.sh"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.communicate()

    def run(self, text: str) -> str:
        """What it prints; fails if a command fails, or a server answers with an error."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._block.write_text(text)
        self._shell.stdin.write(f"{self._block}\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            if line.rstrip().endswith(_END):
                return printed + line.removesuffix(f"{_END}\n")
            printed += line
        raise AssertionError(f"{text}\nended the shell, which printed:\n{printed}")


def check_printed(wanted: str, printed: str) -> None:
    """Each wanted line is in what was printed, in this order; `…` stands for anything.

    How wide a column is makes no difference.
    """
    rest = printed
    for line in wanted.splitlines():
        parts = [re.escape(" ".join(part.split())) for part in line.split("…")]
        found = re.search(".*".join(parts).replace(r"\ ", r"\s+"), rest)
        assert found, f"the page has {line!r}, and what was printed:\n{printed}"
        rest = rest[found.end() :]
