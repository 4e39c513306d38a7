"""Failure groups and replays: read only."""

from datetime import datetime, timedelta
from typing import get_args

from starlette.requests import Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.console.exports import exported
from veltrix.console.patching import of_replay
from veltrix.console.query import flag, id_of, text, time_of
from veltrix.console.rendering import rendered
from veltrix.console.sessions import Visitor
from veltrix.console.tracebacks import trace_of
from veltrix.domain.failure_groups import MOVES, RUN_KINDS, GroupKind, GroupState
from veltrix.operations.failures import read
from veltrix.operations.failures.read import GroupFilter, GroupPage, GroupStory, Order
from veltrix.operations.failures.read_sample import sample
from veltrix.operations.replays import read as replay_reads
from veltrix.operations.replays.read import ReplayedRunsPage, ReplayPage, ReplayStory
from veltrix.operations.replays.rules import ALLOWED, ENDED, ReplayState
from veltrix.operations.runs.action_rows import canonical
from veltrix.releases import subscription_rows
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

ROWS = 50
BUCKETS_MIN = 48


def groups(request: Request, visitor: Visitor) -> Response:
    """What failed in the same way, last seen first."""
    wanted, order, cursor = _groups_request(request)
    services = services_of(request)
    with transaction(services.engine, snapshot=True) as tx:
        found = read.page(tx, wanted, order, cursor=cursor, limit=ROWS)
        workflows = [row.workflow for row in subscription_rows.current(tx)]
    return rendered(
        request,
        visitor,
        "failures.html",
        place="Failures",
        found=_for(found, visitor),
        kinds=list(GroupKind),
        states=list(GroupState),
        workflows=workflows,
        orders=list(get_args(Order)),
        is_filtered=wanted != GroupFilter(),
    )


def groups_file(request: Request, visitor: Visitor, suffix: str) -> Response:
    """The same as a file."""
    wanted, order, start = _groups_request(request)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:

        def find(cursor: str | None, limit: int) -> GroupPage:
            found = read.page(tx, wanted, order, cursor=cursor, limit=limit)
            return _for(found, visitor)

        return exported("failures", suffix, find, start)


def group(request: Request, visitor: Visitor) -> Response:
    """One group, with samples, versions and notes, and what can be done about it."""
    services = services_of(request)
    group_id = text(request.path_params, "group_id", 100)
    with transaction(services.engine, snapshot=True) as tx:
        found = read.story(tx, group_id) if group_id is not None else None
        seen = None if found is None else sample(tx, found.id, [run.id for run in found.runs])
    if found is None:
        raise Problem("not-found", f"there is no failure group {group_id}")
    if not visitor.sees_payloads:
        read.redact(found)
    return rendered(
        request,
        visitor,
        "failure.html",
        place="Failures",
        group=found,
        sample=seen if visitor.sees_payloads else None,
        trace=trace_of(seen.traceback) if seen is not None and visitor.sees_payloads else None,
        first=min(found.versions, key=lambda one: one.first_seen_at, default=None),
        ticks=_ticks(found),
        may_act=visitor.may(Scope.RUNS_REPLAY),
        may_edit=visitor.may(Scope.RUNS_EDIT) and visitor.sees_payloads,
        has_runs=found.kind in RUN_KINDS,
        moves=[to for to, since in MOVES.items() if found.state in since],
        rate=services.settings.replay_rate,
        stop_share=services.settings.replay_stop_share,
    )


def _ticks(found: GroupStory) -> list[datetime]:
    """Five times along the chart of a group, which is never narrower than `BUCKETS_MIN`."""
    if not found.sparkline:
        return []
    last, count = found.sparkline[-1].since, max(BUCKETS_MIN, len(found.sparkline))
    span = timedelta(seconds=found.bucket_s) * (count - 1)
    return [last - span + span * fourth / 4 for fourth in range(5)]


