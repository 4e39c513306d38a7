"""Evidence from outside: the documents of events and runs, read one by one, many at a time.

The same evidence that `prove/check/evidence.py` reads from a database, as far as the HTTP API has
it: what a step did is known from its output, which is its idempotency key, and what became of the
transactional effects from the outcome of the run that counted them.
"""

import asyncio
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import httpx
import msgspec
import uvloop

from veltrix.domain.states import OPEN
from veltrix.prove.check.evidence import (
    Begin,
    Books,
    CheckedEvidence,
    JournalRow,
    StoredEvent,
    StoredRun,
)
from veltrix.prove.load.items import content_digest
from veltrix.prove.target.http_api import Api

AT_ONCE = 32
_PAGE = 200
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_TRIES_MAX = 8
_AGAIN_S = 0.1
_CLOCKS = timedelta(seconds=5)  # between apis of the target
_WITHOUT_NOTE = frozenset({"book", "count_effects"})
T = TypeVar("T")
R = TypeVar("R")


class ReadFailed(Exception):
    """A document could not be read, however often it was tried."""


class Started(msgspec.Struct):
    """A run, as the document of its event names it."""

    id: str
    workflow: str


class EventDocument(msgspec.Struct):
    """What GET /v1/events says of an event. `data` is its text as it stands in the answer."""

    event: str
    type: str
    accepted_at: datetime
    unrouted: bool
    runs: list[Started]
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None

    def stored(self, sender_id: str) -> StoredEvent:
        """As a row of the ledger."""
        is_bytes = self.data_base64 is not None
        content = b64decode(self.data_base64 or "") if is_bytes else bytes(self.data)
        digest = content_digest(self.type, self.datacontenttype, content)
        at = self.accepted_at.timestamp()
        return StoredEvent(self.event, sender_id, self.type, digest, self.unrouted, at)


class _Identity(msgspec.Struct):
    source: str | None


class _Step(msgspec.Struct):
    generation: int
    position: str
    kind: str
    name: str
    output: Any
    error: Any
    attempts: int
    recorded_at: datetime


class RunDocument(msgspec.Struct):
    """What GET /v1/runs/{id} says of a run."""

    id: str
    event: str
    workflow: str
    state: str
    generation: int
    reason: str | None
    settled_at: datetime | None
    cloudevent: _Identity
    outcome: Any
    steps: list[_Step]

    @property
    def is_open(self) -> bool:
        """It has no outcome yet."""
        return self.state in OPEN

    def stored(self) -> StoredRun:
        """As a row."""
        at = None if self.settled_at is None else self.settled_at.timestamp()
        reason = self.reason or ""
        return StoredRun(
            *(self.id, self.event, self.workflow, self.state),
            *(self.generation, reason, self.is_open, at),
        )

    def entries(self) -> Iterable[JournalRow]:
        """Its journal."""
        for step in self.steps:
            where = self.id, step.generation, step.position
            yield JournalRow(*where, step.kind, step.name, step.error is None)

    def begins(self) -> Iterable[Begin]:
        """Its steps that ended and leave a note, by the key that is their output.

        One that failed for good has no output: nobody but its worker knows its key.
        """
        for step in self.steps if self.workflow.startswith("prove_") else ():
            if step.kind == "step" and step.name not in _WITHOUT_NOTE:
                at = step.recorded_at.timestamp()
                is_ok = step.error is None
                key = str(step.output) if is_ok else f"{self.id}:{step.position}"
                yield Begin(self.id, step.position, key, step.attempts, 0, at)

    def booked(self) -> Counter[str]:
        """Its transactional effects by key, as it counted them at its end."""
        is_counted = self.workflow == "prove_booking" and isinstance(self.outcome, dict)
        counts = self.outcome if is_counted else {}
        return Counter({k: n for k, n in counts.items() if isinstance(n, int) and n > 0})


class _Row(msgspec.Struct):
    id: str
    event: str


class _Page(msgspec.Struct):
    items: list[_Row]
    next: str | None


