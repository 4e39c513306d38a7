"""Command lines of Celery in what deploys an application: compose, Procfile, units, scripts."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

KINDS = {"worker", "beat", "flower", "purge", "multi", "inspect", "control", "events"}
FILE_BYTES_MAX = 200_000
FILES_MAX = 5_000
_DEPLOYS = re.compile(
    r"(^Procfile|^Dockerfile|^Makefile$|\.(ya?ml|service|conf|ini|sh|cfg)$)", re.IGNORECASE
)
# Environments, other people's packages and what is made from sources.
SKIPPED = {
    "node_modules", "site-packages", "venv", "env", "__pycache__", "build", "dist", "docs",
}  # fmt: skip
_ENDS = re.compile(r"(?:&&|\|\||;|\||>)")
# Of a list: not the comma in -Q a,b.
_PUNCTUATION = re.compile(r"[\"'\[\]]|,(?=[\s\"'])")
_FLOWER = re.compile(r"\bFLOWER_([A-Z_]+)")
_COMMENT = re.compile(r"\s#")
_ITEM = re.compile(r"^\s*-\s+['\"]?([^\s'\"]+)['\"]?\s*$")


class CeleryCommand(msgspec.Struct, frozen=True, kw_only=True):
    """`celery worker ...` in a file. `arguments` may have secrets and are never printed whole.

    `flower` has names of options that the file gives to Flower as FLOWER_ variables.
    """

    kind: str
    arguments: list[str]
    file: str
    line: int
    flower: frozenset[str] = frozenset()

    def has(self, *names: str) -> bool:
        """One of these options is on it: `--pool`, `-P`."""
        return self.option(*names) is not None or any(
            one.lstrip("-").replace("-", "_") in self.flower for one in names
        )

    def option(self, *names: str) -> str | None:
        """The value of an option, empty for one without a value, None where it is not given."""
        for index, argument in enumerate(self.arguments):
            name, is_joined, value = argument.partition("=")
            if name in names:
                following = self.arguments[index + 1 : index + 2]
                if is_joined:
                    return value
                return following[0] if following and following[0][:1] != "-" else ""
            for short in names:
                is_short = len(short) == 2 and short[1] != "-"
                if is_short and argument.startswith(short) and len(argument) > 2:
                    return argument[2:].removeprefix("=")
        return None


def read_commands(folder: Path) -> list[CeleryCommand]:
    """Every one in the files of a folder that deploy something, in the order of their paths."""
    found: list[CeleryCommand] = []
    for path in files_of(folder, lambda name: _DEPLOYS.search(name) is not None):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "celery" in text or "flower" in text:
            shown = str(path.relative_to(folder))
            found += (command for command in _commands(text, shown))
    return found


def files_of(
    folder: Path, is_wanted: Callable[[str], bool], bytes_max: int = FILE_BYTES_MAX
) -> Iterator[Path]:
    """Files of a folder and below, without environments and hidden folders; a bounded number."""
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            one
            for one in folders
            if one[0] != "."
            and one not in SKIPPED
            and not (Path(place, one, "pyvenv.cfg")).exists()
        )
        for name in sorted(names):
            path = Path(place, name)
            if not is_wanted(name) or path.is_symlink():
                continue
            count += 1
            if count > FILES_MAX:
                return
            if path.is_file() and path.stat().st_size <= bytes_max:
                yield path


def _commands(text: str, file: str) -> Iterator[CeleryCommand]:
    flower = frozenset(one.lower() for one in _FLOWER.findall(text))
    for line, words in _lines(text):
        for piece in _ENDS.split(_COMMENT.split(words)[0]):
            tokens = piece.split()
            names = [token.rpartition("/")[2] for token in tokens]
            if "celery" not in names:
                continue
            rest = tokens[names.index("celery") + 1 :]
            kind = next((one for one in rest if one in KINDS), None)
            if kind is not None:
                yield CeleryCommand(kind=kind, arguments=rest, file=file, line=line, flower=flower)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Commands, one a line: continued lines and lists of YAML are put together."""
    begun, words = 0, ""
    for number, raw in enumerate(text.splitlines(), 1):
        if raw.lstrip().startswith("#"):
            continue
        item = _ITEM.match(raw)
        if item and (not words or words.endswith("\0")):
            begun = begun if words else number
            words = f"{words.rstrip(chr(0))} {item[1]}\0"
            continue
        if words.endswith("\0"):
            yield begun, words.rstrip("\0")
            words = ""
        begun = begun if words else number
        words += " " + _PUNCTUATION.sub(" ", raw).rstrip()
        if words.endswith("\\"):
            words = words[:-1]
            continue
        yield begun, words
        words = ""
    if words:
        yield begun, words.rstrip("\0")
