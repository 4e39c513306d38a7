"""What the tests of this folder start, and what they look at afterwards."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text

from tests.support.due_runs import add_runs
from tests.support.wait import until
from veltrix.dev.platform import Platform
from veltrix.operations.books.books import balance
from veltrix.store.transactions import make_engine, transaction

Deed = Sequence[Any]


class Line(NamedTuple):
    """One step that began."""

    workflow: str
    run_id: str
    key: str
    pid: int
    at: float

    @property
    def position(self) -> int:
        """Which step of its run, from 1."""
        return int(self.key.rpartition(":")[2])


class Scene:
    """A running platform with the workflows of `tests.path.flows`, and its ledger."""

    def __init__(self, platform: Platform, effects: Path) -> None:
        self.platform = platform
        self.engine = make_engine(platform.database_url, application="tests", connections_max=4)
        self._effects = effects
        with transaction(self.engine) as tx:
            tx.execute(text("create table if not exists bookings (key text not null)"))

    def add(
        self, deeds: Sequence[Deed], count: int = 1, *, workflow: str = "act", queue: str = "path"
    ) -> list[str]:
        """The ids of that many new runs, due now."""
        return add_runs(
            self.engine,
            count,
            workflow=workflow,
            queue=queue,
            type_=f"path.{workflow}",
            data=json.dumps(deeds),
        )

    def lines(self) -> list[Line]:
        """Every step that began, in order."""
        if not self._effects.exists():
            return []
        text = self._effects.read_text()
        whole = text[: text.rfind("\n") + 1]  # the last line may be on its way
        words = [line.split() for line in whole.splitlines()]
        return [Line(w, run, key, int(pid), float(at)) for w, run, key, pid, at in words]

    def at(self, position: int, run_ids: Sequence[str]) -> list[Line]:
        """The beginnings of the step at this position of these runs."""
        wanted = set(run_ids)
        return [x for x in self.lines() if x.position == position and x.run_id in wanted]

    def began_once(self, position: int, run_ids: Sequence[str]) -> bool:
        """The step at this position began once in each of these runs, never twice."""
        return Counter(x.run_id for x in self.at(position, run_ids)) == Counter(run_ids)

    def rows(self, run_ids: Sequence[str], columns: str = "state") -> list[Any]:
        """The runs' rows by id."""
        return self.ask(
            f"select {columns} from runs where id = any(%s::uuid[]) order by id", run_ids
        )

    def ask(self, sql: str, run_ids: Sequence[str] | None = None) -> list[Any]:
        """The rows; `%s` are the run ids."""
        with transaction(self.engine) as tx:
            keys = () if run_ids is None else (list(run_ids),)
            return [tuple(row) for row in tx.exec_driver_sql(sql, keys)]

    def states(self, run_ids: Sequence[str]) -> Counter[str]:
        """How many of these runs are in which state."""
        return Counter(state for (state,) in self.rows(run_ids))

    def wait_settled(self, run_ids: Sequence[str], deadline_s: float = 60.0) -> Counter[str]:
        """Their states, when none of them is open any more."""

        def settled() -> Counter[str]:
            states = self.states(run_ids)
            return Counter() if states.keys() & {"queued", "running", "waiting"} else states

        try:
            return until(settled, deadline_s, "all runs to be settled")
        except AssertionError as late:
            raise AssertionError(f"{late}; {self.states(run_ids)}") from late

    def bookings(self, run_ids: Sequence[str]) -> Counter[int]:
        """How many runs have how many effects of their transactional step."""
        sql = (
            "select (select count(*) from bookings b where b.key like r.id || ':%%') from runs r"
            " where id = any(%s::uuid[])"
        )
        return Counter(count for (count,) in self.ask(sql, run_ids))

    def failed_attempts(self, run_ids: Sequence[str] | None = None) -> list[Any]:
        """(step, type) of every attempt that raised or took too long, of these runs or all."""
        return self._attempts("not is_crash", run_ids)

    def crashes(self, run_ids: Sequence[str] | None = None) -> list[Any]:
        """(step, type, message) of every attempt that ended with its worker."""
        return self._attempts("is_crash", run_ids, ", message")

    def _attempts(self, where: str, run_ids: Sequence[str] | None, more: str = "") -> list[Any]:
        where += "" if run_ids is None else " and run_id = any(%s::uuid[])"
        sql = f"select step, type{more} from failed_attempts where {where} order by id"
        return self.ask(sql, run_ids)

    def unaccounted(self) -> int:
        """What the books say is missing."""
        return balance(self.engine).unaccounted

    def log_lines(self, word: str, name: str = "worker-1") -> list[str]:
        """The lines of a process's log that hold this word."""
        text_ = self.platform.processes[name].log.read_text(errors="replace")
        return [line for line in text_.splitlines() if word in line]

    def wait_registered(self) -> None:
        """A worker has written the subscriptions, so that apis and relays know its queues."""
        until(lambda: self.ask("select 1 from subscriptions"), what="the subscriptions")


Start = Callable[..., Scene]


def options(
    effects: Path,
    *,
    hold_s: float | None = None,
    env: dict[str, str] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """How to start a platform without an api; `hold_s` makes leases shorter than the default."""
    values = {"PATH_EFFECTS": str(effects)}
    if hold_s is not None:
        values |= {"VELTRIX_HOLD_S": str(hold_s), "VELTRIX_QUEUE_BOUND_S": "0.5"}
    values |= env or {}
    return {"apis": 0, "workflows": "tests.path.flows", "env": values, **changes}
