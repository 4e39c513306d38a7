"""docs/settings.md: every setting, from the settings themselves."""

import inspect
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from veltrix.settings.command_line import NOT_SETTINGS
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import ENV_FILE, SECRETS
from veltrix.settings.rules import ORDERS, allowed, bounds_of

_HEAD = f"""# Settings

*Written by `python -m veltrix.docs` from `app/veltrix/settings/fields.py`; a check fails if it is old.*

Every setting is a variable of the environment, read once at start and never changed afterwards.

- `{ENV_FILE}` in the working directory is read too (for development); the environment covers it. An empty
  value is no value. What else is in it `veltrix dev` gives to its processes, and so to steps.
- A secret can stand in a file: set `{PREFIX}X_FILE` to its path instead of `{PREFIX}X`. This holds for
  {{secrets}}.
- A variable that begins with `{PREFIX}` and is not listed here is an error, with a suggestion.
  ({{others}}, of commands that call an api, are the exceptions.)
- A process with wrong settings refuses to start, with one sentence for each mistake and its cure.
- `veltrix config` prints the effective values with their origin; passwords are masked.

The defaults lose nothing. *When full* says what happens at the limit; *shown by* is the metric that
shows it nearing, on `/metrics` of the process that has the limit.
"""

_FORMATS = """## Formats

Not settings: one format each, so that nothing has to be guessed.

| what | format |
|---|---|
| events over HTTP | CloudEvents 1.0.2 JSON or binary; the payload is kept byte for byte |
| payloads, outputs and outcomes in PostgreSQL | `json` (as sent), or `bytea` for content that is not JSON |
| messages in RabbitMQ | Celery protocol 2, `application/json`, UTF-8: run ids, and small events of theirs; nothing else is accepted |
| ids | UUIDv7, as text with dashes |
| times | RFC 3339, UTC |
| errors over HTTP | `application/problem+json` (RFC 9457) |
"""


_TITLE_OR_FIELD = re.compile(r"(?<=\n\n)    # (.+)\n(?=    \w+:)|^    (\w+):", re.MULTILINE).findall


def groups() -> dict[str, list[str]]:
    """The settings by group, in order.

    A comment of one line between a blank line and a field begins a group, in the class of Settings.
    """
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for title, name in _TITLE_OR_FIELD(inspect.getsource(Settings)):
        if title:
            current = found.setdefault(title, [])
        elif name in Settings.model_fields:
            current.append(name)
    return found


def render() -> str:
    """The text of docs/settings.md."""
    parts = [
        _HEAD.format(
            secrets=", ".join(f"`{PREFIX}{name.upper()}`" for name in sorted(SECRETS)),
            others=", ".join(f"`{name}`" for name in sorted(NOT_SETTINGS)),
        )
    ]
    for title, names in groups().items():
        rows = "\n".join(_row(name, Settings.model_fields[name]) for name in names)
        parts.append(
            f"## {title}\n\n| variable | what | default | unit | bounds | when full | shown by |\n"
            f"|---|---|---|---|---|---|---|\n{rows}\n"
        )
    parts += [_orders(), _FORMATS]
    return "\n".join(parts)


def about(field: FieldInfo, key: str) -> str:
    """What `veltrix.settings.fields` says of a field under `unit`, `full`, `metric` or `default_says`."""
    extra = field.json_schema_extra
    return str(extra.get(key) or "") if isinstance(extra, Mapping) else ""


def _row(name: str, field: FieldInfo) -> str:
    metric = about(field, "metric")
    cells = (
        f"`{PREFIX}{name.upper()}`",
        field.description or "",
        about(field, "default_says") or _default(field.default),
        about(field, "unit"),
        _bounds(field),
        about(field, "full"),
        f"`{metric}`" if metric else "",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"{value}"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _bounds(field: FieldInfo) -> str:
    limits = bounds_of(field)
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}"
    if limits.keys() == {"gt", "le"}:
        return f"above {limits['gt']}, to {limits['le']}"
    said = allowed(field)
    return "" if said == "text" else said


def _orders() -> str:
    rows = "\n".join(
        f"| `{PREFIX}{low.upper()}` | {'<=' if may_equal else '<'} | `{PREFIX}{high.upper()}`"
        f" | {otherwise} |"
        for low, high, may_equal, otherwise in ORDERS
    )
    return (
        "## Settings that depend on each other\n\nA process refuses to start unless all of these hold."
        f"\n\n| this | is | this | because otherwise |\n|---|---|---|---|\n{rows}\n"
    )
