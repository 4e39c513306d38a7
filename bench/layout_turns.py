"""One way to use one layout: all statements of an event, and what each execution costs.

Figures are processor time of the session's process, and bytes of PostgreSQL's log.
"""

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from bench.layouts import MOVE, WAYS, Layout, Way, add_partition, seeded_id
from bench.load import event_json
from veltrix.domain.events import NewEvent, content_digest
from veltrix.domain.ids import EventIds, event_id_of, minute_of, run_id, runs_range, workflow_suffix
from veltrix.operations.books import counter_rows
from veltrix.operations.runs import read_story
from veltrix.pipeline.accept import ledger_rows, new_rows
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.journal_rows import Settlement
from veltrix.pipeline.execute.journal_statement import parts_of, statement_of, values_of
from veltrix.pipeline.relay import due_rows
from veltrix.store.arrays import BoolArray, IntArray, TextArray, UuidArray, uuids
from veltrix.store.transactions import fetch, make_engine, open_autocommit

SIZES = {1: 200, 250: 8}  # lists of so many, and how many of each in a turn
QUEUES = ("bench", "mail", "orders", "reports")
_LOOKS = 50
_HOLD_S = 60.0
_WARM_LISTS = 12  # psycopg prepares what it has executed five times
_SUFFIX = workflow_suffix("bench_flow")

Costs = dict[str, list[tuple[float, float]]]


@contextmanager
def session_of(url: str, *, is_hot: bool) -> Iterator[Connection]:
    engine = make_engine(
        url, application="bench partitions", is_hot=is_hot, statement_timeout_s=600.0
    )
    with open_autocommit(engine) as tx:
        yield tx


