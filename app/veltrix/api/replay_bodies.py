"""What requests about replays hold, and examples of their answers."""

from typing import Annotated, Any

import msgspec

from veltrix.api.run_answers import RUN_ID
from veltrix.domain.ids import Id
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.patch import Patch, PatchInvalid, read_patch
from veltrix.operations.replays.preview import PREVIEW_RUNS_MAX
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import FailedRunsFilter, RunQuery, Word
from veltrix.web.problems import Problem
from veltrix.web.requests import storable

IDS_MAX = 10_000


class SelectionBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which failed runs: `ids`, a `group` (its fingerprint), a `filter`, or `all`."""

    ids: Annotated[list[Id], msgspec.Meta(max_length=IDS_MAX)] | None = None
    group: Word | None = None
    filter: FailedRunsFilter | None = None
    all: bool = False
    patch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class PlanBody(SelectionBody, kw_only=True, rename={"mode": "from"}, forbid_unknown_fields=True):
    """A plan. Left out, `rate` and `stop_share` are the server's; null: it never stops by itself.

    With a `patch` (RFC 6902) every run is a new run with the payload that the patch makes.
    """

    reason: Word
    mode: ReplayMode | None = None
    rate: float | None = None
    canary: int = 0
    stop_share: float | msgspec.UnsetType | None = msgspec.UNSET


class PreviewBody(SelectionBody, kw_only=True, forbid_unknown_fields=True):
    """What a patch would make of the first `limit` of these runs."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=PREVIEW_RUNS_MAX)] = 10
    reason: None = None


_REPLAY_ID = "019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
ROW: dict[str, Any] = {
    "id": _REPLAY_ID,
    "state": "planned",
    "why": None,
    "from": "failed_step",
    "rate": 50.0,
    "canary": 10,
    "stop_share": 0.1,
    "is_edit": False,
    "planned": 1204,
    "replayed": 0,
    "succeeded": 0,
    "failed_again": 0,
    "cancelled": 0,
    "skipped": 0,
    "author": "ann",
    "reason": "payments are back",
    "planned_at": "2026-01-31T12:00:00Z",
    "started_by": None,
    "started_at": None,
    "changed_by": None,
    "changed_at": "2026-01-31T12:00:00Z",
    "ended_at": None,
}
STORY: dict[str, Any] = {
    **ROW,
    "count": 1204,
    "by_workflow": {"fulfil_order": 1204},
    "by_error": [
        {
            "fingerprint": "5f1c0a9e",
            "workflow": "fulfil_order",
            "failed_step": "charge",
            "reason": "error",
            "count": 1204,
            "run": RUN_ID,
        }
    ],
    "by_age": {"within_1_h": 1204, "within_1_d": 0, "within_7_d": 0, "older": 0},
    "runs_journalled": 1204,
    "steps_journalled": 1204,
    "warnings": [
        {
            "kind": "effect_may_repeat",
            "message": "have tried this step in vain; what it did to others before it failed may"
            " happen again",
            "runs": 1204,
            "workflow": "fulfil_order",
            "step": "charge",
        }
    ],
    "predicted_s": 24.1,
}


def patch_of(raw: msgspec.Raw | msgspec.UnsetType) -> Patch | None:
    """The JSON Patch that was sent, if one was."""
    if isinstance(raw, msgspec.UnsetType) or bytes(raw) == b"null":
        return None
    try:
        return read_patch(bytes(raw))
    except PatchInvalid as error:
        raise Problem("invalid-patch", str(error)) from None


def query_of(body: SelectionBody) -> RunQuery:
    """The runs that were asked for."""
    given = [name for name in ("ids", "group", "filter") if getattr(body, name) is not None]
    if len(given) > 1 or (given and given != ["filter"] and body.all):
        raise Problem(
            "invalid-options",
            "send only one of ids, group and filter; all goes with a filter, or alone",
        )
    storable("group", body.group)
    if body.ids is not None:
        ids = {text: canonical(text) for text in body.ids}
        if wrong := sorted(text for text, id_ in ids.items() if id_ is None):
            more = f", and {len(wrong) - 1:,} more are not" if len(wrong) > 1 else ""
            detail = f"ids: {wrong[0]!r} is not the id of a run (a UUID){more}"
            raise Problem("invalid-options", detail, ids=wrong[:100])
        return RunQuery(ids=tuple(sorted({id_ for id_ in ids.values() if id_ is not None})))
    if body.filter is None:
        return RunQuery(fingerprint=body.group)
    return RunQuery.from_json(body.filter)
