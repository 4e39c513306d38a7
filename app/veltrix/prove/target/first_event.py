"""The first event on a target, before the workload: can its workers be proved at all?"""

from collections.abc import Callable

import msgspec

from veltrix.dev.children import CannotStart, wait_for
from veltrix.domain.states import OPEN
from veltrix.prove.load.items import JSON, Item, structured
from veltrix.prove.load.workflows import PREFIX
from veltrix.prove.load.workload import Events
from veltrix.prove.target.http_api import Api

_KIND = "booking"
_CURE = "start workers with VELTRIX_PROVE=1, or name workflows of yours with --workflow"


class _Started(msgspec.Struct):
    id: str


class _Event(msgspec.Struct):
    runs: list[_Started]


class _Attempt(msgspec.Struct):
    message: str


class _Run(msgspec.Struct):
    state: str
    failed_attempts: list[_Attempt]


def check_is_served(api: Api, source: str, deadline_s: float, say: Callable[[str], None]) -> None:
    """A worker of the target finishes a run of prove, and has the table it writes into.

    CannotStart if not, with what to do. The event has a source of its own below `source`.
    """
    say("one event first: do the target's workers serve the workflows of prove?")
    where = {"source": f"{source}/first", "id": "first"}
    item = Item(where["id"], _KIND, f"{PREFIX}{_KIND}", JSON, b'{"seconds": 0, "times": 0}')
    parcel = Events(0, where["source"]).parcel([item], 1)
    api.ask("POST", parcel.path, content=structured(item, where["source"]), headers=parcel.headers)
    run_id = ""
    run = _Run("queued", [])

    def is_clear() -> bool:
        nonlocal run_id, run
        if not run_id:  # an api that did not know the subscription yet starts it in a moment
            told = api.ask("GET", "/v1/events", params=where)
            found = msgspec.json.decode(told.body, type=_Event)
            run_id = found.runs[0].id if found.runs else ""
        if run_id:
            told = api.ask("GET", f"/v1/runs/{run_id}")
            run = msgspec.json.decode(told.body, type=_Run)
        return run.state not in OPEN or _has_no_table(run)

    is_over = wait_for(is_clear, deadline_s=deadline_s)
    if is_over and not _has_no_table(run):
        return
    if run_id:  # nothing is left half done; a key may lack the right to
        cancel = {"reason": "veltrix prove cannot start"}
        asked = f"/v1/runs/{run_id}/cancel"
        api.ask("POST", asked, also=(400, 401, 403, 404, 409), json=cancel)
    if is_over:
        raise CannotStart(
            "the target's database has no table prove_effects; run `veltrix db upgrade` there with"
            " VELTRIX_PROVE=1"
        )
    raise CannotStart(
        f"no worker of the target finished a run of prove within {deadline_s:g} s; {_CURE}"
    )


def _has_no_table(run: _Run) -> bool:
    return any('"prove_effects" does not exist' in one.message for one in run.failed_attempts)