class Measured:
    """One way to use one layout, on a session of its own as the stages have it."""

    def __init__(self, url: str, way: Way, now: datetime, events: int) -> None:
        self.way, self._now, self._events = way, now, events
        self._open = session_of(url, is_hot=True)
        self._tx = self._open.__enter__()
        self._told = session_of(url, is_hot=False)
        self._beside = self._told.__enter__()
        for tx in (self._tx, self._beside):
            tx.execute(text(f"set search_path = {way.layout.name}"))
        (row,) = fetch(self._tx, "select pg_backend_pid()", {})
        self._pid = row[0]
        self._ids = EventIds(random.Random(way.name).getrandbits)
        self._random = random.Random(5)
        self.accepted, self._ahead = 0, 10 * WAYS.index(way)
        self.costs: Costs = defaultdict(list)

    def close(self) -> None:
        """Its sessions end."""
        for session in (self._open, self._told):
            session.__exit__(None, None, None)

    # Measuring

    def _measure(self, name: str, units: int, do: Callable[[], object]) -> None:
        before, log = self._cpu_us(), self._log_bytes()
        do()
        after, end = self._cpu_us(), self._log_bytes()
        self.costs[name].append(((after - before) / units, (end - log) / units))

    def _cpu_us(self) -> float:
        """Processor time of the session's process until now."""
        line = Path(f"/proc/{self._pid}/schedstat").read_text(encoding="ascii")
        return int(line.split()[0]) / 1000

    def _log_bytes(self) -> int:
        asked = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
        return int(self._beside.exec_driver_sql(asked).scalar_one())

    def _fetch(self, what: str, statement: str, values: Mapping[str, object]) -> list[Any]:
        return fetch(self._tx, self.way.of(what, statement), values)

    # What a turn does

    def warm(self) -> None:
        """Every statement is prepared, planned and has its pages."""
        for size in SIZES:
            lists = self._accept(size, _WARM_LISTS)
            tokens = self._claim(lists)
            self._settle(lists, tokens)
            if self.way.has_moves:
                self._move(lists)
        self._scan_due(measured=False)
        for name in ("looks", "idle scan", "known", "story", "recount"):
            getattr(self, f"_{name.replace(' ', '_')}")(_WARM_LISTS)
        self.costs.clear()

    def turn(self) -> None:
        """Everything once, in the order of an event's life."""
        for size, number in SIZES.items():
            done: list[Any] = []
            units = size * number
            self._measure(
                f"accept of {size}",
                units,
                lambda: done.append(self._accept(size, number)),  # noqa: B023
            )
            self._measure(f"claim of {size}", units, lambda: done.append(self._claim(done[0])))  # noqa: B023
            self._measure(f"settle of {size}", units, lambda: self._settle(done[0], done[1]))  # noqa: B023
            if self.way.has_moves:
                self._measure(f"move of {size}", units, lambda: self._move(done[0]))  # noqa: B023
        self._scan_due(measured=True)
        self._measure("looks of 4 queues", _LOOKS, lambda: self._looks(_LOOKS))
        self._measure("idle scan", _LOOKS, lambda: self._idle_scan(_LOOKS))
        self._measure("a known duplicate", _LOOKS, lambda: self._known(_LOOKS))
        self._measure("a run's story", 10, lambda: self._story(10))
        self._measure("recount of an hour", 5, lambda: self._recount(5))

    def _accept(self, size: int, lists: int, *, is_hinted: bool = True) -> list[list[str]]:
        return [self._accept_list(size, is_hinted=is_hinted) for _ in range(lists)]

    def _accept_list(self, size: int, *, is_hinted: bool) -> list[str]:
        unix_ms = int(datetime.now(UTC).timestamp() * 1000)
        items = []
        for event_id in self._ids.make(unix_ms, size):
            self.accepted += 1
            data = event_json(self.accepted).partition('"data":')[2][:-1]
            digest = content_digest("bench.event", None, None, None, data.encode())
            event = NewEvent(
                source=f"/{WAYS.index(self.way)}",  # of one length
                id=str(self.accepted),
                type="bench.event",
                digest=digest,
                data_json=data,
            )
            start = ledger_rows.RunStart(
                run_id(event_id, _SUFFIX), "bench_flow", "bench", is_hinted=is_hinted
            )
            items.append(ledger_rows.EventInsert(event_id, 1, event, [start]))
        items.sort(key=lambda item: item.identity)
        counts = {
            "unrouted": BoolArray([False] * size),
            "c_account": IntArray([1]),
            "c_accepted": IntArray([size]),
            "c_unrouted": IntArray([0]),
            "c_started": IntArray([size]),
        }
        values = ledger_rows.values_of(items, unix_ms, _HOLD_S, None) | counts
        self._fetch("accept", new_rows._INSERT_NEW, values)  # noqa: SLF001 - what is measured
        return sorted(item.runs[0].id for item in items)

    def _claim(self, lists: Sequence[Sequence[str]]) -> list[str]:
        tokens = [str(uuid.uuid4()) for _ in lists]
        for ids, token in zip(lists, tokens, strict=True):
            rows = self._fetch("claim", lease_rows._CLAIM, _claimed(ids, token))  # noqa: SLF001
            assert len(rows) == len(ids), "somebody else claimed them"
        return tokens

    def _settle(self, lists: Sequence[Sequence[str]], tokens: Sequence[str]) -> None:
        for ids, token in zip(lists, tokens, strict=True):
            rows = self._fetch("settle", *_settled(ids, token))
            assert rows[0][1] is None, "somebody else settled them"

    def _move(self, lists: Sequence[Sequence[str]]) -> None:
        for ids in lists:
            self._fetch("move", MOVE, {"id": UuidArray(ids)})

    def _scan_due(self, *, measured: bool) -> None:
        """Runs that no hint was made for are taken by the due scan; then they are settled."""
        lists = self._accept(250, 2, is_hinted=False)
        if measured:
            self._measure("scan of 250 due", 500, lambda: [self._scan(250) for _ in lists])
        else:
            for _ in lists:
                self._scan(250)
        self._settle(lists, self._claim(lists))
        if self.way.has_moves:
            self._move(lists)

    def _scan(self, room: int) -> int:
        values = {
            "queue": TextArray(QUEUES),
            "runs_max": IntArray([room] * len(QUEUES)),
            "floor": TextArray(_lately()),
            "rescue": TextArray(QUEUES),
            "rescue_max": due_rows.RESCUE_RUNS_MAX,
            "hold_s": _HOLD_S,
            "hold_s_max": 300.0,
        }
        return len(self._fetch("scan", due_rows._SCAN, values))  # noqa: SLF001

    def _idle_scan(self, times: int) -> None:
        for _ in range(times):
            assert self._scan(250) == 0, "something is due"

    def _looks(self, times: int) -> None:
        ago = _lately()
        values = {
            "queue": TextArray(QUEUES),
            "floor": TextArray(ago),
            "due_floor": TextArray(ago),
            "hold_s_max": 300.0,
            "rows_max": 10_000,
            "due_max": IntArray([10_000] * len(QUEUES)),
        }
        for _ in range(times):
            self._fetch("looks", due_rows._DEPTHS, values)  # noqa: SLF001

    def _any_seeded(self) -> tuple[str, str, str]:
        number = self._random.randrange(self._events) | 1  # no sleeper: they are even
        return seeded_id(self._now, self._events, min(number, self._events - 1))

    def _known(self, times: int) -> None:
        for _ in range(times):
            event_id, _, number = self._any_seeded()
            sender = md5(number.encode(), usedforsecurity=False).hexdigest()
            keys = {"source": TextArray(["/history"]), "sender_id": TextArray([sender])}
            rows = self._fetch("known", ledger_rows._KNOWN, keys)  # noqa: SLF001
            first, last = runs_range(event_id)
            ranges = {"first": UuidArray([first]), "last": UuidArray([last])}
            runs = self._fetch("runs of known", ledger_rows._RUNS_OF, ranges)  # noqa: SLF001
            assert rows[0][2] == event_id, "another event was found"
            assert len(runs) == 1, "the run of an event was not found"

    def _story(self, times: int) -> None:
        limits: dict[str, object] = {
            "max": read_story.ENTRIES_MAX,
            "bytes_max": read_story.OUTPUT_BYTES_MAX,
        }
        for _ in range(times):
            _, id_, _ = self._any_seeded()
            rows = self._fetch("story", read_story._STORY, {"id": id_})  # noqa: SLF001
            steps = self._fetch("steps of story", read_story._ENTRIES, limits | {"id": id_})  # noqa: SLF001
            assert len(rows) == len(steps) == 1, "the story of a run was not found"

    def _recount(self, times: int) -> None:
        for _ in range(times):
            event_id, _, _ = self._any_seeded()
            minute = minute_of(event_id)
            hour = counter_rows._ranges(range(minute, minute + 60))  # noqa: SLF001
            rows = self._fetch("recount", counter_rows._ROWS, hour)  # noqa: SLF001
            assert rows, "the rows of an hour were not found"

    # What is not by the event

    def beside(self) -> dict[str, float]:
        """What a session keeps, what its statements lock, and what a new partition costs it."""
        (kept,) = fetch(self._tx, "select sum(total_bytes) from pg_backend_memory_contexts", {})
        found: dict[str, float] = {"KiB a session keeps": round(float(kept[0]) / 1024)}
        for what in ("claim", "settle", "scan"):
            found[f"locks of a {what}"] = self._locks(what)
        return found

    def _locks(self, what: str) -> int:
        self._tx.exec_driver_sql("begin")
        self._once(what)
        asked = (
            "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'relation'"
        )
        (row,) = fetch(self._tx, asked, {})
        self._tx.exec_driver_sql("rollback")
        return int(row[0])

    def _once(self, what: str) -> None:
        """With a run that is not there."""
        id_, token = str(uuid.uuid4()), str(uuid.uuid4())
        if what == "claim":
            self._fetch("claim", lease_rows._CLAIM, _claimed([id_], token))  # noqa: SLF001
        elif what == "settle":
            self._fetch("settle", *_settled([id_], token))
        else:
            self._scan(1)

    def planned_again(self) -> dict[str, float]:
        """Milliseconds of the first execution after the tables have one partition more."""
        found = {}
        for what in ("claim", "settle", "scan"):
            _one_more(self._beside, self.way.layout, self._now, self._ahead)
            self._ahead += 1
            before = self._cpu_us()
            self._once(what)
            found[f"ms of a {what} planned again"] = round((self._cpu_us() - before) / 1000, 2)
        return found


