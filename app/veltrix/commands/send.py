"""`veltrix send`: a file of events, or what comes through a pipe."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.mistakes import CommandRefused
from veltrix.commands.options import OVER_HTTP, ApiKeyFile, AsJson, CaFile, key_of, spoken_to

if TYPE_CHECKING:
    from veltrix.client.transport import Again
    from veltrix.commands.progress import Progress
    from veltrix.commands.sending import Refusal, Sender

REFUSALS_MAX = 10_000
_INTERRUPTED = 130  # 128 + SIGINT, as shells say it


_File = Annotated[
    str | None,
    typer.Argument(help="NDJSON: a CloudEvent a line; - is standard input.", show_default=False),
]
_Url = Annotated[
    str | None,
    typer.Option(
        envvar=["VELTRIX_URL", "VELTRIX_API_URL"],
        help="The api; without it the settings' own.",
        rich_help_panel=OVER_HTTP,
    ),
]
_Batch = Annotated[int, typer.Option(help="Most events in one request.", min=1, max=10_000)]
_GiveUp = Annotated[
    float | None,
    typer.Option(help="End when the api was away so long, in seconds.  [default: never]", min=0),
]
_Sample = Annotated[
    bool, typer.Option("--sample", help="Send ten orders of a shop that come with Veltrix.")
]


def send(
    file: _File = None,
    sample: _Sample = False,
    batch: _Batch = 500,
    from_line: Annotated[int, typer.Option(help="Begin at this line.", min=1)] = 1,
    give_up_s: _GiveUp = None,
    as_json: AsJson = False,
    url: _Url = None,
    key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Post a file of CloudEvents.

    Each line until it is taken or refused. While the api is away or has no room it waits and
    goes on where it was. Every refused line is
    shown with its number and reason. Exit code 1 when lines were refused, 130 after Ctrl-C, which
    says how to go on.

    Example: veltrix send events.ndjson --url http://127.0.0.1:8080
    """
    from veltrix.client.errors import ApiError
    from veltrix.client.events import EventPoster
    from veltrix.client.transport import Transport
    from veltrix.commands.progress import Progress
    from veltrix.commands.sending import Sender, read_batches

    if (file is None) != sample:
        raise typer.BadParameter("name a file, or send --sample", param_hint="FILE")
    file = file or str(Path(__file__).with_name("samples") / "orders.ndjson")
    address, key = spoken_to(url or _url()), key_of(key_file)
    refusals: list[Refusal] = []
    with _opened(file) as (fd, size), Progress("sent", size) as progress, _interruptible():
        report = _Report(progress, refusals, give_up_s)
        api = Transport(address, key, ca_file=ca_file, attempts_max=None, wait=report.wait)
        sender = Sender(EventPoster(api, report.wait), report.refuse)
        sender.sent.next_line = from_line
        began = monotonic()
        try:
            for lines in read_batches(fd, from_line, batch):
                sender.send(lines)
                report.reset()
                progress.show(sender.sent.lines, sender.sent.offset)
        except KeyboardInterrupt:
            _show_place(progress, sender, file)
            raise typer.Exit(_INTERRUPTED) from None
        except (CommandRefused, ApiError):
            _show_place(progress, sender, file)
            raise
        finally:
            api.close()
        seconds = monotonic() - began
    _summarize(sender, refusals, seconds, as_json)
    if sender.sent.refused:
        raise typer.Exit(1)


class _Report:
    """Refused lines and waits, as they happen."""

    def __init__(
        self, progress: "Progress", refusals: "list[Refusal]", give_up_s: float | None
    ) -> None:
        self._progress, self._refusals, self._give_up_s = progress, refusals, give_up_s
        self._pause, self._away_s, self._said = Event(), 0.0, ""

    def refuse(self, refusal: "Refusal") -> None:
        from veltrix.commands.terminal import one_line

        if len(self._refusals) < REFUSALS_MAX:
            self._refusals.append(refusal)
        self._progress.say(one_line(refusal))

    def wait(self, again: "Again") -> None:
        if again.why != self._said:
            self._progress.say(f"waiting: {again.why}")
            self._said = again.why
        if self._give_up_s is not None and self._away_s >= self._give_up_s:
            raise CommandRefused(f"gave up after {self._away_s:.0f} s: {again.why}")
        self._pause.wait(again.pause_s)
        self._away_s += again.pause_s

    def reset(self) -> None:
        """The api answers again."""
        self._away_s, self._said = 0.0, ""


def _url() -> str:
    """Where the settings say that the api listens; of a `veltrix dev` in this folder too."""
    from veltrix.commands.terminal import operator_settings

    settings = operator_settings()
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to call, not to listen
    host = everywhere.get(settings.api_host, settings.api_host)
    scheme = "http" if settings.api_tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.api_port}"


@contextmanager
def _opened(name: str) -> Iterator[tuple[int, int | None]]:
    """A file descriptor and, of a regular file, its size."""
    if name == "-":
        yield sys.stdin.fileno(), None
        return
    path = Path(name)
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise CommandRefused(f"{name!r} cannot be read: {error.strerror}") from None
    with file:
        yield file.fileno(), path.stat().st_size if path.is_file() else None


@contextmanager
def _interruptible() -> Iterator[None]:
    """In the block SIGTERM says where it stopped, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_place(progress: "Progress", sender: "Sender", file: str) -> None:
    line = sender.sent.next_line
    progress.say(
        f"stopped: everything before line {line:,} was taken or refused; go on with"
        f" veltrix send {shlex.quote(file)} --from-line {line}"
    )


def _summarize(sender: "Sender", refusals: "list[Refusal]", seconds: float, as_json: bool) -> None:
    from veltrix.commands.terminal import print_json

    sent = sender.sent
    rate = sent.lines / seconds if seconds else 0.0
    if as_json:
        print_json(
            {
                "lines": sent.lines,
                "accepted": sent.accepted,
                "duplicates": sent.duplicates,
                "refused": sent.refused,
                "next_line": sent.next_line,
                "seconds": round(seconds, 3),
                "events_per_s": round(rate, 1),
                "refusals": refusals,
            }
        )
    else:
        typer.echo(
            f"{sent.lines:,} events: {sent.accepted:,} accepted, {sent.duplicates:,} duplicates,"
            f" {sent.refused:,} refused; {seconds:.1f} s, {rate:,.0f}/s"
        )
