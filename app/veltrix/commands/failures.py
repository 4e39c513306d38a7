"""`veltrix failures`: what failed in the same way, and what people decide about it."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.bulk import act_in_bulk
from veltrix.commands.options import After, AsJson, Author, Limit, Reason, Yes, time_of
from veltrix.domain.failure_groups import GroupKind, GroupState

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.failures.read import GroupRow, GroupStory

group = typer.Typer(no_args_is_help=True, help="Failure groups: list, show, resolve, ignore.")

GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="The group.", show_default=False)]
_RunIds = Annotated[list[str] | None, typer.Argument(help="These runs.", show_default=False)]
_Workflow = Annotated[str | None, typer.Option(help="All such runs of this workflow.")]
_Queue = Annotated[str | None, typer.Option(help="All such runs of this queue.")]
_Key = Annotated[str | None, typer.Option(help="All such runs with this key.")]
_All = Annotated[bool, typer.Option("--all", help="Every such run there is.")]
_Group = Annotated[str | None, typer.Option("--group", help="All of this group.")]


@group.command("list")
@over_http
def list_(
    kind: Annotated[GroupKind | None, typer.Option(help="Only of this kind.")] = None,
    state: Annotated[
        list[GroupState] | None, typer.Option(help="Only in this state; repeat for more.")
    ] = None,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Seen at or after: RFC 3339, or ago: 30s 15m 2h 7d.")
    ] = None,
    order: Annotated[str, typer.Option(help="last_seen, first_seen or count.")] = "last_seen",
    empty: Annotated[
        bool, typer.Option("--empty", help="Also those in which nothing is failed now.")
    ] = False,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List failure groups, the one seen last first.

    Example: veltrix failures list --state open --state regressed --order count
    """
    from veltrix.commands.terminal import print_error, print_json, print_table
    from veltrix.operations.failures.read import GroupFilter

    if order not in {"last_seen", "first_seen", "count"}:
        raise typer.BadParameter("write last_seen, first_seen or count", param_hint="--order")
    with reached() as backend:
        wanted = GroupFilter(
            kind=kind,
            states=tuple(state or ()),
            workflow=workflow,
            since=time_of(since, backend.now),
            is_empty=empty,
        )
        found = backend.groups(wanted, order, after, limit)  # type: ignore[arg-type]
    if as_json:
        print_json(found)
        return
    print_table(
        ["group", "kind", "state", "now", "total", "first seen", "last seen", "what"],
        [
            (
                g.id,
                g.kind,
                g.state,
                g.count,
                g.total,
                g.first_seen_at,
                g.last_seen_at,
                _what(g),
            )
            for g in found.items
        ],
        spare=("first seen", "kind", "total", "last seen"),
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


@group.command()
@over_http
def show(group_id: GroupId, as_json: AsJson = False) -> None:
    """Show a failure group: its counts, versions, samples and notes.

    Exit code 1 when there is no such group.

    Example: veltrix failures show 5f1c0a9e5f1c0a9e
    """
    from veltrix.commands.terminal import print_error, print_json

    with reached() as backend:
        found = backend.group(group_id)
    if found is None:
        print_error(f"veltrix: there is no failure group {group_id}")
        raise typer.Exit(1)
    if as_json:
        print_json(found)
    else:
        _print_story(found)


@group.command()
@over_http
def resolve(
    group_id: GroupId,
    reason: Reason,
    version: Annotated[
        str | None, typer.Option(help="Mended in this code version; without it, in any.")
    ] = None,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Say that a group is mended. A failure of that version or a later one makes it regressed.

    Exit code 1 when it is resolved already, unknown, or not of runs and a version is named.

    Example: veltrix failures resolve 5f1c0a9e5f1c0a9e --version 3f2a9c --reason "bank is back"
    """
    _decide(lambda to: to.decide("resolve", group_id, reason, version), author, as_json)


@group.command()
@over_http
def ignore(
    group_id: GroupId, reason: Reason, author: Author = None, as_json: AsJson = False
) -> None:
    """Ignore a group; it is counted as before. Exit code 1 when it is ignored already, or unknown.

    Example: veltrix failures ignore 5f1c0a9e5f1c0a9e --reason "a test tenant"
    """
    _decide(lambda to: to.decide("ignore", group_id, reason), author, as_json)


@group.command()
@over_http
def reopen(
    group_id: GroupId, reason: Reason, author: Author = None, as_json: AsJson = False
) -> None:
    """Open a group again. Exit code 1 when it is open, or unknown.

    Example: veltrix failures reopen 5f1c0a9e5f1c0a9e --reason "it was not that"
    """
    _decide(lambda to: to.decide("reopen", group_id, reason), author, as_json)


@group.command()
@over_http
def note(
    group_id: GroupId,
    text: Annotated[str, typer.Argument(help="What to keep.", show_default=False)],
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Write a note beside a group, kept with its author. Exit code 1 when there is no such group.

    Example: veltrix failures note 5f1c0a9e5f1c0a9e "the bank says 14:00"
    """
    _decide(lambda to: to.note(group_id, text), author, as_json)


def _failed_runs_command(action: str, promise: str) -> None:
    """The command of this name: it does the action to failed runs, named or described."""

    def command(
        reason: Reason,
        run_ids: _RunIds = None,
        of_group: _Group = None,
        workflow: _Workflow = None,
        queue: _Queue = None,
        key: _Key = None,
        everything: _All = False,
        author: Author = None,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        named = {"fingerprint": of_group, "workflow": workflow, "queue": queue, "key": key}
        act_in_bulk(
            *(action, run_ids, named),
            is_all=everything,
            reason=reason,
            author=author,
            yes=yes,
            as_json=as_json,
        )

    command.__doc__ = promise
    group.command(action)(over_http(command))


_failed_runs_command(
    "archive",
    """Put failed runs away: out of the lists, still failed in the books. All of them or none.

    Exit code 1 when one of them is not failed.

    Example: veltrix failures archive --group 5f1c0a9e5f1c0a9e --reason "paid by hand"
    """,
)
_failed_runs_command(
    "restore",
    """List archived runs again. All of them or none. Exit code 1 when one is not archived.

    Example: veltrix failures restore --group 5f1c0a9e5f1c0a9e --reason "not paid after all"
    """,
)


@group.command()
def check(
    correct: Annotated[
        bool, typer.Option("--correct", help="Write what makes them agree.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count every failure again, from rows. Exit code 1 when a group's count is another.

    A relay does so every ten minutes, and corrects what it finds.

    Example: veltrix failures check
    """
    from veltrix.commands.terminal import connected, print_json
    from veltrix.operations.failures.triage import check_groups

    with connected() as (_, engine):
        found = check_groups(engine, is_corrected=correct)
    if as_json:
        print_json(found)
    for one in found if not as_json else ():
        typer.echo(f"{one.id}  {one.booked_count:,} booked, {one.count:,} rows")
    if not as_json:
        typer.echo(f"{len(found):,} groups differ" if found else "every count is that of the rows")
    if found:
        raise typer.Exit(1)


def _decide(decide: "Callable[[Backend], Any]", author: str | None, as_json: bool) -> None:
    from veltrix.commands.terminal import print_error, print_json
    from veltrix.operations.failures.triage import NotMoved, NoVersion

    with reached(author) as backend:
        answer = decide(backend)
    if as_json:
        print_json(answer)
    elif not isinstance(answer, NotMoved):
        typer.echo(f"{answer.id}  {getattr(answer, 'state', 'noted')}")
    elif answer.state is None:
        print_error(f"veltrix: there is no failure group {answer.id}")
    elif isinstance(answer, NoVersion):
        print_error(f"veltrix: {answer}")
    else:
        by = f" by {answer.by}" if answer.by else ""
        print_error(f"veltrix: group {answer.id} is {answer.state} already{by}")
    if isinstance(answer, NotMoved):
        raise typer.Exit(1)


def _what(row: "GroupRow") -> str:
    """What the group is of, on one line."""
    if row.workflow is not None:
        step = f" in {row.step}" if row.step else ""
        error = f": {row.type}: {row.message}" if row.type else ""
        return f"{row.workflow}{step}{error}"
    if row.source == "":
        return "events of all other sources and types: VELTRIX_UNROUTED_GROUPS_MAX have a group"
    if row.source is not None:
        return f"{row.event_type} from {row.source}"
    return f"{row.reason} on {row.queue}"


def _print_story(story: "GroupStory") -> None:
    from veltrix.commands.terminal import columns, one_line

    facts: list[tuple[str, str | int | datetime | None]] = [
        ("group", story.id),
        ("kind", story.kind),
        ("what", _what(story)),
        ("state", story.state),
        ("changed by", story.state_changed_by),
        ("why", story.state_reason),
        ("version", story.resolved_version),
        ("now", story.count),
        ("archived", story.archived),
        ("total", story.total),
        ("first seen", story.first_seen_at),
        ("last seen", story.last_seen_at),
    ]
    for name, value in facts:
        if value is not None:
            typer.echo(f"{name:<12}{one_line(value)}")
    tables: list[tuple[str, list[str], list[tuple[Any, ...]]]] = [
        ("seen", ["since", "failures"], [(b.since, b.seen) for b in story.sparkline if b.seen]),
        (
            "versions",
            ["code", "failures", "first", "last"],
            [(v.code_version, v.seen, v.first_seen_at, v.last_seen_at) for v in story.versions],
        ),
        (
            "runs",
            ["run", "code", "settled"],
            [(r.id, r.code_version, r.settled_at) for r in story.runs],
        ),
        ("dead letters", ["id"], [(id_,) for id_ in story.dead_letters]),
        ("events", ["event"], [(id_,) for id_ in story.events]),
        ("notes", ["when", "by", "note"], [(n.written_at, n.author, n.text) for n in story.notes]),
    ]
    for title, headings, rows in tables:
        if rows:
            typer.echo(f"\n{title}")
            for line in columns(headings, rows):
                typer.echo(line)