def _lately() -> list[str]:
    """Where relays begin to read, after their first look: what was due before is not met again."""
    return [(datetime.now(UTC) - timedelta(seconds=1)).isoformat()] * len(QUEUES)


def _claimed(ids: Sequence[str], token: str) -> dict[str, object]:
    return {
        "id": UuidArray(ids),
        "delivery_id": UuidArray(ids),
        "named": len(ids),
        "told": UuidArray([]),
        "ours": UuidArray([token]),
        "token": token,
        "worker_id": "bench/1",
        "hold_s": _HOLD_S,
        "low": event_id_of(min(ids)),
        "high": max(ids),
    }


def _settled(ids: Sequence[str], token: str) -> tuple[str, dict[str, object]]:
    steps = '[["1","step","double","00000000000000000000000000000000",2,1,0,0,"[[1],{}]"]]'
    rows = [
        (id_, None, None, Settlement(run_id=id_, state="succeeded", outcome="2", steps=steps))
        for id_ in ids
    ]
    parts = parts_of(rows)
    own: dict[str, object] = {
        "tokens": uuids(token),
        "worker_id": "bench/1",
        "rows": len(rows),
        "low": min(ids),
        "high": max(ids),
    }
    return statement_of(parts), values_of(rows, parts, None) | own


def _one_more(tx: Connection, layout: Layout, now: datetime, number: int) -> None:
    """A partition more of each table that has them; else what makes sessions plan again as well."""
    at = (now + timedelta(days=100 + 7 * number)).replace(hour=0, minute=0, second=0, microsecond=0)
    tables = [*layout.split, *({layout.history} - {"runs"})]
    for table in tables:
        add_partition(tx, table, at, layout.days)
    if not tables:
        for table in ("runs", "events"):
            tx.exec_driver_sql(f"alter table {table} set (autovacuum_analyze_threshold = {number})")
