"""`veltrix replay plan|start|watch|pause|resume|abort|list`: failed work run again, with care."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import UNSET, UnsetType

from veltrix.commands.acting import refused_is_1, replay
from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import (
    After,
    AsJson,
    Author,
    Limit,
    Reason,
    Since,
    Until,
    Yes,
    query_of,
)
from veltrix.commands.replay_lines import end, show_plan, story_of, watched_to_its_end
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.rules import ReplayState, Verb

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.replays.patch import Patch
    from veltrix.operations.replays.read import ReplayStory
    from veltrix.operations.runs.query import RunQuery

group = replay  # with `run`, which needs no plan
ReplayId = Annotated[str, typer.Argument(help="The replay.", show_default=False)]
_RunIds = Annotated[list[str] | None, typer.Argument(help="These runs.", show_default=False)]
_Begin = Annotated[
    ReplayMode | None, typer.Option("--from", help="Keep finished steps, or begin anew.")
]
_StopShare = Annotated[
    float | None, typer.Option(help="Stop when more than this share fails again.")
]
_NeverStop = Annotated[bool, typer.Option("--never-stop", help="Go on however many fail again.")]
_PatchFile = Annotated[
    Path | None, typer.Option(help="File with a JSON Patch (RFC 6902) for the payloads.")
]


@replay.command("plan")
@over_http
def plan_replay(
    reason: Reason,
    run_ids: _RunIds = None,
    group: Annotated[str | None, typer.Option(help="Failed with this error.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Failed runs of this workflow.")] = None,
    queue: Annotated[str | None, typer.Option(help="Failed runs on this queue.")] = None,
    key: Annotated[str | None, typer.Option(help="Failed runs with this key.")] = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Every failed run there is.")] = False,
    begin: _Begin = None,
    rate: Annotated[float | None, typer.Option(help="Runs per second.")] = None,
    canary: Annotated[int, typer.Option(help="First so many, and wait for them.", min=0)] = 0,
    stop_share: _StopShare = None,
    never_stop: _NeverStop = False,
    patch: _PatchFile = None,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Freeze a set of failed runs and show what a replay would do.

    Nothing moves until it is started. With --patch each run is a new run with the edited payload.
    Exit code 1 when there is nothing to replay or the plan is refused.

    Example: veltrix replay plan --workflow fulfil_order --since 2h --canary 10 --reason "fixed"
    """
    from veltrix.commands.backend.port import PlanWanted

    edit = None if patch is None else _patch_in(patch)
    stops = _stops(stop_share, never_stop)
    with reached(author) as backend:
        wanted = query_of(
            backend.now,
            run_ids=run_ids,
            fingerprint=group,
            workflow=workflow,
            queue=queue,
            key=key,
            since=since,
            until=until,
        )
        _check_named_or_described(wanted, everything)
        planned = PlanWanted(
            wanted=wanted,
            reason=reason,
            is_all=everything,
            mode=begin,
            rate=rate,
            canary=canary,
            stop_share=stops,
            patch=edit,
        )
        story = refused_is_1(lambda: backend.plan(planned), as_json)
    show_plan(story, as_json)


