"""A replay as a terminal shows it: its plan, how far it is in one line, watched until it ends."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from veltrix.operations.replays.rules import ReplayState

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.replays.read import ReplayStory

_LOOK_S = 0.3


def show_plan(story: "ReplayStory", as_json: bool) -> None:
    """The plan, as lines or as JSON."""
    from veltrix.commands.terminal import print_json

    if as_json:
        print_json(story)
        return
    for line in _plan_lines(story):
        typer.echo(line)


def watched_to_its_end(backend: "Backend", replay_id: str) -> "ReplayStory":
    """The replay when nothing more happens by itself; a bar, or a line now and then, meanwhile."""
    from veltrix.commands.ctrl_c import CtrlC
    from veltrix.commands.progress import Progress
    from veltrix.commands.terminal import print_error

    story = story_of(backend, replay_id)
    with CtrlC() as ctrl_c, Progress("have an outcome", story.planned) as progress:
        progress.show(_settled(story), _settled(story) + story.skipped)
        while _is_going_on(story) and ctrl_c.pause(_LOOK_S):
            story = story_of(backend, replay_id)
            progress.show(_settled(story), _settled(story) + story.skipped)
    if ctrl_c.is_pressed and _is_going_on(story):
        print_error(f"the replay goes on: veltrix replay watch {replay_id}")
        raise typer.Exit(1)
    return story


def story_of(backend: "Backend", replay_id: str) -> "ReplayStory":
    """The replay as it is now. Exit code 1 if there is none."""
    from veltrix.commands.terminal import print_error

    found = backend.replay(replay_id)
    if found is None:
        print_error(f"veltrix: there is no replay {replay_id}")
        raise typer.Exit(1)
    return found


def end(story: "ReplayStory", as_json: bool, *, is_watched: bool) -> None:
    """The replay in one line, or as JSON. Watched: exit code 1 unless all of it went well."""
    from veltrix.commands.terminal import print_json

    if as_json:
        print_json(story)
    else:
        typer.echo(_line(story))
    is_fine = story.state == ReplayState.DONE and not story.failed_again
    if is_watched and not is_fine:
        raise typer.Exit(1)


def _line(story: "ReplayStory") -> str:
    from veltrix.commands.terminal import one_line

    parts = [
        f"{story.replayed:,} of {story.planned:,} replayed",
        f"{story.succeeded:,} succeeded",
        f"{story.failed_again:,} failed again",
    ]
    more = {"cancelled": story.cancelled, "skipped": story.skipped}
    parts += [f"{count:,} {name}" for name, count in more.items() if count]
    why = f": {one_line(story.why)}" if story.why else ""
    return f"{story.id}  {story.state}{why}  {', '.join(parts)}"


def _plan_lines(story: "ReplayStory") -> Iterator[str]:
    from veltrix.commands.terminal import columns, one_line

    yield _line(story)
    for workflow, count in story.by_workflow.items():
        yield f"{count:>9,}  {one_line(workflow)}"
    yield ""
    yield from columns(
        ["runs", "error", "step", "reason", "one of them"],
        [(e.count, e.fingerprint, e.failed_step, e.reason, e.run) for e in story.by_error],
    )
    ages = [f"{count:,} {name.replace('_', ' ')}" for name, count in story.by_age.items() if count]
    yield f"\nfailed: {', '.join(ages)}"
    recorded, entries = story.runs_journalled, story.steps_journalled
    yield f"recorded: {entries:,} finished entries of {recorded:,} runs"
    for warned in story.warnings:
        where = " ".join(filter(None, (warned.workflow, warned.step)))
        yield f"warning: {warned.runs:,} runs {warned.message}" + (f" ({where})" if where else "")
    yield f"takes about {story.predicted_s:,.0f} s; to start it:"
    yield f'veltrix replay start {story.id} --reason "..." --watch'


def _is_going_on(story: "ReplayStory") -> bool:
    is_open = story.replayed > _settled(story)
    is_moving = story.state in {ReplayState.CANARY, ReplayState.RUNNING}
    return is_moving or (is_open and story.state in {ReplayState.STOPPED, ReplayState.ABORTED})


def _settled(story: "ReplayStory") -> int:
    return story.succeeded + story.failed_again + story.cancelled
