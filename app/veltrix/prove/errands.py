"""What an operator and a producer do beside the workload, recorded before and after as it is."""

import time
from collections.abc import Sequence

from veltrix.prove.deployment.database import Unreachable
from veltrix.prove.deployment.site import Site
from veltrix.prove.load import items
from veltrix.prove.load.background import Background
from veltrix.prove.load.expected import CANCELLED_KINDS
from veltrix.prove.load.items import Item
from veltrix.prove.load.record import (
    Archived,
    Asked,
    Cancelling,
    Edited,
    NotedCancel,
    NotedPlan,
    NotedReplay,
    NotedReplaying,
    Record,
    Told,
)
from veltrix.prove.load.workflows import PREFIX

REPLAYS, PLANNED = 4, 3  # after each fault
_LOOK_S = 0.4
_FAILED = """
select r.id::text from runs r join accounts a on a.id = r.account_id
where a.source = %(source)s and r.workflow in ('prove_failing', 'prove_ending')
    and r.state = 'failed' and r.generation = 0
order by r.id limit %(count)s
"""
# Failed runs of a later generation, and which.
_AGAIN = """
select r.id::text, r.generation from runs r join accounts a on a.id = r.account_id
where a.source = %(source)s and r.workflow = 'prove_failing' and r.state = 'failed'
    and r.generation = %(generation)s and r.archived_at is null
order by r.id limit %(count)s
"""
# Every second run of those that may be cancelled, while it is at work.
_LONG = """
select r.id::text from runs r join accounts a on a.id = r.account_id
where a.source = %(source)s and r.workflow = any(%(workflows)s) and r.state = 'running'
    and r.claimed_at < now() - interval '0.3 seconds' and get_byte(uuid_send(r.id), 8) %% 2 = 0
"""


class Errands:
    """Replays, cancels and events of their own, against a site."""

    def __init__(self, site: Site, record: Record, source: str) -> None:
        self._site, self._record, self._source = site, record, source
        self._sent = 0

    def operate(self) -> None:
        """Some failed runs are replayed one by one, some by a plan, and some are archived."""
        self.replay_some()
        self._replay_planned()
        self._edit_one()
        self._archive_some()

    def _replay_planned(self) -> None:
        keys = {"source": self._source, "generation": 1, "count": PLANNED}
        generations = dict(self._site.rows(_AGAIN, keys))
        if not generations:
            return
        for run_id in generations:
            self._record.write(NotedReplaying(run_id, time.time(), "plan")).result()
        if self._site.replay_planned(list(generations)):
            self._record.write(NotedPlan(generations, time.time())).result()

    def _edit_one(self) -> None:
        keys = {"source": self._source, "generation": 2, "count": 2}
        run_id = next((run_id for run_id, _ in reversed(self._site.rows(_AGAIN, keys))), "")
        made = self._site.edit(run_id) if run_id else ""
        if made:
            self._record.write(Edited(run_id, made, time.time())).result()

    def _archive_some(self) -> None:
        keys = {"source": self._source, "generation": 2, "count": 1}
        run_ids = [run_id for run_id, _ in self._site.rows(_AGAIN, keys)]
        if run_ids and self._site.archive(run_ids):
            self._record.write(Archived(run_ids, time.time())).result()

    def replay_some(self) -> None:
        """Some runs that failed are replayed, from the beginning or from the failed step."""
        keys = {"source": self._source, "count": REPLAYS}
        for number, (run_id,) in enumerate(self._site.rows(_FAILED, keys)):
            mode = ("beginning", "failed_step")[number % 2]
            self._record.write(NotedReplaying(run_id, time.time(), mode)).result()
            generation, why = self._site.replay(run_id, mode)
            self._record.write(NotedReplay(run_id, time.time(), generation, why)).result()

    def send(self, kind: str, count: int, seconds: float = 0.0, times: int = 0) -> list[str]:
        """Events of a kind, one request each; the sender's ids of those that were taken."""
        taken: list[str] = []
        for _ in range(count):
            self._sent += 1
            id_ = f"errand-{self._sent}"
            type_ = f"{PREFIX}{kind}"
            item = Item(id_, kind, type_, items.JSON, items.order_of(kind, seconds, times))
            request = -self._sent  # the workload counts upwards
            asked = Asked(
                request, time.time(), "", "structured", [id_], [item.digest], [type_], [""]
            )
            self._record.write(asked).result()
            status, event = self._site.send(items.structured(item, self._source))
            if status:
                told = Told(request, time.time(), [status], [event], [False])
                self._record.write(told).result()
            if status == 202:
                taken.append(id_)
        return taken

    def cancel(self, run_id: str) -> None:
        """Ask that it ends."""
        self._record.write(Cancelling(run_id, time.time())).result()
        state, why = self._site.cancel(run_id)
        self._record.write(NotedCancel(run_id, time.time(), state, why)).result()

    def long_runs(self) -> Sequence[str]:
        """Runs that may be cancelled, and are at work."""
        names = [f"prove_{kind}" for kind in sorted(CANCELLED_KINDS)]
        rows = self._site.rows_aside(_LONG, {"source": self._source, "workflows": names})
        return [run_id for (run_id,) in rows]


class Canceller(Background):
    """Cancels some long runs while they are at work, from a thread of its own, inside `with`."""

    def __init__(self, errands: Errands) -> None:
        super().__init__("canceller")
        self._errands = errands
        self._done: set[str] = set()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                found = self._errands.long_runs()
            except Unreachable:
                continue
            for run_id in found:
                if run_id not in self._done:
                    self._done.add(run_id)
                    self._errands.cancel(run_id)
