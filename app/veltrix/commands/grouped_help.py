"""Help in groups: commands and options under the heading that they name (`rich_help_panel`).

Rich would draw the same in boxes, and take as long to be imported as the rest of a command's start.
"""

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from veltrix.settings.command_line import is_plain


class GroupedCommand(TyperCommand):
    """A command whose options stand under their headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, options, and options of each heading."""
        _write_parameters(self, ctx, formatter)


class GroupedGroup(TyperGroup):
    """A group whose commands stand under their headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options, then the commands."""
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands of each heading, in the order in which they were added."""
        shown = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        known = [(name, command) for name, command in shown if command and not command.hidden]
        limit = formatter.width - 6 - max((len(name) for name, _ in known), default=0)
        _write_sections(
            formatter,
            (
                (_panel(command) or "Commands", (name, command.get_short_help_str(limit)))
                for name, command in known
            ),
        )


def in_groups(app: typer.Typer) -> None:
    """Give every command and group of it this help."""
    if not isinstance(app.info.cls, type):  # none of its own, only typer's mark of a default
        app.info.cls = GroupedGroup
    for command in app.registered_commands:
        command.cls = GroupedCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            in_groups(group.typer_instance)


def _write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    found = []
    for parameter in command.get_params(ctx):
        row = parameter.get_help_record(ctx)
        if row is not None:
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            found.append((_panel(parameter) or usual, row))
    _write_sections(formatter, found)


def _write_sections(formatter: Any, rows: Iterable[tuple[str, tuple[str, str]]]) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for heading, row in rows:
        sections.setdefault(heading, []).append(row)
    for heading, section in sections.items():
        with formatter.section(heading if is_plain() else typer.style(heading, bold=True)):
            formatter.write_dl(section)


def _panel(of: Any) -> str | None:
    panel = getattr(of, "rich_help_panel", None)
    return panel if isinstance(panel, str) else None
