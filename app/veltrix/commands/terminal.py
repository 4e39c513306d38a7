"""Between an operator's terminal and the platform: settings, author, database, what is printed."""

import getpass
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from veltrix.commands.mistakes import CommandRefused
from veltrix.settings.command_line import is_plain

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from veltrix.pipeline.relay.queue_rows import Unserved
    from veltrix.settings.fields import Settings

_CELL_CHARS_MIN = 12  # of a column that is cut
_NEWLINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"  # of a text that has to stay on one line
_OTHERS = re.compile(r"[^\n -~]")


def operator_settings() -> "Settings":
    """The settings of a command in a terminal: those of a `veltrix dev` in this folder count too.

    Logs are for processes: here only errors are shown.
    """
    from veltrix.settings.load import DEV_FILE, load_settings
    from veltrix.telemetry import configure_logs

    settings = load_settings(dev_file=DEV_FILE)
    configure_logs("console", "error")
    return settings


@contextmanager
def connected(*, as_owner: bool = False) -> "Iterator[tuple[Settings, Engine]]":
    """Settings and an engine on the configured database, closed at the end of the block.

    `as_owner`: as the role that owns its tables, if one is named.
    """
    from veltrix.bootstrap import engine_for
    from veltrix.settings import load

    settings = operator_settings()
    if as_owner:
        settings = load.as_owner(settings)
    engine = engine_for(settings, "veltrix-operator", connections_max=3, is_writer=False)
    try:
        yield settings, engine
    finally:
        engine.dispose()


def author_of(given: str | None) -> str:
    """The name that an action is kept under: as given, or the user of the operating system."""
    if given:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"


def ids_of(texts: Iterable[str]) -> list[str]:
    """These ids as the tables write them. Raises CommandRefused naming what is none."""
    from veltrix.operations.runs.action_rows import canonical

    ids = {text: canonical(text) for text in texts}
    if wrong := [text for text, id_ in ids.items() if id_ is None]:
        raise CommandRefused(
            f"not an id: {', '.join(map(repr, wrong))}; ids look like"
            " 01234567-89ab-cdef-0123-456789abcdef, and `veltrix runs` shows them"
        )
    return [id_ for id_ in ids.values() if id_ is not None]


def print_json(value: Any) -> None:
    """One JSON document on standard output; indented for a terminal."""
    text = msgspec.json.encode(value)
    _echo_json(msgspec.json.format(text) if sys.stdout.isatty() else text)


def print_json_line(value: Any) -> None:
    """The same on one line, whoever looks."""
    _echo_json(msgspec.json.encode(value))


def _echo_json(text: bytes) -> None:
    """As it is for a program; on a terminal, which obeys some characters, those are escaped.

    Outside of strings JSON has none of them, and within it may write any as an escape.
    """
    indented = text.decode()
    typer.echo(_OTHERS.sub(_escaped, indented) if sys.stdout.isatty() else indented)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], spare: Sequence[str] = ()
) -> None:
    """Rows under headings on standard output; on a terminal as wide as that, else whole.

    Where the terminal is too narrow the columns `spare` are left out, the first of them first.
    """
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    for number, line in enumerate(columns(headings, rows, width, spare)):
        typer.echo(typer.style(line, bold=True) if number == 0 and not is_plain() else line)


def columns(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    width: int | None = None,
    spare: Sequence[str] = (),
) -> list[str]:
    """Lines with aligned columns, as wide as the text is; or as `width`, where texts can be cut.

    The first column is never cut: it is what the next command is told; nor are numbers and times,
    which would be others then. Those of `spare` are left out, one after the other, before any text
    is cut.
    """
    values = [list(row) for row in rows]
    cells = [list(headings), *([one_line(cell) for cell in row] for row in values)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    texts = [i > 0 and any(isinstance(row[i], str) for row in values) for i in range(len(headings))]
    if width is not None:
        for name in spare:
            if sum(widths) + 2 * (len(widths) - 1) <= width:
                break
            at = cells[0].index(name)
            for line in cells:
                del line[at]
            del widths[at], texts[at]
        _narrow(widths, texts, width - 2 * (len(widths) - 1))
    return [
        "  ".join(
            _cut(cell, most).ljust(most) for cell, most in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def _narrow(widths: list[int], texts: list[bool], width: int) -> None:
    """Make the widest columns of texts narrower until all fit, if they can."""
    while (over := sum(widths) - width) > 0:
        able = [i for i, is_text in enumerate(texts) if is_text]
        widest = max(able, key=widths.__getitem__, default=0)
        if widest == 0 or widths[widest] <= _CELL_CHARS_MIN:
            return
        others = [widths[i] for i in able if i != widest]
        least = max(_CELL_CHARS_MIN, min(widths[widest] - 1, max(others, default=0)))
        widths[widest] = max(least, widths[widest] - over)


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}\N{HORIZONTAL ELLIPSIS}"


def print_error(line: str) -> None:
    """A line on standard error, in which nothing steers a terminal either."""
    typer.echo(indented(line), err=True)


def one_line(value: Any) -> str:
    """A value as text on one line; nothing in it steers a terminal, for much comes from others."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case int():
            return f"{value:,}"
    return _still(str(value).replace("\r\n", "\n").replace("\n", _NEWLINE))


def indented(text: str, indent: str = "") -> str:
    """A text with its own lines, each after the indent; nothing else in it steers a terminal."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(f"{indent}{_still(line.expandtabs())}".rstrip() for line in lines)


def _still(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_unserved(found: "Sequence[Unserved]") -> None:
    """Name the queues with open runs that no worker serves; nothing if there are none."""
    for one in found:
        print_error(f"veltrix: queue {one.queue!r} has {one.told}")
