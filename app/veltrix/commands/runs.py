"""`veltrix runs` and `veltrix run`: what there is, and the whole story of one."""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import After, AsJson, Limit, Since, Until, query_of
from veltrix.domain.states import RunState

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.runs.read_story import Entry, RunStory

_LOOK_S = 0.5
_NULL = b"null"
_WITHHELD = "(withheld)"
State = Annotated[RunState | None, typer.Option(help="Only runs in this state.")]


_ROW = attrgetter(
    *("id", "workflow", "state", "generation", "attempt", "claims"),
    *("started_at", "settled_at", "reason"),
)


@over_http
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
    from veltrix.commands.terminal import ids_of, print_error, print_json, print_table

    cursor = ids_of([after])[0] if after else None
    with reached() as backend:
        wanted = query_of(
            backend.now,
            state=state,
            workflow=workflow,
            queue=queue,
            key=key,
            event=event,
            fingerprint=fingerprint,
            since=since,
            until=until,
            archived=archived,
        )
        found = backend.runs(wanted, cursor, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["run", "workflow", "state", "gen", "attempt", "claims", "started", "settled", "reason"],
        [_ROW(run) for run in found.items],
        spare=("claims", "gen", "attempt", "settled", "started"),
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


@over_http
def run(
    run_id: Annotated[str, typer.Argument(help="The run.")],
    watch: Annotated[bool, typer.Option("--watch", help="Until it has an outcome.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the whole story of a run.

    Its event, steps, failed attempts, actions and outcome. Exit code 1 when there is no such run.

    Example: veltrix run 0199d2c4-6f3a-7b21-9e55-1f7c86a9d0e3 --watch
    """
    from veltrix.commands.terminal import ids_of, print_json

    id_ = ids_of([run_id])[0]
    with reached() as backend:
        story = _watch(backend, id_, is_quiet=as_json) if watch else _story(backend, id_)
    if as_json:
        print_json(story)
    else:
        for line in _lines(story):
            typer.echo(line)


def _story(backend: "Backend", run_id: str) -> "RunStory":
    from veltrix.commands.terminal import print_error

    found = backend.run(run_id)
    if found is None:
        print_error(f"veltrix: there is no run {run_id}")
        raise typer.Exit(1)
    return found


def _watch(backend: "Backend", run_id: str, *, is_quiet: bool) -> "RunStory":
    """The run when it has its outcome; meanwhile a line for each change."""
    from threading import Event

    pause, last_line = Event(), ""
    while True:
        story = _story(backend, run_id)
        line = f"{story.state}  generation {story.generation}  attempt {story.attempt}"
        line += f"  {len(story.steps)} recorded  {len(story.failed_attempts)} failed attempts"
        if line != last_line and not is_quiet:
            typer.echo(line)
        last_line = line
        if story.settled_at is not None:
            return story
        pause.wait(_LOOK_S)


def _lines(story: "RunStory") -> Iterator[str]:
    """The run as text."""
    from veltrix.commands.terminal import columns, one_line

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
            yield f"{name:<12}{one_line(value)}"
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
    yield from _last_error(story)
    if story.redacted:
        yield "\nWithheld, for the key may not see payloads: arguments, outputs, messages, outcome."
    if story.outcome is not None or (story.state == RunState.SUCCEEDED and not story.redacted):
        yield f"\noutcome\n{one_line(bytes(story.outcome or _NULL).decode())}"


def _last_error(story: "RunStory") -> Iterator[str]:
    """What the last attempt of this generation raised, and from where; with its own lines."""
    from veltrix.commands.terminal import indented

    failed = [one for one in story.failed_attempts if one.generation == story.generation]
    if not failed or story.state == RunState.SUCCEEDED:
        return
    last = max(failed, key=lambda one: one.failed_at)
    yield f"\nlast error, in {indented(last.step) or 'the workflow'}"
    if last.traceback:
        yield indented(last.traceback.rstrip(), "  ")
    else:
        told = _WITHHELD if story.redacted else last.message or ""
        yield indented(f"{last.type}: {told}".rstrip(), "  ")


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
                f"{a.type}: {_WITHHELD if story.redacted else a.message}",
            )
            for a in story.failed_attempts
        ],
    )


def _output(entry: "Entry") -> str:
    """The first characters of what the step returned or raised. Null is told by its bytes."""
    raw = entry.error or entry.output
    if raw is None:
        return _NULL.decode() if entry.output_bytes == len(_NULL) else ""
    return _short(bytes(raw).decode())


def _short(text: str, chars_max: int = 100) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 3]}..."


def _took(ms: int | None) -> str | None:
    return None if ms is None else f"{ms:,} ms" if ms < 10_000 else f"{ms / 1000:,.1f} s"
