"""A JSON Patch over the failed runs of a group: looked at before and after, then planned.

The plan is made by the same form; nothing moves until it is started. What is refused is said above
the text, which stays as it was typed.
"""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.access.scopes import Scope
from veltrix.console.actions import Form, reason_of
from veltrix.console.edit_diff import compared
from veltrix.console.rendering import address, form_key, pretty, rendered
from veltrix.console.replays import group_id_of, options_of
from veltrix.console.sessions import Visitor, check_bounds, check_scope
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays import plan, read
from veltrix.operations.replays.patch import Patch, PatchInvalid, exact, read_patch
from veltrix.operations.replays.preview import Preview, Previews, preview, previews
from veltrix.operations.replays.read import ReplayStory
from veltrix.operations.runs.query import RunQuery
from veltrix.store.transactions import transaction
from veltrix.web.not_done import refusing
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

SHOWN_RUNS = 5
_CORRECTABLE = {400, 404, 409, 413}
_AS_IT_IS: Patch = []
EXAMPLE = """[
  {"op": "test", "path": "/currency", "value": "EUR"},
  {"op": "replace", "path": "/items/0/cents", "value": 1250},
  {"op": "remove", "path": "/coupon"}
]"""


class PayloadView(msgspec.Struct, frozen=True):
    """A payload as a patch would change it: lines that differ, or why it cannot be changed."""

    run: str
    workflow: str
    lines: str
    refused: str | None
    errors: list[dict[str, str]]


def patch_form(request: Request, visitor: Visitor) -> Response:
    """The form, over some payloads as they are."""
    check_scope(request, visitor, Scope.PAYLOADS_READ)
    return _page(request, visitor, {}, _looked_at(request, _AS_IT_IS), is_changed=False)


def preview_patch(request: Request, visitor: Visitor, form: Form) -> Response:
    """The form as it was sent, over payloads before and after."""
    check_scope(request, visitor, Scope.PAYLOADS_READ)
    try:
        found = _looked_at(request, _patch_of(form))
    except Problem as refused:
        return _again(request, visitor, form, refused)
    return _page(request, visitor, form, found, is_changed=True)


def plan_patch(request: Request, visitor: Visitor, form: Form) -> Response:
    """Plan the edit of all failed runs of the group, if every payload takes the patch."""
    for scope in (Scope.RUNS_REPLAY, Scope.PAYLOADS_READ):
        check_scope(request, visitor, scope)
    check_bounds(request, visitor, group=group_id_of(request))
    try:
        story = _planned(request, visitor, form)
    except Problem as refused:
        return _again(request, visitor, form, refused)
    return RedirectResponse(address(f"/replays/{story.id}"), 303)


def of_replay(request: Request, found: ReplayStory) -> list[PayloadView]:
    """What the patch of a planned replay will make of its first payloads."""
    if found.patch is None:
        return []
    services = services_of(request)
    patch: Patch = exact(bytes(found.patch))
    with transaction(services.engine, snapshot=True) as tx:
        first = read.runs(tx, found.id, limit=SHOWN_RUNS).items
        runs = [(run.run, run.generation) for run in first if run.moved_at is None]
        seen = previews(tx, runs, patch, services.settings.event_bytes_max)
    return [_view_of(one) for one in seen]


def _planned(request: Request, visitor: Visitor, form: Form) -> ReplayStory:
    services = services_of(request)
    patch, options = _patch_of(form), options_of(form, services.settings)
    options = msgspec.structs.replace(options, mode=ReplayMode.BEGINNING, patch=patch)
    group_id = group_id_of(request)
    how = {"canary": options.canary, "rate": options.rate, "stop_share": options.stop_share}
    planned = plan.PlanRequest(
        wanted=RunQuery(fingerprint=group_id),
        options=options,
        author=visitor.author.name,
        reason=reason_of(form),
        request={"group": group_id, "patch": msgspec.json.decode(form["patch"]), **how},
    )
    bytes_max = services.settings.event_bytes_max
    story: ReplayStory = refusing(partial(plan.plan, services.engine, planned, bytes_max))
    return story


def _patch_of(form: Form) -> Patch:
    try:
        return read_patch(form.get("patch", "").encode())
    except (PatchInvalid, UnicodeError) as error:
        raise Problem("invalid-patch", f"the patch is no JSON Patch: {error}") from None


def _looked_at(request: Request, patch: Patch) -> Previews:
    services = services_of(request)
    look = partial(
        preview,
        services.engine,
        RunQuery(fingerprint=group_id_of(request)),
        patch,
        services.settings.event_bytes_max,
        is_all=False,
        limit=SHOWN_RUNS,
    )
    found: Previews = refusing(look)
    return found


def _again(request: Request, visitor: Visitor, form: Form, refused: Problem) -> Response:
    if refused.status not in _CORRECTABLE:
        raise refused
    found = _looked_at(request, _AS_IT_IS)
    return _page(request, visitor, form, found, is_changed=False, refused=refused)


def _page(
    request: Request,
    visitor: Visitor,
    form: Form,
    found: Previews,
    *,
    is_changed: bool,
    refused: Problem | None = None,
) -> Response:
    services = services_of(request)
    return rendered(
        request,
        visitor,
        "patch.html",
        status=200 if refused is None else refused.status,
        place="Failures",
        group_id=group_id_of(request),
        form=form,
        patch=form.get("patch", "").replace("\r\n", "\n"),
        example=EXAMPLE,
        count=found.count,
        items=[_view_of(one) if is_changed else _as_it_is(one) for one in found.items],
        is_changed=is_changed,
        refused=refused,
        rate=services.settings.replay_rate,
        stop_share=services.settings.replay_stop_share,
        may_plan=visitor.may(Scope.RUNS_REPLAY),
        once=form_key(),
    )


def _as_it_is(one: Preview) -> PayloadView:
    return PayloadView(one.run, one.workflow, pretty(one.before), None, [])


def _view_of(one: Preview) -> PayloadView:
    if one.refused is not None:
        lines = pretty(one.before)
        return PayloadView(one.run, one.workflow, lines, one.refused.message, one.refused.errors)
    changes = compared(one.before, one.after)
    return PayloadView(one.run, one.workflow, changes or pretty(one.after), None, [])
