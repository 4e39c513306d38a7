"""`veltrix events`: what was accepted, and starting a workflow for events of the past."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import After, AsJson, Author, Limit, Since, Until, Why, Yes, time_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from veltrix.operations.runs.read_events import EventStory

group = typer.Typer(no_args_is_help=True, help="Accepted events, and dead letters.")

STRETCH_EVENTS_MAX = 1_000


@group.command("list")
@over_http
def list_(
    source: Annotated[str | None, typer.Option(help="Only from this source.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    unrouted: Annotated[
        bool | None, typer.Option("--unrouted/--routed", help="Only those that started none/some.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List accepted events, newest first.

    Example: veltrix events list --unrouted --type shop.order.placed
    """
    from veltrix.commands.terminal import ids_of, print_error, print_json, print_table
    from veltrix.operations.runs.read_events import EventFilter

    cursor = ids_of([after])[0] if after else None
    with reached() as backend:
        wanted = EventFilter(
            source=source,
            type=type_,
            unrouted=unrouted,
            since=time_of(since, backend.now),
            until=time_of(until, backend.now, "--until"),
        )
        found = backend.events(wanted, cursor, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["event", "accepted", "type", "source", "id", "unrouted"],
        [(e.event, e.accepted_at, e.type, e.source, e.id, e.unrouted) for e in found.items],
        spare=("unrouted", "accepted"),
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


@group.command()
@over_http
def show(
    event: Annotated[str, typer.Argument(help="Our id of it; or its own id, with --source.")],
    source: Annotated[str | None, typer.Option(help="The source it came from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show an event as it was sent, with the runs it started.

    Exit code 1 when there is no such event.

    Example: veltrix events show order-4711 --source /shop
    """
    from veltrix.commands.terminal import ids_of, print_error, print_json

    id_ = ids_of([event])[0] if source is None else event
    with reached() as backend:
        found = backend.event(id_, source)
    if found is None:
        print_error(f"veltrix: there is no event {event!r}")
        raise typer.Exit(1)
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            typer.echo(line)


@group.command()
def start(
    type_: Annotated[
        str, typer.Option("--type", help="Of this type, or `shop.*`.", show_default=False)
    ],
    workflow: Annotated[str, typer.Option(help="What to start.", show_default=False)],
    since: Annotated[
        str,
        typer.Option(
            help="Accepted at or after: RFC 3339, or ago: 30s 15m 2h 7d.", show_default=False
        ),
    ],
    rate: Annotated[int, typer.Option(help="Most runs started per second.", min=1)] = 1_000,
    author: Author = None,
    reason: Why = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Start a workflow for events of the past.

    For those that were never given to it. Shows how many, asks, and starts them at a rate. An
    event starts a workflow once, however often
    this runs: after Ctrl-C the same command goes on.

    Example: veltrix events start --type shop.order.placed --workflow score --since 7d --rate 500
    """
    from veltrix.commands.backend.database_reads import DatabaseReads
    from veltrix.commands.terminal import author_of, connected, print_error, print_json
    from veltrix.pipeline.accept.sweep import start_events

    with connected() as (_, engine):
        begin = time_of(since, DatabaseReads(engine).now)
        assert begin is not None
        count = _count(engine, type_, workflow, begin)
        question = f"Start {workflow} for {count:,} events of type {type_} since {begin}?"
        if count and not yes and not typer.confirm(question, err=True):
            raise typer.Exit(1)
        started = 0
        if count:
            called = partial(
                start_events,
                engine,
                type_,
                workflow,
                begin,
                author=author_of(author),
                reason=reason,
            )
            started = _start(called, count, min(rate, 1_000_000))
    if as_json:
        print_json({"found": count, "started": started})
    else:
        typer.echo(f"{started:,} runs of {workflow} started")
    if count and not started:
        print_error("they were started meanwhile")


def _count(engine: "Engine", type_: str, workflow: str, since: datetime) -> int:
    from veltrix.pipeline.accept.sweep import count_events

    count, after = 0, None
    while True:
        stretch = count_events(engine, type_, workflow, since, after=after)
        count += len(stretch.event_ids)
        after = stretch.last_id
        if after is None:
            return count


def _start(start: Callable[..., tuple[int, str | None]], count: int, rate: int) -> int:
    """Start them at the rate, stretch by stretch; how many runs."""
    from threading import Event

    from veltrix.commands.progress import Progress

    def once(after: str | None) -> tuple[int, str | None]:
        most = min(STRETCH_EVENTS_MAX, max(1, rate))
        return start(after=after, events_max=most)

    started, pause = 0, Event()
    with Progress("started", count) as progress:
        for just_started in _stretches(once):
            started += just_started
            progress.show(started)
            pause.wait(just_started / rate)
    return started


def _stretches(once: Callable[[str | None], tuple[int, str | None]]) -> Iterator[int]:
    after: str | None = None
    while True:
        started, after = once(after)
        yield started
        if after is None:
            return


def _lines(event: "EventStory") -> Iterator[str]:
    """The event as text."""
    from veltrix.commands.terminal import one_line

    facts = ["event", "source", "id", "type", "subject", "time", "accepted_at", "unrouted"]
    facts += ["datacontenttype", "dataschema", "traceparent"]
    for name in facts:
        value = getattr(event, name)
        if value is not None:
            yield f"{name:<16}{one_line(value)}"
    for started in event.runs:
        yield f"{'run':<16}{started.id}  {started.workflow}"
    if event.extensions is not None:
        yield f"{'extensions':<16}{one_line(bytes(event.extensions).decode())}"
    if event.data is not None:
        yield f"{'data':<16}{one_line(bytes(event.data).decode())}"
    elif event.data_base64 is not None:
        yield f"{'data_base64':<16}{event.data_base64}"
