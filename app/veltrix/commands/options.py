"""Options that several commands share, and the values people write for them."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.mistakes import CommandRefused
from veltrix.domain.text import moment_of
from veltrix.operations.replays.rules import REASON_CHARS_MAX

if TYPE_CHECKING:
    from veltrix.operations.runs.query import RunQuery

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _reason(text: str) -> str:
    """As over HTTP: a few words, not none and not a book."""
    if not text.strip():
        raise typer.BadParameter(
            "it is empty: say why in a few words, which are kept with the action"
        )
    return _short(text)


def _short(text: str) -> str:
    if len(text) > REASON_CHARS_MAX:
        raise typer.BadParameter(
            f"it has {len(text):,} characters, and {REASON_CHARS_MAX:,} are kept: shorten it"
        )
    return text


Reason = Annotated[
    str, typer.Option(help="Why; kept with the action.", show_default=False, callback=_reason)
]
Why = Annotated[str, typer.Option("--reason", help="Why; kept in the audit.", callback=_short)]
Author = Annotated[
    str | None, typer.Option(help="Who does it, kept with the action; without it the user here.")
]
Limit = Annotated[int, typer.Option(help="Most to show.", min=1, max=1_000)]
Since = Annotated[
    str | None, typer.Option(help="Accepted at or after: RFC 3339, or ago: 30s 15m 2h 7d.")
]
Until = Annotated[str | None, typer.Option(help="Accepted before, written like --since.")]
After = Annotated[str | None, typer.Option(help="Go on from where an earlier page ended.")]
OVER_HTTP = "Over HTTP"
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="VELTRIX_API_KEY_FILE",
        help="File with the API key; or VELTRIX_API_KEY has it.",
        rich_help_panel=OVER_HTTP,
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        envvar="VELTRIX_API_CA_FILE",
        help="PEM file with the CAs that the api's certificate is checked by.  [default: the"
        " system's]",
        rich_help_panel=OVER_HTTP,
    ),
]

_SPAN = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def time_of(
    text: str | None, now: Callable[[], datetime], option: str = "--since"
) -> datetime | None:
    """The moment that a person wrote; None stays None. A time without a zone is UTC.

    `now` is asked for what is written as so long ago.

    Raises a usage error (exit code 2) for what is neither a time nor an age.
    """
    return None if text is None else _moment(text, now, option, -1, "how long ago")


def end_of(text: str | None, now: Callable[[], datetime], option: str) -> datetime | None:
    """As `time_of`, of a moment to come: what is written as 90d is that long from now."""
    return None if text is None else _moment(text, now, option, 1, "in how long")


def _moment(text: str, now: Callable[[], datetime], option: str, sign: int, words: str) -> datetime:
    try:
        if span := _SPAN.fullmatch(text):
            return now() + sign * timedelta(**{_UNITS[span[2]]: int(span[1])})
        return moment_of(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-01-31T12:00:00Z, or {words}: 30s 15m 2h 7d",
            param_hint=option,
        ) from None


def query_of(
    now: Callable[[], datetime],
    *,
    run_ids: Sequence[str] | None = None,
    event: str | None = None,
    since: str | None = None,
    until: str | None = None,
    **named: Any,
) -> "RunQuery":
    """Which runs the options ask for; an option that is not given asks for nothing.

    Raises a usage error for a time that is none, CommandRefused for an id.
    """
    from veltrix.commands.terminal import ids_of
    from veltrix.operations.runs.query import RunQuery

    return RunQuery(
        ids=tuple(sorted(set(ids_of(run_ids)))) if run_ids else None,
        event=ids_of([event])[0] if event else None,
        since=time_of(since, now),
        until=time_of(until, now, "--until"),
        **named,
    )


def key_of(file: Path | None) -> str | None:
    """The API key in that file, or in VELTRIX_API_KEY, or None. Raises CommandRefused.

    Never on the command line: others see it there, and shells remember it.
    """
    from veltrix.settings.command_line import api_key

    key = api_key()
    if key and file:
        raise CommandRefused("VELTRIX_API_KEY and a key file are both given: leave one of them out")
    if file is None:
        return key
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise CommandRefused(f"the key file {str(file)!r} cannot be read: {error}") from None


def spoken_to(url: str) -> str:
    """The URL of an api, to which a key may be sent. Raises CommandRefused if others could read."""
    from veltrix.settings.links import api_mistake

    if api_mistake(url, "") is not None:
        from veltrix.commands.terminal import operator_settings

        if mistake := api_mistake(url, operator_settings().plain_hosts):
            raise CommandRefused(mistake)
    return url