class Reading:
    """Reads what the target has of the events with these ids. `say` is told how far it is."""

    def __init__(
        self, api: Api, source_of: Callable[[str], str], say: Callable[[str], None]
    ) -> None:
        self._api, self._source_of, self._say = api, source_of, say
        self.events: dict[str, EventDocument] = {}
        self.runs: dict[str, RunDocument] = {}

    def read(self, sender_ids: Collection[str], listed: Collection[str]) -> None:
        """All documents: of the events, of their runs, and of runs of `listed` workflows.

        Of the latter those whose event is from a source of ours, or gone. Raises ReadFailed.
        """
        self._run(lambda client: self._read(client, sender_ids, listed))

    def read_open(self, runs_max: int) -> int:
        """Read the oldest runs again that were open; how many are still. Raises ReadFailed."""
        open_ = sorted(id_ for id_, run in self.runs.items() if run.is_open)[:runs_max]
        self._run(lambda client: self._read_runs(client, open_))
        return sum(run.is_open for run in self.runs.values())

    def read_unrouted(self, is_late: Callable[[str], bool], events_max: int) -> int:
        """Read events again, and their runs, that have started none; how many still have not.

        Of those whose type `is_late` says should have. Raises ReadFailed.
        """

        def late() -> list[str]:
            found = self.events.items()
            return sorted(id_ for id_, one in found if one.unrouted and is_late(one.type))

        if left := late()[:events_max]:
            self._run(lambda client: self._read(client, left, ()))
        return len(late())

    def evidence(self, books: Books) -> CheckedEvidence:
        """What was read, for the checker. What cannot be read from outside is empty."""
        runs = self.runs.values()
        booked: Counter[str] = Counter()
        for run in runs:
            booked.update(run.booked())
        return CheckedEvidence(
            events=[event.stored(id_) for id_, event in self.events.items()],
            runs=[run.stored() for run in runs],
            entries=[entry for run in runs for entry in run.entries()],
            begins=[begin for run in runs for begin in run.begins()],
            moves=[],
            booked=booked,
            letters=Counter(),
            books=books,
        )

    def _run(self, read: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def inside() -> None:
            limits = httpx.Limits(max_connections=AT_ONCE)
            headers = self._api.headers
            async with httpx.AsyncClient(
                base_url=self._api.url, headers=headers, limits=limits, timeout=_TIMEOUT
            ) as client:
                await read(client)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(inside())

    async def _read(
        self, client: httpx.AsyncClient, sender_ids: Collection[str], listed: Collection[str]
    ) -> None:
        async def event(id_: str) -> None:
            where = {"source": self._source_of(id_), "id": id_}
            body = await _get(client, "/v1/events", where)
            if body is not None:
                self.events[id_] = msgspec.json.decode(body, type=EventDocument)

        await _each(sender_ids, event)
        read = [self.events[id_] for id_ in sender_ids if id_ in self.events]
        known = {run.id for document in read for run in document.runs}
        self._say(f"read {len(read):,} events; their {len(known):,} runs are next")
        await self._read_runs(client, known)
        strange: set[str] = set()
        if listed and self.events:
            first = min(document.accepted_at for document in self.events.values()) - _CLOCKS

            async def list_(workflow: str) -> None:
                strange.update(await _listed(client, workflow, first))

            await _each(listed, list_)
        await self._read_runs(client, strange - known, is_strange=True)

    async def _read_runs(
        self, client: httpx.AsyncClient, ids: Collection[str], *, is_strange: bool = False
    ) -> None:
        sources = {self._source_of(id_) for id_ in self.events}

        async def run(id_: str) -> None:
            body = await _get(client, f"/v1/runs/{id_}")
            if body is None:
                self.runs.pop(id_, None)
                return
            found = msgspec.json.decode(body, type=RunDocument)
            if not is_strange or found.cloudevent.source in {None, *sources}:
                self.runs[id_] = found

        await _each(ids, run)


async def _listed(client: httpx.AsyncClient, workflow: str, since: datetime) -> set[str]:
    """The ids of the workflow's runs for events accepted since then."""
    found: set[str] = set()
    where = {"workflow": workflow, "since": since.isoformat(), "limit": str(_PAGE)}
    while True:
        page = msgspec.json.decode(await _get(client, "/v1/runs", where) or b"", type=_Page)
        found.update(row.id for row in page.items)
        if page.next is None:
            return found
        where["cursor"] = page.next


async def _each(items: Iterable[T], call: Callable[[T], Awaitable[None]]) -> None:
    """Call it for each item, `AT_ONCE` at a time; the first error ends all."""
    left = iter(items)
    errors: list[Exception] = []

    async def work() -> None:
        for item in left:
            if errors:
                return
            try:
                await call(item)
            except (ReadFailed, msgspec.MsgspecError) as error:
                errors.append(error)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())
    if errors:
        raise ReadFailed(str(errors[0]))


async def _get(
    client: httpx.AsyncClient, path: str, where: dict[str, str] | None = None
) -> bytes | None:
    """The document; None where there is none. Tried again while the target is away or too busy."""
    why, pause_s = "", _AGAIN_S
    for _ in range(_TRIES_MAX):
        try:
            told = await client.get(path, params=where)
        except httpx.HTTPError as error:
            why = f"{type(error).__name__} {error}".rstrip()
        else:
            if told.status_code == 200:
                return told.content
            if told.status_code == 404:
                return None
            why = f"{told.status_code} {told.text[:200]}"
            if told.status_code < 500 and told.status_code != 429:
                break
        await asyncio.sleep(pause_s)
        pause_s *= 2
    raise ReadFailed(f"GET {path}: {why}")
