"""`veltrix runs` and `veltrix run`: what there is, and the whole story of one."""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.options import After, AsJson, Limit, Since, Until, time_of
from veltrix.domain.states import RunState

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from veltrix.operations.runs.read_story import RunStory

_LOOK_S = 0.5
State = Annotated[RunState | None, typer.Option(help="Only runs in this state.")]


_ROW = attrgetter(
    *("id", "workflow", "state", "generation", "attempt", "claims"),
    *("started_at", "settled_at", "reason"),
)


def runs(
    state: State = None,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only on this queue.")] = None,
    key: Annotated[str | None, typer.Option(help="Only with this key.")] = None,
    event: Annotated[str | None, typer.Option(help="Only of this event (our id).")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Only failed with this error.")] = None,
    since: Since = None,
    until: Until = None,
    archived: Annotated[bool, typer.Option("--archived", help="Only archived runs.")] = False,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first.

    Example: veltrix runs --state failed --workflow fulfil_order --since 2h
    """
    from veltrix.commands.terminal import (
        connected,
        ids_of,
        now,
        print_error,
        print_json,
        print_table,
    )
    from veltrix.operations.runs.read import RunFilter, page
    from veltrix.store.transactions import open_autocommit

    wanted = RunFilter(
        state=state,
        workflow=workflow,
        queue=queue,
        key=key,
        event=ids_of([event])[0] if event else None,
        fingerprint=fingerprint,
        since=time_of(since, now),
        until=time_of(until, now, "--until"),
        archived=archived,
    )
    cursor = ids_of([after])[0] if after else None
    with connected() as (_, engine), open_autocommit(engine) as tx:
        found = page(tx, wanted, cursor=cursor, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["run", "workflow", "state", "gen", "attempt", "claims", "started", "settled", "reason"],
        [_ROW(run) for run in found.items],
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


def run(
    run_id: Annotated[str, typer.Argument(help="The run.")],
    watch: Annotated[bool, typer.Option("--watch", help="Until it has an outcome.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the whole story of a run.

    Its event, steps, failed attempts, actions and outcome. Exit code 1 when there is no such run.

    Example: veltrix run 0199d2c4-6f3a-7b21-9e55-1f7c86a9d0e3 --watch
    """
    from veltrix.commands.terminal import connected, ids_of, print_json

    id_ = ids_of([run_id])[0]
    with connected() as (_, engine):
        story = _watch(engine, id_, is_quiet=as_json) if watch else _story(engine, id_)
    if as_json:
        print_json(story)
    else:
        for line in _lines(story):
            typer.echo(line)


def _story(engine: "Engine", run_id: str) -> "RunStory":
    from veltrix.commands.terminal import print_error
    from veltrix.operations.runs.read_story import story
    from veltrix.store.transactions import transaction

    with transaction(engine, snapshot=True) as tx:
        found = story(tx, run_id)
    if found is None:
        print_error(f"veltrix: there is no run {run_id}")
        raise typer.Exit(1)
    return found


def _watch(engine: "Engine", run_id: str, *, is_quiet: bool) -> "RunStory":
    """The run when it has its outcome; meanwhile a line for each change."""
    from threading import Event

    pause, shown = Event(), ""
    while True:
        story = _story(engine, run_id)
        line = f"{story.state}  generation {story.generation}  attempt {story.attempt}"
        line += f"  {len(story.steps)} recorded  {len(story.failed_attempts)} failed attempts"
        if line != shown and not is_quiet:
            typer.echo(line)
        shown = line
        if story.settled_at is not None:
            return story
        pause.wait(_LOOK_S)


def _lines(story: "RunStory") -> Iterator[str]:
    """The run as text."""
    from veltrix.commands.terminal import columns, shown

    event = story.cloudevent
    facts = [
        ("run", story.id),
        ("workflow", f"{story.workflow} on queue {story.queue}"),
        ("event", f"{event.type} {event.id} from {event.source}"),
        ("state", story.state + (f" ({story.reason})" if story.reason else "")),
        ("generation", story.generation),
        ("attempt", story.attempt),
        ("claims", story.claims),
        ("key", story.key),
        ("code", story.code_version),
        ("worker", story.worker_id),
        ("started", story.started_at),
        ("due", story.due_at),
        ("settled", story.settled_at),
        ("failed step", story.failed_step),
        ("error", story.fingerprint),
    ]
    for name, value in facts:
        if value is not None:
            yield f"{name:<12}{shown(value)}"
    if story.steps:
        yield "\nsteps"
        yield from _steps(story)
    if story.failed_attempts:
        yield "\nfailed attempts"
        yield from _attempts(story)
    if story.actions:
        yield "\nactions"
        yield from columns(
            ["what", "gen", "by", "when", "reason"],
            [(a.action, a.generation, a.author, a.acted_at, a.reason) for a in story.actions],
        )
    if story.outcome is not None:
        yield f"\noutcome\n{shown(bytes(story.outcome).decode())}"


def _steps(story: "RunStory") -> Iterable[str]:
    from veltrix.commands.terminal import columns
    from veltrix.operations.runs.read_story import call_text

    return columns(
        ["gen", "at", "kind", "name", "arguments", "attempts", "began", "took", "output"],
        [
            (
                s.generation,
                s.position,
                s.kind,
                s.name,
                _short(call_text(s.arguments, s.arguments_cut)),
                s.attempts,
                s.began_at or s.recorded_at,
                _took(s.took_ms),
                _output(s),
            )
            for s in story.steps
        ],
    )


def _attempts(story: "RunStory") -> Iterable[str]:
    from veltrix.commands.terminal import columns
    from veltrix.operations.runs.read_story import call_text

    return columns(
        ["gen", "at", "step", "arguments", "attempt", "began", "took", "next in", "error"],
        [
            (
                a.generation,
                a.position,
                a.step,
                _short(call_text(a.arguments, a.arguments_cut)),
                a.attempt,
                a.began_at or a.failed_at,
                _took(a.took_ms),
                None if a.retry_delay_s is None else _took(round(a.retry_delay_s * 1000)),
                f"{a.type}: {a.message}",
            )
            for a in story.failed_attempts
        ],
    )


def _output(entry: object) -> str:
    """The first characters of what the step returned or raised."""
    raw = getattr(entry, "error", None) or getattr(entry, "output", None)
    return _short(bytes(raw).decode() if raw is not None else "")


def _short(text: str, chars_max: int = 100) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 3]}..."


def _took(ms: int | None) -> str | None:
    return None if ms is None else f"{ms:,} ms" if ms < 10_000 else f"{ms / 1000:,.1f} s"