@replay.command("start")
@over_http
def start(
    replay_id: ReplayId,
    reason: Reason,
    watched: Annotated[bool, typer.Option("--watch", help="Until it ends.")] = False,
    author: Author = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Start a planned replay. Says how many runs it is, and asks.

    Example: veltrix replay start 019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b --reason "plan is right"
    """
    from veltrix.commands.terminal import ids_of

    id_ = ids_of([replay_id])[0]
    with reached(author) as backend:
        story = story_of(backend, id_)
        if not yes and not typer.confirm(f"Replay {story.planned:,} failed runs?", err=True):
            raise typer.Exit(1)
        story = _turned(backend, id_, Verb.START, reason, as_json)
        if watched:
            story = watched_to_its_end(backend, id_)
    end(story, as_json, is_watched=watched)


@replay.command("watch")
@over_http
def watch(replay_id: ReplayId, as_json: AsJson = False) -> None:
    """Show how far a replay is, until it ends, stops or is paused.

    Ctrl-C ends the watching, not the replay. Exit code 0: done, and nothing failed again;
    1: stopped, aborted, paused, or some failed again.

    Example: veltrix replay watch 019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b
    """
    from veltrix.commands.terminal import ids_of

    id_ = ids_of([replay_id])[0]
    with reached() as backend:
        story = watched_to_its_end(backend, id_)
    end(story, as_json, is_watched=True)


@replay.command("pause")
@over_http
def pause(
    replay_id: ReplayId, reason: Reason, author: Author = None, as_json: AsJson = False
) -> None:
    """Pause a replay: nothing more of it moves; what was moved goes on.

    Example: veltrix replay pause 019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b --reason "load is high"
    """
    _act(replay_id, Verb.PAUSE, reason, author, as_json)


@replay.command("resume")
@over_http
def resume(
    replay_id: ReplayId, reason: Reason, author: Author = None, as_json: AsJson = False
) -> None:
    """Go on with a replay that was paused, or stopped: then with another canary, if it has one.

    Example: veltrix replay resume 019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b --reason "fixed in 1.4.3"
    """
    _act(replay_id, Verb.RESUME, reason, author, as_json)


@replay.command("abort")
@over_http
def abort(
    replay_id: ReplayId, reason: Reason, author: Author = None, as_json: AsJson = False
) -> None:
    """End a replay for good: what it has not moved stays failed; what was moved goes on.

    Example: veltrix replay abort 019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b --reason "wrong group"
    """
    _act(replay_id, Verb.ABORT, reason, author, as_json)


@replay.command("list")
@over_http
def list_(
    state: Annotated[ReplayState | None, typer.Option(help="Only in this state.")] = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List replays, newest first.

    Example: veltrix replay list --state running
    """
    from veltrix.commands.terminal import ids_of, print_error, print_json, print_table

    cursor = ids_of([after])[0] if after else None
    with reached() as backend:
        found = backend.replays(state, cursor, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["replay", "state", "planned", "replayed", "succeeded", "failed again", "by", "reason"],
        [
            (
                r.id,
                r.state,
                r.planned,
                r.replayed,
                r.succeeded,
                r.failed_again,
                r.author,
                r.why or r.reason,
            )
            for r in found.items
        ],
        spare=("succeeded", "by", "replayed"),
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


def _stops(share: float | None, never: bool) -> float | UnsetType | None:
    """The bound that was given, None for never, UNSET for the usual one."""
    if never and share is not None:
        raise typer.BadParameter(
            "give --stop-share or --never-stop, not both", param_hint="--stop-share"
        )
    return None if never else UNSET if share is None else share


def _check_named_or_described(wanted: "RunQuery", everything: bool) -> None:
    """Raises a usage error for both, or neither."""
    if wanted.ids is not None and wanted.conditions:
        raise typer.BadParameter(
            "name the runs, or describe them with options, not both", param_hint="RUN_IDS"
        )
    if wanted.ids is None and not wanted.conditions and not everything:
        raise typer.BadParameter(
            "name the runs, or describe them with options; --all takes every failed run",
            param_hint="RUN_IDS",
        )


def _act(replay_id: str, verb: Verb, reason: str, author: str | None, as_json: bool) -> None:
    from veltrix.commands.terminal import ids_of

    id_ = ids_of([replay_id])[0]
    with reached(author) as backend:
        story = _turned(backend, id_, verb, reason, as_json)
    end(story, as_json, is_watched=False)


def _turned(
    backend: "Backend", replay_id: str, verb: Verb, reason: str, as_json: bool
) -> "ReplayStory":
    story: ReplayStory = refused_is_1(lambda: backend.turn(replay_id, verb, reason), as_json)
    return story


def _patch_in(file: Path) -> "Patch":
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.operations.replays.patch import PatchInvalid, read_patch

    try:
        return read_patch(file.read_bytes())
    except (OSError, PatchInvalid) as error:
        raise CommandRefused(f"the patch in {str(file)!r} cannot be used: {error}") from None
