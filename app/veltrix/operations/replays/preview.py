"""What a patch would make of payloads: shown before and after, and nothing is kept."""

from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.authoring.input_schema import InputSchema
from veltrix.domain.ids import Id
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays import edit, edit_rows, replay_rows
from veltrix.operations.replays.edit import Refused
from veltrix.operations.replays.patch import Origin, Patch, text_of
from veltrix.operations.replays.plan import PAYLOADS_MAX, PlanRequest, freeze
from veltrix.operations.replays.rules import Options
from veltrix.operations.runs.query import RunQuery

PREVIEW_RUNS_MAX = 50
PREVIEW_BYTES_MAX = 8 * 1024 * 1024  # about; beyond it no more runs are shown


class Preview(msgspec.Struct):
    """A payload before and after an edit; `refused` says why there is no after."""

    run: Id
    workflow: str
    before: msgspec.Raw | None
    after: msgspec.Raw | None
    patch: msgspec.Raw | None
    refused: Refused | None


class Previews(msgspec.Struct):
    """The first of the runs that a patch would change, fewer where their payloads are large.

    `count` are all that are selected.
    """

    count: int
    items: list[Preview]


def preview(
    engine: Engine, wanted: RunQuery, patch: Patch, bytes_max: int, *, is_all: bool, limit: int
) -> Previews:
    """What a patch would make of the first runs that are selected. Changes nothing.

    An empty patch shows the payloads as they are. Raises ReplayRefused as `plan` does.
    """
    request = PlanRequest(
        wanted=wanted,
        is_all=is_all,
        options=Options(mode=ReplayMode.BEGINNING, rate=1.0, stop_share=None, patch=patch),
        author="preview",
        reason="preview",
        request={},
    )
    with engine.connect() as tx:  # never committed: the set is only looked at
        _, replay_id, count = freeze(tx, request)
        first = replay_rows.next_runs(tx, replay_id, limit)
        shown = previews(tx, [(one.run_id, one.generation) for one in first], patch, bytes_max)
        tx.rollback()
    return Previews(count, shown)


def previews(
    tx: Connection, runs: Iterable[tuple[str, int]], patch: Patch, bytes_max: int
) -> list[Preview]:
    """What the patch makes of those of these (run, generation) that are failed."""
    of, shown, length, left = edit.schemas(tx), list[Preview](), 0, iter(runs)
    while length < PREVIEW_BYTES_MAX and (some := list(islice(left, PAYLOADS_MAX))):
        for origin in edit_rows.origins(tx, some):
            shown.append(_preview(origin, patch, of, bytes_max))
            length += 3 * len(origin.data or "")  # before, after and the patch between them
    return shown


def _preview(
    origin: Origin, patch: Patch, of: Mapping[str, InputSchema], bytes_max: int
) -> Preview:
    good, refused = edit.payloads([origin], patch, of, bytes_max)
    before = None if origin.data is None else msgspec.Raw(origin.data.encode())
    if not good:
        return Preview(origin.run_id, origin.workflow, before, None, None, refused[0])
    after, changed = (msgspec.Raw(t.encode()) for t in (good[0].after, text_of(good[0].patch)))
    return Preview(origin.run_id, origin.workflow, before, after, changed, None)
