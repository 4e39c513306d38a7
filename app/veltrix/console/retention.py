"""For how long history is kept: the policies, what may leave by them, and putting some in force."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.access.scopes import Scope
from veltrix.console.actions import Form, reason_of
from veltrix.console.query import flag, number, text
from veltrix.console.rendering import address, rendered
from veltrix.console.sessions import Visitor, check_bounds
from veltrix.domain.text import size_text
from veltrix.operations.retention.plan import plan
from veltrix.operations.retention.policies import set_policies, standing
from veltrix.operations.retention.rules import (
    DAY_S,
    DEFAULTS,
    PolicyOutcome,
    PolicyRefused,
    RetentionPolicy,
    Stays,
)
from veltrix.releases import subscription_rows
from veltrix.store.transactions import open_autocommit
from veltrix.web.not_done import problem_of_policy
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

ROWS_MAX = 300_000  # of a page: about a second
NEVER = "never"
_LINES_DAYS = 400
_WHY = {
    Stays.OPEN: "open",
    Stays.FAILED: "failed, not dealt with",
    Stays.ASTRAY: "without a run",
    Stays.UNROUTED: "unrouted",
    Stays.POLICY: "own policy",
    Stays.NEVER: "no policy",
    Stays.YOUNG: "too young",
    Stays.UNSEALED: "books not sealed",
}


def retention(request: Request, visitor: Visitor) -> Response:
    """The policies, and what they let go; with fields in the address, as if that one were one."""
    query, engine = request.query_params, services_of(request).engine
    proposed = _proposed(query)
    try:
        found = plan(engine, proposed, cursor=_minute(query), rows_max=ROWS_MAX)
    except PolicyRefused as refused:
        raise problem_of_policy(refused) from None
    with open_autocommit(engine) as tx:
        known = standing(tx)
        workflows = [row.workflow for row in subscription_rows.current(tx)]
    return rendered(
        request,
        visitor,
        "retention.html",
        place="Retention",
        policies=known.policies,
        proposed=proposed,
        plan=found,
        why=[(one.value, words) for one, words in _WHY.items()],
        outcomes=list(PolicyOutcome),
        workflows=workflows,
        may_set=visitor.may(Scope.ADMIN),
        told=_told,
        size=size_text,
    )


def set_retention(request: Request, visitor: Visitor, form: Form) -> Response:
    """Put the policy of the form in force, or the usual ones."""
    proposed, reason = _proposed(form), reason_of(form)
    if not proposed:
        raise Problem("invalid-request", "outcome is needed: a policy is about what ended so")
    for workflow in sorted({one.workflow for one in proposed}):
        check_bounds(request, visitor, workflow=workflow or None)
    try:
        set_policies(services_of(request).engine, proposed, reason, visitor.author.name)
    except PolicyRefused as refused:
        raise problem_of_policy(refused) from None
    return RedirectResponse(address("/retention"), 303)


def _proposed(fields: Mapping[str, str]) -> list[RetentionPolicy]:
    """The policy that the fields describe; none: no outcome is chosen."""
    if flag(fields, "defaults"):
        return list(DEFAULTS)
    outcome = text(fields, "outcome")
    if outcome is None:
        return []
    if outcome not in set(PolicyOutcome):
        raise Problem("invalid-request", f"outcome must be one of {', '.join(PolicyOutcome)}")
    content_s = _seconds(fields, "content")
    lines_s = _seconds(fields, "lines")
    if text(fields, "lines") is None and content_s is not None:
        lines_s = max(content_s, _LINES_DAYS * DAY_S)
    workflow = text(fields, "workflow") or ""
    return [RetentionPolicy(workflow, PolicyOutcome(outcome), content_s, lines_s)]


def _seconds(fields: Mapping[str, str], name: str) -> int | None:
    """Days in a field; None: for ever, or that nothing is written."""
    if fields.get(name, "").strip().lower() == NEVER:
        return None
    days = number(fields, name)
    if days is None and name == "content":
        raise Problem("invalid-request", "content must be a number of days, or never")
    return None if days is None else min(days, 10**6) * DAY_S


def _minute(query: Mapping[str, str]) -> int | None:
    minute = number(query, "cursor")
    if minute is not None and minute >= 10**9:
        raise Problem("invalid-request", "cursor must be what a page before led to")
    return minute


def _told(seconds: int | None) -> str:
    return "for ever" if seconds is None else f"{seconds / DAY_S:,.6g} days"
