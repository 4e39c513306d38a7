"""A failed run's payload edited by hand: shown as a text, and run again as a new run.

What is refused is said above the text, which stays as it was typed.
"""

from urllib.parse import quote_plus

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.access.scopes import Scope
from veltrix.console.actions import Form, reason_of
from veltrix.console.query import text
from veltrix.console.rendering import address, form_key, pretty, rendered
from veltrix.console.run_view import find_run
from veltrix.console.sessions import Visitor, check_bounds, check_scope
from veltrix.domain.json_text import json_problem
from veltrix.domain.states import RunState
from veltrix.operations.replays.edit import EditOf
from veltrix.operations.replays.patch import replacing
from veltrix.operations.replays.plan import EditedNow, edit_now, tag_text
from veltrix.operations.runs.read_events import EventStory
from veltrix.operations.runs.read_story import RunStory
from veltrix.web.not_done import refusing
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

# A form makes three bytes of a quotation mark, and of half a letter.
PAYLOAD_TIMES = 3
_CORRECTABLE = {400, 409, 412, 413}


def edit_form(request: Request, visitor: Visitor) -> Response:
    """The payload of a failed run as a text to be changed."""
    check_scope(request, visitor, Scope.PAYLOADS_READ)
    found, sent = find_run(request)
    if found.state != RunState.FAILED:
        raise Problem("wrong-state", f"the run is {found.state}: only a failed run is edited")
    return _page(request, visitor, found, _text_of(request, sent))


def edit_run(request: Request, visitor: Visitor, form: Form) -> Response:
    """Run the payload of the form as a new run, if nobody acted on the origin since it was read."""
    check_scope(request, visitor, Scope.PAYLOADS_READ)
    check_bounds(request, visitor, run_ids=[request.path_params["run_id"]])
    given = form.get("data", "").replace("\r\n", "\n")
    try:
        made = _made(request, visitor, form, given)
    except Problem as refused:
        if refused.status not in _CORRECTABLE:
            raise
        found, _ = find_run(request)
        return _page(request, visitor, found, given, form.get("reason", ""), refused)
    return RedirectResponse(address(f"/runs/{made.id}", done="edited"), 303)


def _made(request: Request, visitor: Visitor, form: Form, given: str) -> EditedNow:
    services = services_of(request)
    found, _ = find_run(request)
    version = text(form, "version")
    if version is None:
        raise Problem(
            "invalid-request", "version must say in which the payload was read: open the page again"
        )
    reason = reason_of(form)
    if problem := json_problem(given.encode()):
        raise Problem("invalid-body", f"the payload is {problem}")
    settings, new_ids = services.settings, services.acceptor.new_ids
    limits = (settings.event_bytes_max, new_ids, settings.accounts_max)
    of = EditOf("", visitor.author.name, reason, *limits)
    patch = replacing(given)
    made: EditedNow = refusing(lambda: edit_now(services.engine, found.id, patch, version, of))
    return made


def _page(
    request: Request,
    visitor: Visitor,
    found: RunStory,
    given: str,
    reason: str = "",
    refused: Problem | None = None,
) -> Response:
    """The form, in the version that the run has now: who sends it again has seen what changed."""
    return rendered(
        request,
        visitor,
        "edit.html",
        status=200 if refused is None else refused.status,
        place="Runs",
        run=found,
        payload=given,
        reason=reason,
        refused=refused,
        errors=[] if refused is None else _places_of(refused),
        version=tag_text((found.generation, found.state, len(found.edited_as))),
        may_send=found.state == RunState.FAILED,
        once=form_key(),
    )


def _text_of(request: Request, sent: EventStory | None) -> str:
    """The payload with line breaks; as it was sent where that would be too long for a form."""
    if sent is None:
        raise Problem("not-found", "the event of this run is gone, and its payload with it")
    if sent.data_base64 is not None:
        raise Problem("not-json", "the payload of this run is not JSON: it cannot be edited")
    if sent.data is None:
        return "null"
    services = services_of(request)
    lines = pretty(sent.data, services.settings.event_bytes_max)
    is_sendable = len(quote_plus(lines.replace("\n", "\r\n"))) <= (
        PAYLOAD_TIMES * services.settings.event_bytes_max
    )
    return lines if is_sendable else bytes(sent.data).decode()


def _places_of(refused: Problem) -> list[dict[str, str]]:
    """All places of the payload that do not fit: a form has one run."""
    return [error for run in refused.members.get("runs", ()) for error in run["errors"]]
