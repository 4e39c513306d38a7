"""A platform under load: the load processes, what became of their events, and the books."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sqlalchemy import text

from bench.load import Flooded, Sent
from bench.report import Books
from veltrix.dev.children import wait_for
from veltrix.dev.platform import Platform
from veltrix.operations.books.books import balance
from veltrix.store.transactions import make_engine, open_autocommit, transaction

QUEUE_TYPES = ("classic", "quorum")
Schedule = Sequence[tuple[float, float]]
WARM: Schedule = ((50.0, 1.0), (333.0, 3.0))
_PATIENCE_S = 60.0  # nothing was settled for so long: nothing more will be
# Both tables by ranges of their keys, which begin with the time: history beside is not read.
_OUTCOMES = """
select e.sender_id::bigint, extract(epoch from r.claimed_at)::float8,
    extract(epoch from pg_xact_commit_timestamp(r.xmin))::float8
from events e join runs r on r.event_id = e.id
where e.id >= cast(:since as uuid) and r.id >= cast(:since as uuid) and e.source = '/bench'
    and e.sender_id::bigint between :first and :last and r.state = 'succeeded'
"""
_MOVED = """
select coalesce(sum(started - succeeded - failed - cancelled), 0),
    coalesce(sum(succeeded + failed + cancelled), 0)
from (
    select started, succeeded, failed, cancelled from counters
    union all select started, succeeded, failed, cancelled from counter_deltas
) x
"""


def add_queue_option(parser: argparse.ArgumentParser) -> None:
    """`--queue`: what workflow queues are."""
    parser.add_argument(
        "--queue", choices=QUEUE_TYPES, default=QUEUE_TYPES[0], help="type of the workflow queues"
    )


class Outcome(NamedTuple):
    """When the run of an event was claimed and when its outcome was committed, Unix seconds."""

    started: float
    committed: float


class Rig:
    """`with Rig() as rig:` is a warm platform with two worker children; changes are Platform's.

    `authorization`: the key of what warms it, where it asks for one. `is_tracked`: `outcomes` will
    be asked for; PostgreSQL starts again for it, which no api survives that reads keys then.
    """

    def __init__(self, *, authorization: str = "", is_tracked: bool = True, **changes: Any) -> None:
        self._key, self._is_tracked = authorization, is_tracked
        self._folder = tempfile.TemporaryDirectory(prefix="veltrix-bench-")
        shape: dict[str, Any] = {"workflows": "bench.flows", "children": 2} | changes
        self.platform = Platform(Path(self._folder.name), **shape)
        self.accepted = 0  # events that an answer said are in the ledger, or that were seeded
        self.next_number = 0

    def __enter__(self) -> Self:
        try:
            self.platform.open()
            if self._is_tracked:
                self._track_commits()
            self.platform.wait_ready()
            self.engine = make_engine(
                self.platform.database_url,
                application="bench",
                connections_max=4,
                statement_timeout_s=600.0,
            )
            with transaction(self.engine) as tx:
                tx.execute(text("create table bench_bookings (n bigint not null)"))
            self.trickle(WARM, authorization=self._key)
            self.drain()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        try:
            self.platform.close()
        finally:
            self._folder.cleanup()

    def _track_commits(self) -> None:
        """Let PostgreSQL note when an outcome was committed, not when its statement began."""
        engine = make_engine(self.platform.database_url, application="bench")
        with open_autocommit(engine) as connection:
            connection.execute(text("alter system set track_commit_timestamp = on"))
        self.platform.postgres.stop()
        self.platform.postgres.start()

    # Load

    def flood(self, seconds: float, *, size: int = 250, **options: Any) -> Flooded:
        """Batches as fast as they are answered; see `bench.load.flood`."""
        arguments = {"seconds": seconds, "size": size, "first": self.next_number} | options
        flooded = Flooded(*self._load(arguments))
        self.next_number += flooded.accepted + flooded.refused
        self.accepted += flooded.accepted
        return flooded

    def trickle(self, schedule: Schedule, *, size: int = 1, **options: Any) -> list[Sent]:
        """Requests on schedule; see `bench.load.open_loop`."""
        arguments = {"schedule": schedule, "size": size, "first": self.next_number} | options
        sent = [Sent(*one) for one in self._load(arguments)]
        self.next_number += sum(one.events for one in sent)
        self.accepted += sum(one.events for one in sent if one.answered)
        return sent

    def _load(self, options: dict[str, Any]) -> Any:
        apis = [m.url for m in self.platform.processes.values() if m.kind == "api"]
        command = [sys.executable, "-m", "bench.load", "--targets", json.dumps(apis)]
        command += ["--options", json.dumps(options)]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"the load ended with {ran.returncode}:\n{ran.stderr}")
        return json.loads(ran.stdout)

    # What became of it

    def drain(self) -> Books:
        """The books when nothing is open, or when nothing more is settled."""
        open_, settled = self._moved()
        while open_ and wait_for(partial(self._is_further, settled), deadline_s=_PATIENCE_S):
            open_, settled = self._moved()
        return self.books()

    def _is_further(self, settled: int) -> bool:
        return self._moved()[1] > settled

    def _moved(self) -> tuple[int, int]:
        """Open and settled runs by the counters: what is open is not read to be counted."""
        with open_autocommit(self.engine) as tx:
            open_, settled = tx.execute(text(_MOVED)).one()
        return int(open_), int(settled)

    def books(self) -> Books:
        """The books now."""
        now = balance(self.engine)
        return Books(
            accepted=now.events.accepted,
            succeeded=now.runs.succeeded,
            failed=now.runs.failed + now.runs.cancelled,
            open=now.runs.open,
            unaccounted=now.unaccounted,
            missing=self.accepted - now.events.accepted,
        )

    def outcomes(self, sent: Sequence[Sent]) -> dict[int, Outcome]:
        """By number of event: when it was claimed and committed, of those that succeeded."""
        if not sent:
            return {}
        first, last = min(sent), max(sent)
        since = f"{int(min(one.due for one in sent) * 1000) - 1_000:012x}"
        bounds = {
            "since": f"{since}{0:020x}",
            "first": first.number,
            "last": last.number + last.events - 1,
        }
        with transaction(self.engine) as tx:
            rows = tx.execute(text(_OUTCOMES), bounds)
            return {number: Outcome(start, end) for number, start, end in rows}
