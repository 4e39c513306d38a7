"""What the console does with failure groups and replays; audited by the stages that do it."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.console.actions import Form, mode_of, reason_of
from veltrix.console.query import text
from veltrix.console.rendering import address
from veltrix.console.sessions import Visitor, check_bounds
from veltrix.operations.failures import triage
from veltrix.operations.failures.triage import Moved, Noted, NotMoved
from veltrix.operations.replays import plan
from veltrix.operations.replays.rules import Options, Verb
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import RunQuery
from veltrix.web.not_done import problem_of_group, refusing
from veltrix.web.problems import Problem
from veltrix.web.services import services_of
from veltrix.web.suggestions import nowhere

if TYPE_CHECKING:
    from veltrix.settings.fields import Settings

_GROUP_ACTIONS = ("resolve", "ignore", "reopen", "note")


def act_on_group(request: Request, visitor: Visitor, form: Form) -> Response:
    """Resolve, ignore or reopen a group, or write a note beside it."""
    services = services_of(request)
    group_id, verb = group_id_of(request), request.path_params["verb"]
    if verb not in _GROUP_ACTIONS:
        raise Problem("not-found", nowhere("action on a failure group", verb, _GROUP_ACTIONS))
    check_bounds(request, visitor, group=group_id)
    act: Callable[[str, str], Moved | Noted | NotMoved]
    if verb == "resolve":
        act = partial(triage.resolve, services.engine, group_id, text(form, "version"))
    else:
        act = partial(getattr(triage, verb), services.engine, group_id)
    answer = act(reason_of(form), visitor.author.name)
    if isinstance(answer, NotMoved):
        raise problem_of_group(answer)
    return RedirectResponse(address(f"/failures/{answer.id}"), 303)


def plan_group(request: Request, visitor: Visitor, form: Form) -> Response:
    """Plan a replay of a group's failed runs: the set is frozen, and nothing moves."""
    services = services_of(request)
    settings = services.settings
    mode = mode_of(form)
    options = msgspec.structs.replace(options_of(form, settings), mode=mode)
    group_id = group_id_of(request)
    check_bounds(request, visitor, group=group_id)
    planned = plan.PlanRequest(
        wanted=RunQuery(fingerprint=group_id),
        options=options,
        author=visitor.author.name,
        reason=reason_of(form),
        request={"group": group_id, "from": mode, "canary": options.canary, "rate": options.rate},
    )
    story = refusing(partial(plan.plan, services.engine, planned, settings.event_bytes_max))
    return RedirectResponse(address(f"/replays/{story.id}"), 303)


def act_on_replay(request: Request, visitor: Visitor, form: Form) -> Response:
    """Start, pause, resume or abort a replay."""
    services = services_of(request)
    given, verb = request.path_params["replay_id"], request.path_params["verb"]
    id_ = canonical(given)
    if id_ is None:
        raise Problem("not-found", f"there is no replay {given!r}")
    if verb not in set(Verb):
        raise Problem("not-found", nowhere("action on a replay", verb, list(Verb)))
    check_bounds(request, visitor, replay=id_)
    reason, author = reason_of(form), visitor.author.name
    turn = partial(plan.act, services.engine, id_, Verb(verb), reason=reason, author=author)
    refusing(turn)
    return RedirectResponse(address(f"/replays/{id_}"), 303)


def options_of(form: Form, settings: "Settings") -> Options:
    """Rate, canary and bound as the form says; without a rate, that of the settings."""
    percent = _number(form, "stop_percent", 100)
    return Options(
        rate=_number(form, "rate", 100_000) or settings.replay_rate,
        canary=int(_number(form, "canary", 100_000) or 0),
        stop_share=None if percent is None else percent / 100,
    )


def group_id_of(request: Request) -> str:
    """The id in the address; a 404 Problem for what cannot be one."""
    group_id = text(request.path_params, "group_id", 100)
    if group_id is None:
        raise Problem(
            "not-found", "the address names no failure group: go to it from the list of failures"
        )
    return group_id


def _number(form: Form, name: str, at_most: float) -> float | None:
    """The field as a number from 0; None when it is empty."""
    given = text(form, name, 20)
    if given is None:
        return None
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= at_most:
        raise Problem("invalid-request", f"{name} must be a number from 0 to {at_most:,.0f}")
    return number
