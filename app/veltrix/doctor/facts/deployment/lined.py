"""YAML as text with the line of each value. Nothing in it is made an object, or looked up."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from veltrix.doctor.examine import Unread

if TYPE_CHECKING:
    import yaml

UNKNOWN = "?"  # what only the environment of the deployment has
_VARIABLE = re.compile(r"\$\{\w+(?::?(-)([^{}$]*)|[^{}$]*)\}|\$[A-Za-z_]\w*|\{\{.*?\}\}")
_DEEPEST_DEFAULT = 5


class Unrendered(Unread):
    """The file is a template, and no YAML."""

    def __init__(self, *files: str) -> None:
        told, verb = f"{files[0]} is a template", "it is"
        if len(files) > 1:
            told, verb = f"{files[0]} and {len(files) - 1} more are templates", "they are"
        super().__init__(
            f"{told} and no YAML before {verb} rendered; give --files what `helm template` prints"
        )
        self.file = files[0]


class Lined(msgspec.Struct, frozen=True):
    """A value and its line: text, a list, a mapping, or None. Its text may be a secret."""

    value: str | list["Lined"] | dict[str, "Lined"] | None
    line: int

    def at(self, *keys: str) -> "Lined":
        """What is below these keys; None where it is not there."""
        found = self
        for key in keys:
            found = found.keyed.get(key) or Lined(None, found.line)
        return found

    @property
    def keyed(self) -> dict[str, "Lined"]:
        """Of a mapping; else empty."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def rows(self) -> list["Lined"]:
        """Of a list; else empty."""
        return self.value if isinstance(self.value, list) else []

    @property
    def text(self) -> str | None:
        """Of a text whose whole value the file says, by the defaults of its variables."""
        known = self.partly
        return None if known is None or UNKNOWN in known else known

    @property
    def partly(self) -> str | None:
        """A text, with UNKNOWN for what the file does not say."""
        return filled(self.value) if isinstance(self.value, str) else None

    @property
    def number(self) -> int | None:
        """Of a text that is a whole number, and not of absurdly many digits."""
        text = self.text or ""
        return int(text) if re.fullmatch(r"\d{1,18}", text) else None

    @property
    def is_false(self) -> bool:
        """It is there, and says no."""
        return (self.text or "").lower() in {"false", "no", "off"}


def filled(text: str) -> str:
    """`${NAME:-default}` is its default; other variables and templates are UNKNOWN."""
    text = text.replace("$$", "\0")
    for _ in range(_DEEPEST_DEFAULT):
        changed = _VARIABLE.sub(lambda one: one[2] if one[1] else UNKNOWN, text)
        if changed == text:
            break
        text = changed
    return text.replace("\0", "$")


def documents(text: str, file: str) -> Iterator[Lined]:
    """Each document of a YAML file. Raises Unread, without a word of what is in it."""
    import yaml  # not at the start: only who examines files needs it

    too_deep = f"{file} is nested too deeply, or in itself; it is not read"
    # The one in C is as safe, several times as fast, and not in every build.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for node in yaml.compose_all(text, Loader=loader):
            yield _Reading().read(node)
    except yaml.YAMLError as error:
        if "nesting depth" in str(getattr(error, "problem", "")):
            raise Unread(too_deep) from None
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        if "{{" in text:
            raise Unrendered(file) from None
        raise Unread(f"{file} is not YAML{where}; mend it") from None
    except RecursionError:
        raise Unread(too_deep) from None


class _Reading:
    """Each node is read once, however many aliases it has: none grows beyond its file."""

    def __init__(self) -> None:
        self._read: dict[int, Any] = {}

    def read(self, node: "yaml.Node") -> Lined:
        import yaml

        key = id(node)
        if key not in self._read:
            self._read[key] = None  # an alias within itself
            if isinstance(node, yaml.MappingNode):
                self._read[key] = self._mapping(node)
            elif isinstance(node, yaml.SequenceNode):
                self._read[key] = [self.read(one) for one in node.value]
            elif node.tag != "tag:yaml.org,2002:null":
                self._read[key] = node.value
        return Lined(self._read[key], node.start_mark.line + 1)

    def _mapping(self, node: "yaml.MappingNode") -> dict[str, Lined]:
        own: dict[str, Lined] = {}
        merged: dict[str, Lined] = {}
        for name, value in node.value:
            read = self.read(value)
            if name.value == "<<":
                for one in read.rows or [read]:  # the first of several wins
                    merged = one.keyed | merged
            elif isinstance(name.value, str):
                own[name.value] = Lined(read.value, name.start_mark.line + 1)
        return merged | own