def replays(request: Request, visitor: Visitor) -> Response:
    """Replays, newest first."""
    state, cursor = _replays_request(request)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = replay_reads.page(tx, state=state, cursor=cursor, limit=ROWS)
    return rendered(
        request, visitor, "replays.html", place="Replays", found=found, states=list(ReplayState)
    )


def replays_file(request: Request, _visitor: Visitor, suffix: str) -> Response:
    """The same as a file."""
    state, cursor = _replays_request(request)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:

        def find(at: str | None, limit: int) -> ReplayPage:
            return replay_reads.page(tx, state=state, cursor=at, limit=limit)

        return exported("replays", suffix, find, cursor)


def one_replay(request: Request, visitor: Visitor) -> Response:
    """A replay: its plan, how far it is, and its runs."""
    services = services_of(request)
    given = request.path_params["replay_id"]
    id_ = canonical(given)
    cursor = id_of(request.query_params, "cursor")
    with transaction(services.engine, snapshot=True) as tx:
        found = replay_reads.find(tx, id_) if id_ is not None else None
        if found is None or id_ is None:
            raise Problem("not-found", f"there is no replay {given!r}")
        runs = replay_reads.runs(tx, id_, cursor=cursor, limit=ROWS)
    return rendered(
        request,
        visitor,
        "one_replay.html",
        place="Replays",
        replay=found,
        runs=runs,
        edits=of_replay(request, found) if _is_shown(found, visitor) else [],
        patch=found.patch if visitor.sees_payloads else None,
        verbs=[verb for verb, states in ALLOWED.items() if found.state in states],
        may_act=visitor.may(Scope.RUNS_REPLAY),
        is_over=found.state in ENDED,
    )


def replayed_runs_file(request: Request, _visitor: Visitor, suffix: str) -> Response:
    """The runs of a replay as a file: what became of each."""
    services = services_of(request)
    given = request.path_params["replay_id"]
    id_ = canonical(given)
    cursor = id_of(request.query_params, "cursor")
    with open_autocommit(services.engine) as tx:
        if id_ is None or replay_reads.find(tx, id_) is None:
            raise Problem("not-found", f"there is no replay {given!r}")

        def find(at: str | None, limit: int) -> ReplayedRunsPage:
            return replay_reads.runs(tx, id_, cursor=at, limit=limit)

        return exported(f"replay-{id_}", suffix, find, cursor)


def _is_shown(found: ReplayStory, visitor: Visitor) -> bool:
    return found.state == ReplayState.PLANNED and visitor.sees_payloads


def _groups_request(request: Request) -> tuple[GroupFilter, Order, str | None]:
    query = request.query_params
    kind, state = text(query, "kind"), text(query, "state")
    if kind is not None and kind not in set(GroupKind):
        raise Problem("invalid-request", f"kind must be one of {', '.join(GroupKind)}")
    if state is not None and state not in set(GroupState):
        raise Problem("invalid-request", f"state must be one of {', '.join(GroupState)}")
    order: Order = "last_seen"
    for known in get_args(Order):
        if query.get("order") == known:
            order = known
    wanted = GroupFilter(
        kind=None if kind is None else GroupKind(kind),
        states=() if state is None else (GroupState(state),),
        workflow=text(query, "workflow"),
        since=time_of(query, "since"),
        is_empty=flag(query, "empty") or False,
    )
    return wanted, order, text(query, "cursor", 100)


def _replays_request(request: Request) -> tuple[ReplayState | None, str | None]:
    state = text(request.query_params, "state")
    if state is not None and state not in set(ReplayState):
        raise Problem("invalid-request", f"state must be one of {', '.join(ReplayState)}")
    cursor = id_of(request.query_params, "cursor")
    return None if state is None else ReplayState(state), cursor


def _for(found: GroupPage, visitor: Visitor) -> GroupPage:
    if not visitor.sees_payloads:
        for row in found.items:
            read.redact(row)
    return found
