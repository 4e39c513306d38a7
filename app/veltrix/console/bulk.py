"""Cancel, archive and restore of all runs that a filter describes: counted, asked, done or not.

What is confirmed is a number: if there are not exactly so many any more, nothing is done.
"""

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.console.actions import Form, reason_of
from veltrix.console.query import number, runs_request
from veltrix.console.rendering import address, form_key, rendered
from veltrix.console.sessions import Visitor, check_bounds
from veltrix.operations.runs.bulk import BulkAction, BulkRequest, NotDone, act, count, is_everything
from veltrix.operations.runs.query import RunQuery
from veltrix.web.not_done import problem_of_bulk
from veltrix.web.problems import Problem
from veltrix.web.services import services_of
from veltrix.web.suggestions import nowhere

# What is said when it is done, where it leads to.
_DONE = {
    BulkAction.CANCEL: "cancelled",
    BulkAction.ARCHIVE: "archived",
    BulkAction.RESTORE: "restored",
}


def confirm_bulk(request: Request, visitor: Visitor) -> Response:
    """How many runs it would be done to, and what that means, before it is done."""
    services = services_of(request)
    action, wanted = _bulk_query(request)
    found = count(services.engine, action, wanted)
    if isinstance(found, NotDone):
        raise problem_of_bulk(found)
    return rendered(
        request,
        visitor,
        "bulk.html",
        place="Runs" if wanted.fingerprint is None else "Failures",
        action=action,
        runs=found,
        conditions=wanted.conditions,
        is_everything=is_everything(services.engine, action, wanted),
        here=address(f"/bulk/{action}", request.query_params),
        back=_back(request, wanted),
        once=form_key(),
    )


def act_in_bulk(request: Request, visitor: Visitor, form: Form) -> Response:
    """Do it to exactly as many runs as were confirmed, or to none."""
    services = services_of(request)
    action, wanted = _bulk_query(request)
    check_bounds(request, visitor, workflow=wanted.workflow, group=wanted.fingerprint)
    expected = number(form, "expected")
    if expected is None:
        raise Problem(
            "invalid-request", "expected must say how many runs were confirmed: open the page again"
        )
    bulk = BulkRequest(
        action=action,
        wanted=wanted,
        is_all=form.get("all") == "yes",
        expected=expected,
        reason=reason_of(form),
        author=visitor.author.name,
    )
    answer = act(services.engine, bulk)
    if isinstance(answer, NotDone):
        raise problem_of_bulk(answer)
    return RedirectResponse(
        _back(
            request, wanted, done=_DONE[action], moved=answer.runs, requested=answer.requested or ""
        ),
        303,
    )


def _bulk_query(request: Request) -> tuple[BulkAction, RunQuery]:
    verb = request.path_params["verb"]
    if verb not in set(BulkAction):
        raise Problem("not-found", nowhere("action on many runs", verb, list(BulkAction)))
    query = runs_request(request.query_params)
    if query.by_event is not None:
        raise Problem(
            "invalid-request",
            "source, subject and type do not choose runs here: clear them, or name the event",
        )
    return BulkAction(verb), query.runs


def _back(request: Request, wanted: RunQuery, **said: Any) -> str:
    """Where it was asked from: a failure group, or a list of runs."""
    group = wanted.fingerprint
    if group is not None and wanted == RunQuery(fingerprint=group):
        return address(f"/failures/{quote(group, safe='')}", **said)
    return address("/runs", request.query_params, cursor=None, **said)
