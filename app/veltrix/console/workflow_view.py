"""A workflow: what became of its newest runs, its versions, its input, and a form to start it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.access.scopes import Scope
from veltrix.console.actions import Form
from veltrix.console.query import text
from veltrix.console.rendering import address, form_key, pretty, rendered
from veltrix.console.sessions import Visitor, check_bounds
from veltrix.console.start_form import WHOLE, NotJson, fields_of, input_of
from veltrix.operations.failures import read as groups
from veltrix.operations.failures.read import GroupFilter
from veltrix.operations.runs.read_workflow import VersionRuns, workflow_runs
from veltrix.pipeline.accept.event_list import DirectStart, Submission
from veltrix.pipeline.accept.receipts import Receipt
from veltrix.releases import subscription_rows
from veltrix.releases.read import Version, versions
from veltrix.releases.subscription_rows import Subscription
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.web.event_problems import Unanswered
from veltrix.web.problems import Problem
from veltrix.web.services import Services, services_of
from veltrix.web.starting import problem_of_start, submission_of

T = TypeVar("T")

GROUPS = 5
_AS_JSON = "json"
_CORRECTABLE = {400, 409, 413}


def workflow(request: Request, visitor: Visitor) -> Response:
    """The page of one workflow."""
    is_json = request.query_params.get("as") == _AS_JSON
    return _page(request, visitor, is_json=is_json)


def start(request: Request, visitor: Visitor, form: Form) -> Response:
    """Start the workflow with the input of the form; what does not fit is said above it."""
    name = request.path_params["name"]
    check_bounds(request, visitor, workflow=name)
    try:
        run_id = _started(request, visitor, name, form)
    except Problem as refused:
        if refused.status not in _CORRECTABLE:
            raise
        is_json = form.get("as") == _AS_JSON
        return _page(request, visitor, is_json=is_json, given=form, refused=refused)
    return RedirectResponse(address(f"/runs/{run_id}", done="started"), 303)


def _started(request: Request, visitor: Visitor, name: str, form: Form) -> str:
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        now = _current(tx, name)
    if now is None:
        raise Problem("not-found", f"no workflow is named {name!r}, or it is retired")
    if text(form, "version") != now.code_version:
        raise Problem(
            "changed",
            "other code of this workflow was deployed since the form was read: look whether the"
            " input still fits, and send it again",
        )
    fields = [] if form.get("as") == _AS_JSON else fields_of(now.input_schema)
    try:
        raw = input_of(fields, form)
    except NotJson as problem:
        raise Problem("invalid-body", str(problem)) from None
    workflow_ = _in_loop(request, services.catalog.workflows()).get(name)
    if workflow_ is None:
        raise Problem("not-found", f"no workflow is named {name!r}, or it is retired")
    direct = DirectStart(name, workflow_.subscription.queue)
    author = visitor.author.name
    made = submission_of(services, author, workflow_, msgspec.Raw(raw), services.new_key(), direct)
    if isinstance(made, Problem):
        raise made
    answer = _in_loop(request, _submitted(services, made))
    if not isinstance(answer, Receipt):
        raise problem_of_start(answer)
    return answer.runs[0].id


def _in_loop(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """What `call` gives in the api's loop, for this thread."""
    return asyncio.run_coroutine_threadsafe(call, request.state.loop).result()


async def _submitted(services: "Services", made: Submission) -> Receipt | Unanswered:
    answers: list[Receipt | Unanswered] = list(await services.acceptor.submit([made]))
    return answers[0]


def _page(
    request: Request,
    visitor: Visitor,
    *,
    is_json: bool,
    given: Form | None = None,
    refused: Problem | None = None,
) -> Response:
    services = services_of(request)
    name = request.path_params["name"]
    with transaction(services.engine, snapshot=True) as tx:
        known = versions(tx, name)
        if not known:
            raise Problem("not-found", f"there is no workflow {name}")
        now = _current(tx, name)
        found = workflow_runs(tx, name)
        failed = groups.page(tx, GroupFilter(workflow=name), limit=GROUPS).items
    schema = None if now is None else now.input_schema
    if not visitor.sees_payloads:
        for group in failed:
            groups.redact(group)
    return rendered(
        request,
        visitor,
        "workflow.html",
        status=200 if refused is None else refused.status,
        place="Workflows",
        name=name,
        current=now,
        versions=[(one, _runs_of(one, found.versions)) for one in known],
        found=found,
        groups=failed,
        fields=[] if is_json else fields_of(schema),
        schema=None if schema is None else pretty(msgspec.json.encode(schema).decode()),
        has_fields=bool(fields_of(schema)),
        is_json=is_json,
        given=given or {},
        whole=WHOLE,
        refused=refused,
        errors=[] if refused is None else refused.members.get("errors", []),
        may_start=visitor.may(Scope.EVENTS_WRITE),
        once=form_key(),
    )


def _current(tx: Connection, name: str) -> Subscription | None:
    return next((row for row in subscription_rows.current(tx) if row.workflow == name), None)


def _runs_of(version: Version, counted: list[VersionRuns]) -> VersionRuns:
    none = VersionRuns(version.code_version, 0, 0)
    return next((one for one in counted if one.code_version == version.code_version), none)
