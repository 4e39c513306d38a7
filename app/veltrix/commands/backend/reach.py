"""Which backend a command asks: the api that `--url` names, else the database of the settings."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from veltrix.commands.mistakes import CommandRefused
from veltrix.commands.options import OVER_HTTP, ApiKeyFile, CaFile, key_of, spoken_to

if TYPE_CHECKING:
    from veltrix.client.transport import Again
    from veltrix.commands.backend.port import Backend

_Url = Annotated[
    str | None,
    typer.Option(
        envvar="VELTRIX_URL",
        help="Ask this api, with a key, instead of the database.",
        rich_help_panel=OVER_HTTP,
    ),
]
_OPTIONS = (
    inspect.Parameter("url", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Url),
    inspect.Parameter(
        "key_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ApiKeyFile
    ),
    inspect.Parameter("ca_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=CaFile),
)
F = TypeVar("F", bound=Callable[..., Any])


class BackendLink(NamedTuple):
    """Where an api is, and what proves who calls it."""

    url: str
    key_file: Path | None
    ca_file: Path | None


_link: ContextVar[BackendLink | None] = ContextVar("link", default=None)  # of the command that runs


def over_http(command: F) -> F:
    """The command with `--url`, `--key-file` and `--ca-file`, which `reached` goes by."""
    signature = inspect.signature(command, eval_str=True)

    @wraps(command)
    def asking(
        *args: Any,
        url: str | None = None,
        key_file: Path | None = None,
        ca_file: Path | None = None,
        **kwargs: Any,
    ) -> Any:
        before = _link.set(BackendLink(url, key_file, ca_file) if url else None)
        try:
            return command(*args, **kwargs)
        finally:
            _link.reset(before)

    parameters = [*signature.parameters.values(), *_OPTIONS]
    asking.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    asking.__annotations__ = {one.name: one.annotation for one in parameters}
    return asking  # type: ignore[return-value]


@contextmanager
def reached(author: str | None = None) -> "Iterator[Backend]":
    """The backend of this command, closed at the end of the block.

    `author` is who acts; over HTTP the key says that. Raises CommandRefused, SettingsError, and
    whatever the backend raises when it is away.
    """
    link = _link.get()
    if link is None:
        from veltrix.commands.backend.database import DatabaseBackend
        from veltrix.commands.terminal import author_of, connected

        with connected() as (settings, engine):
            yield DatabaseBackend(engine, settings, author_of(author))
        return
    from veltrix.client.transport import Transport
    from veltrix.commands.backend.http import HttpBackend

    if author is not None:
        raise CommandRefused("over HTTP the key says who acts; leave --author out")
    key = key_of(link.key_file)
    with Transport(spoken_to(link.url), key, ca_file=link.ca_file, wait=_say_and_pause) as way:
        yield HttpBackend(way)


def _say_and_pause(again: "Again") -> None:
    from veltrix.client.transport import pause
    from veltrix.commands.terminal import print_error

    print_error(
        f"{again.why}; asking again in {again.pause_s:.1f} s ({again.attempt} of"
        f" {again.attempts_max})"
    )
    pause(again)
