"""Files of `key = value` lines: rabbitmq.conf, and postgresql.conf, which is written alike."""

import re

import msgspec

from veltrix.doctor.facts.deployment.lined import Lined

_LINE = re.compile(r"^\s*([A-Za-z_][\w.$-]*)\s*(?:=|\s)\s*('[^']*'|[^#]*)")


class ConfFile(msgspec.Struct, frozen=True):
    """A file of a server. Its values may be secrets: only those that a rule names are shown."""

    file: str
    values: dict[str, Lined]


class BrokerConfs(msgspec.Struct):
    """Every rabbitmq.conf. `troubles`: files that cannot be read."""

    files: list[ConfFile] = []
    troubles: list[str] = []


def values_of(text: str) -> dict[str, Lined]:
    """By key; of one that is given twice the last, as their readers take it."""
    found: dict[str, Lined] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = None if line.lstrip()[:1] in {"", "#"} else _LINE.match(line)
        if match:
            found[match[1]] = Lined(match[2].strip().strip("'"), number)
    return found
