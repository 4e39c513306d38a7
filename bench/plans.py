"""How PostgreSQL executes the statements of an event: EXPLAIN (ANALYZE, BUFFERS) of real lists."""

import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from bench.load import event_json
from bench.rig import Rig
from veltrix.domain.events import NewEvent, content_digest
from veltrix.domain.ids import EventIds, run_id, workflow_suffix
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry, Settlement
from veltrix.store.transactions import make_engine, open_autocommit

_IDS = EventIds(random.Random(11).getrandbits)
_HOLD_S = 60.0
_SHOWN = re.compile(r"Buffers: shared hit=(\d+)(?: read=(\d+))?")
_SWITCHES = (
    "load 'auto_explain'",
    "set auto_explain.log_min_duration = 0",
    "set auto_explain.log_analyze = on",
    "set auto_explain.log_buffers = on",
    "set auto_explain.log_level = notice",
)


class Plan(NamedTuple):
    """One execution: milliseconds, pages found and read, and the plan as PostgreSQL shows it."""

    stage: str
    list_size: int
    ms: float
    hit: int
    read: int
    text: str


def explain(rig: Rig, size: int) -> list[Plan]:
    """Accept, claim and settle a list of new events, as the stages do it; their books balance."""
    engine = make_engine(rig.platform.database_url, application="bench plans", is_hot=True)
    with open_autocommit(engine) as tx:
        with _plans(tx) as said:
            first, rig.next_number = rig.next_number, rig.next_number + size
            lists = []
            for number in (first, first + size):  # the first execution is planned
                said.clear()
                lists.append(_accept(tx, number, size))
            accept = said[-1]
            rig.next_number += size
            rig.accepted += 2 * size
            plans = [_plan("accept", size, accept)]
            stages: list[list[str]] = []
            for ids in lists:
                said.clear()
                stages.append(_settle(tx, ids, said))
        claim, write = stages[-1]
        plans += [_plan("claim", size, claim), _plan("write", size, write)]
    return plans


def _accept(tx: Connection, first: int, size: int) -> list[str]:
    unix_ms = int(tx.execute(text("select extract(epoch from now()) * 1000")).scalar_one())
    account = ledger_rows.accounts(tx, [("/bench", "bench.event")], 1_000)["/bench", "bench.event"]
    suffix = workflow_suffix("bench_flow")
    items = []
    for number, event_id in enumerate(_IDS.make(unix_ms, size), first):
        data = event_json(number).partition('"data":')[2][:-1]
        digest = content_digest("bench.event", None, None, None, data.encode())
        event = NewEvent(
            source="/bench", id=str(number), type="bench.event", digest=digest, data_json=data
        )
        start = ledger_rows.RunStart(
            run_id(event_id, suffix), "bench_flow", "bench", is_hinted=True
        )
        items.append(ledger_rows.EventInsert(event_id, account, event, [start]))
    items.sort(key=lambda item: item.identity)
    ledger_rows.insert(tx, items, unix_ms, _HOLD_S)
    return sorted(item.runs[0].id for item in items)


def _settle(tx: Connection, run_ids: Sequence[str], said: list[str]) -> list[str]:
    token = str(uuid.uuid4())
    lease_rows.claim(tx, token, "bench/1", [(id_, id_) for id_ in run_ids], _HOLD_S)
    claim = said[-1]
    entries = [JournalEntry(id_, "1", "step", "double", b"0" * 16, "2") for id_ in run_ids]
    settlements = [Settlement(run_id=id_, state="succeeded", outcome="2") for id_ in run_ids]
    held = journal_rows.write(tx, token, "bench/1", entries, [], settlements)
    assert len(held) == len(run_ids), "somebody else settled them"
    return [claim, said[-1]]


@contextmanager
def _plans(tx: Connection) -> Iterator[list[str]]:
    """The plans that PostgreSQL sends as notices while this is open."""
    driver: Any = tx.connection.driver_connection
    said: list[str] = []
    note: Callable[[Any], None] = lambda notice: said.append(notice.message_primary or "")  # noqa: E731
    for switch in _SWITCHES:
        tx.execute(text(switch))
    driver.add_notice_handler(note)
    try:
        yield said
    finally:
        driver.remove_notice_handler(note)


def _plan(stage: str, size: int, said: str) -> Plan:
    """Of a notice of `auto_explain`: the duration comes first, the top node has all pages."""
    duration = re.search(r"duration: ([\d.]+) ms", said)
    pages = _SHOWN.search(said)
    assert duration is not None, said
    hit, read = (int(part or 0) for part in pages.groups()) if pages else (0, 0)
    return Plan(stage, size, round(float(duration[1]), 2), hit, read, said)
