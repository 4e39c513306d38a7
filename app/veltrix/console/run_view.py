"""A run with its whole story, and the first page with its live figures: read only."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from veltrix.access.scopes import Scope
from veltrix.console.alarms import alarms
from veltrix.console.edit_diff import edit_of
from veltrix.console.live import Live
from veltrix.console.rendering import form_key, rendered
from veltrix.console.run_timeline import PLACES, courses_of
from veltrix.console.sessions import Visitor, visitor_of
from veltrix.console.tracebacks import Trace, trace_of
from veltrix.domain.ids import event_id_of
from veltrix.domain.states import OPEN, RunState
from veltrix.operations.runs import read_events
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.read_events import EventStory
from veltrix.operations.runs.read_story import RunStory, story
from veltrix.operations.runs.read_waits import waits
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.web.problems import Problem, unavailable
from veltrix.web.services import services_of

# What an action says when it is done, by the word in the address that it leads to.
DONE = {
    "edited": "The edited payload runs as this new run. The run it was made from stays failed.",
    "started": "The start is accepted: this is its run.",
    "replayed": "The run is queued again, in its next generation.",
    "cancelled": "The run is cancelled.",
    "cancel-requested": "A worker holds the run; it ends before its next step.",
}


def overview(request: Request, visitor: Visitor) -> Response:
    """The books, and what moves."""
    live: Live = request.app.state.live
    figures = live.figures()
    return rendered(
        request,
        visitor,
        "overview.html",
        place="Overview",
        figures=figures,
        alarms=alarms(figures),
    )


async def live_figures(request: Request) -> Response:
    """The figures as server-sent events, until the session is over or the api ends."""
    live: Live = request.app.state.live
    return await _streamed(request, live, live.watch)


async def live_moves(request: Request) -> Response:
    """That something moved, as server-sent events, for as long as the figures would be."""
    live: Live = request.app.state.live
    return await _streamed(request, live, live.moves)


async def _streamed(
    request: Request, live: Live, stream: Callable[[Callable[[], bool]], AsyncIterator[str]]
) -> Response:
    state = request.app.state
    visitor = await run_in_threadpool(visitor_of, request)
    if visitor is None or not visitor.may(Scope.RUNS_READ):
        raise Problem("unauthorized", "sign in to the console first")
    if not live.has_room:
        raise unavailable("too many pages are watching the figures", 10)

    def may_go_on() -> bool:
        return not state.is_leaving and visitor_of(request) is not None

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(may_go_on), media_type="text/event-stream", headers=headers)


def run(request: Request, visitor: Visitor) -> Response:
    """A run from its event to its outcome."""
    found, sent = find_run(request)
    services = services_of(request)
    edit = None
    if found.origin_run_id is not None:
        with transaction(services.engine, snapshot=True) as tx:
            edit = edit_of(tx, found.id, sent)
    with open_autocommit(services.engine) as tx:
        wait = waits(tx, [found]).get(found.id)
    now = datetime.now(UTC)
    return rendered(
        request,
        visitor,
        "run.html",
        place="Runs",
        run=found,
        event=sent,
        edit=edit,
        fault=fault_of(found),
        wait=wait,
        courses=courses_of(found, now),
        positions=PLACES,
        is_open=found.state in OPEN,
        may_act=visitor.may(Scope.RUNS_REPLAY),
        may_edit=visitor.may(Scope.RUNS_EDIT) and visitor.sees_payloads,
        done=DONE.get(request.query_params.get("done", "")),
    )


class RunError(msgspec.Struct, frozen=True):
    """What a run failed with, or what it tries again after. `step` None: no step was at it."""

    type: str
    step: str | None
    message: str | None
    trace: Trace | None


def fault_of(found: RunStory) -> RunError | None:
    """The error that the run ended with; of an open run the last one; None: there is none."""
    if found.state not in {RunState.FAILED, *OPEN}:
        return None
    tried = [one for one in found.failed_attempts if one.generation == found.generation]
    if found.state == RunState.FAILED:
        tried = [one for one in tried if one.fingerprint == found.fingerprint] or tried
    last = max(tried, key=lambda one: (one.failed_at, one.attempt), default=None)
    if found.state != RunState.FAILED:
        if last is None:
            return None
        return RunError(last.type, last.step or None, last.message, trace_of(last.traceback))
    error = _error_of(found)
    trace = None if last is None else trace_of(last.traceback)
    if last is not None:
        error = error or (last.type, last.message)
    type_, message = error or (found.reason or "failed", None)
    return RunError(type_, found.failed_step, message, trace)


def _error_of(found: RunStory) -> tuple[str, str | None] | None:
    """Type and message of the outcome, if it is an error."""
    try:
        error = msgspec.json.decode(found.outcome or b"null", type=_Error | None)
    except msgspec.ValidationError:
        return None
    return None if error is None or error.type is None else (error.type, error.message)


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


def confirm_replay(request: Request, visitor: Visitor) -> Response:
    """What a replay of this run would do, before it is done."""
    found, _ = find_run(request)
    if found.state != RunState.FAILED:
        raise Problem("wrong-state", f"the run is {found.state}: only a failed run is replayed")
    return rendered(
        request,
        visitor,
        "replay.html",
        place="Runs",
        run=found,
        kept=list(_kept(found)),
        once=form_key(),
    )


def confirm_cancel(request: Request, visitor: Visitor) -> Response:
    """What a cancel of this run would do, before it is done."""
    found, _ = find_run(request)
    if found.state not in OPEN:
        raise Problem("wrong-state", f"the run is {found.state}: only an open run is cancelled")
    return rendered(request, visitor, "cancel.html", place="Runs", run=found, once=form_key())


def _kept(found: RunStory) -> Iterator[str]:
    """The names of finished steps in the run's generation."""
    for step in found.steps:
        if step.generation == found.generation and step.error is None and step.kind == "step":
            yield step.name


def find_run(request: Request) -> tuple[RunStory, EventStory | None]:
    """The run of the address, and its event, if that is still there. Raises a 404 Problem."""
    services = services_of(request)
    given = request.path_params["run_id"]
    id_ = canonical(given)
    with transaction(services.engine, snapshot=True) as tx:
        found = story(tx, id_) if id_ is not None else None
        if found is None or id_ is None:
            raise Problem("not-found", f"there is no run {given}")
        return found, read_events.find(tx, event_id_of(id_))
