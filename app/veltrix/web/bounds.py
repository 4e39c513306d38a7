"""What a key that is bound may do: send events of its sources and types, act on its workflows.

Reading is not bound. A run never changes its workflow, nor does a group or a replay once it is
planned: what is looked up here is still so when it is acted on.
"""

import asyncio
from collections.abc import Sequence

from fastapi import Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from veltrix.access.keys import DOCTOR_NAME
from veltrix.domain.events import CANARY_SOURCE, NewEvent
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.touched_rows import (
    workflow_of_group,
    workflows_of_replay,
    workflows_of_runs,
)
from veltrix.pipeline.accept.event_checks import BadEvent
from veltrix.pipeline.accept.receipts import EventForbidden
from veltrix.store.transactions import open_autocommit
from veltrix.web.auth import LOCAL, Author, note_refused
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

BOUND = "bound"  # why, in the audit's count of refusals
# Without keys everybody is local.
_CANARY_SENDERS = frozenset({LOCAL.name, DOCTOR_NAME})
_AT_ONCE = 16  # events; with all the patterns that a key can have, 13 ms


def is_canary(event: object) -> bool:
    """Whether it is an event of the canary's source, which is in no book."""
    return isinstance(event, NewEvent) and event.source == CANARY_SOURCE


async def events_within(
    request: Request, author: Author, events: Sequence[NewEvent | BadEvent]
) -> list[NewEvent | BadEvent | EventForbidden]:
    """The events, and an EventForbidden in place of each that the key may not send.

    Refusals are in the audit as one, with their number.
    """
    found: list[NewEvent | BadEvent | EventForbidden] = []
    for number, one in enumerate(events, 1):
        found.append(_within(author, one) if isinstance(one, NewEvent) else one)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    strays = [one for one in found if isinstance(one, EventForbidden)]
    if strays:
        result = {"status": 403, "events": len(strays), "first": str(strays[0])}
        await note_refused(request, author, BOUND, result)
    return found


async def check_bounds(
    request: Request,
    author: Author,
    *,
    run_ids: Sequence[str] | None = None,
    replay: str | None = None,
    workflow: str | None = None,
    group: str | None = None,
) -> None:
    """As `check_touched`; the refusal is in the audit, or counted there, before it is answered."""
    if author.limits is None or not author.limits.is_bound:
        return
    engine = services_of(request).engine
    try:
        await run_in_threadpool(
            check_touched,
            engine,
            author,
            run_ids=run_ids,
            replay=replay,
            workflow=workflow,
            group=group,
        )
    except Problem as refused:
        result = {"status": refused.status, "why": refused.detail}
        await note_refused(request, author, BOUND, result)
        raise


def check_touched(
    engine: Engine,
    author: Author,
    *,
    run_ids: Sequence[str] | None = None,
    replay: str | None = None,
    workflow: str | None = None,
    group: str | None = None,
) -> None:
    """Nothing, if the key may act on these runs, or on all of this replay, workflow or group.

    Without any of them the act is on runs of any workflow. Raises a 403 Problem.
    """
    if author.limits is None or not author.limits.is_bound:
        return
    touched: Sequence[str | None] = [workflow]
    if workflow is None and (run_ids is not None or replay is not None or group is not None):
        with open_autocommit(engine) as tx:
            if run_ids is not None:
                known = [id_ for id_ in map(canonical, run_ids) if id_ is not None]
                touched = workflows_of_runs(tx, known)
            elif replay is not None:
                touched = workflows_of_replay(tx, replay)
            else:
                touched = [workflow_of_group(tx, group or "")]
    for one in touched:
        if why := author.limits.stray_workflow(one):
            raise Problem("forbidden", f"the key {author.name!r} {why}")


def _within(author: Author, event: NewEvent) -> NewEvent | EventForbidden:
    why = author.limits and author.limits.stray_event(event.source, event.type)
    if is_canary(event) and author.name not in _CANARY_SENDERS:
        why = "sends no canary events: only that of VELTRIX_DOCTOR_KEY_FILE does"
    if not why:
        return event
    return EventForbidden(f"the key {author.name!r} {why}", event.source, event.id)
