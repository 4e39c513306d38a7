"""The workload: seeded events, sent at a pace whatever the answers are, and a record of it all.

Singles in binary and structured mode, batches, and on purpose the same event again, with the same
content and with other content. A request that was not answered, or was told to come back, is sent
again, as a producer would; some are left, so that nobody but the ledger knows of them.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from random import Random
from typing import Any, NamedTuple, Protocol

import httpx
import msgspec
import uvloop

from veltrix.prove.load import items
from veltrix.prove.load.background import Background
from veltrix.prove.load.items import Item, make_item
from veltrix.prove.load.pace import SendPace
from veltrix.prove.load.record import Asked, Record, Told, Unanswered

IN_FLIGHT_MAX = 400  # an api that falls silent must not keep events from the other one
BATCH_EVENTS_MAX = 250
BATCH_BYTES_MAX = 4_000_000
_BATCH_S_MAX = 0.25
_TIMEOUT = httpx.Timeout(15.0, connect=5.0)
_TRIES_MAX = 60
_AGAIN_S, _AGAIN_S_MAX = 0.2, 2.0
_AGAIN_SHARE = 0.02  # of the events: sent once more later on
_OTHER_SHARE = 0.005  # with other content under the same identity
_BOTH_SHARE = 0.05  # of the requests: sent to two apis at once
_LEAVE_SHARE = 0.1  # of the requests that were not answered: not sent again
_PATH = "/v1/events"


class _ReceiptItem(msgspec.Struct):
    status: int = 202
    event: str | None = None
    duplicate: bool = False


class _Batch(msgspec.Struct):
    items: list[_ReceiptItem] = []


_decode_item = msgspec.json.Decoder(_ReceiptItem).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode


class SentParcel(NamedTuple):
    """A request: how its items travel in it, where it goes, and what it carries."""

    mode: str
    path: str
    headers: dict[str, str]
    body: bytes


class Traffic(Protocol):
    """What a workload sends: items by number, at most `request_events_max` in one request."""

    request_events_max: int

    def make(self, number: int, *, is_other: bool = False) -> Item:
        """The item with this number, or another content under its identity."""

    def parcel(self, part: Sequence[Item], request: int) -> SentParcel:
        """The request, the `request`th of all, that carries these items."""


class Events:
    """Events of one source, in the three content modes: the traffic of a proof."""

    request_events_max = 1_000

    def __init__(self, seed: int, source: str, families: Collection[str] = ()) -> None:
        self._seed, self._source, self._families = seed, source, families

    def make(self, number: int, *, is_other: bool = False) -> Item:
        """See `items.make_item`."""
        return make_item(self._seed, number, is_other=is_other, families=self._families)

    def parcel(self, part: Sequence[Item], request: int) -> SentParcel:
        """Several in a batch, one in binary or structured mode."""
        if len(part) > 1:
            return SentParcel("batch", _PATH, items.BATCH, items.batch(part, self._source))
        if request % 3 == 0:
            return SentParcel("binary", _PATH, *items.binary(part[0], self._source))
        body = items.structured(part[0], self._source)
        return SentParcel("structured", _PATH, items.STRUCTURED, body)


class Acknowledged(NamedTuple):
    """A request that was answered: when it was due, how long that took, how many it had taken."""

    due_at: float  # seconds since 1970
    took_s: float
    events: int


class Workload(Background):
    """Sends `events` events from a thread of its own, inside `with`.

    To any of `urls`; some requests to two of `doubles` at once. Without `traffic` they are those of
    `items`, from `source`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        record: Record,
        *,
        seed: int,
        source: str,
        events: int,
        pace: SendPace,
        doubles: Sequence[str] = (),
        headers: dict[str, str] | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__("workload")
        self._urls, self._record, self._pace = list(urls), record, pace
        self._seed, self.events = seed, events
        self._traffic = traffic or Events(seed, source)
        self._headers = headers or {}
        self._doubles = list(doubles)
        self._chance = Random(f"{seed}/requests")
        self._requests = 0
        self.sent = self.accepted = self.duplicates = self.refused = 0
        self.acknowledged: list[Acknowledged] = []
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Everything was sent and answered, or given up. Raises what ended it early."""
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._send_all())
        except BaseException as error:  # noqa: BLE001 - told to whoever asks `is_done`
            self.error = error

    async def _send_all(self) -> None:
        limits = httpx.Limits(max_connections=2 * IN_FLIGHT_MAX, keepalive_expiry=30.0)
        places = asyncio.Semaphore(IN_FLIGHT_MAX)
        async with (
            httpx.AsyncClient(limits=limits, timeout=_TIMEOUT, headers=self._headers) as client,
            asyncio.TaskGroup() as tasks,
        ):
            number, due = 0, time.time()
            while number < self.events and not self._stop.is_set():
                taken, number = self._next(number)
                due = max(due, time.time() - 1.0)  # after a standstill, not all at once
                await asyncio.sleep(max(0.0, due - time.time()))
                await places.acquire()
                task = tasks.create_task(self._deliver(client, taken, due))
                task.add_done_callback(lambda _: places.release())
                due += len(taken) / self._pace.rate

    def _next(self, number: int) -> tuple[list[Item], int]:
        """The items of the next request, and the number that comes after them."""
        chance = self._chance
        size = 1
        if chance.random() < 0.4:
            size = min(int(2 ** chance.uniform(1, 8)), BATCH_EVENTS_MAX, self.events - number)
            # A large batch at a low rate would be a burst, and silence after it.
            size = max(1, min(size, int(self._pace.rate * _BATCH_S_MAX)))
        first, number = number, number + size
        taken = [self._traffic.make(n) for n in range(first, number)]
        self._pace.took(size)
        for _ in range(size):
            if first > 0 and chance.random() < _AGAIN_SHARE:
                taken.append(self._traffic.make(chance.randrange(first)))
            if first > 0 and chance.random() < _OTHER_SHARE:
                taken.append(self._traffic.make(chance.randrange(first), is_other=True))
        return taken, number

    async def _deliver(self, client: httpx.AsyncClient, taken: list[Item], due: float) -> None:
        """Send it until it is answered for, or given up."""
        chance = Random(f"{self._seed}/{taken[0].id}/{len(taken)}")
        self.sent += len(taken)
        for part in _parts(taken, self._traffic.request_events_max):
            if len(self._doubles) > 1 and chance.random() < _BOTH_SHARE:
                async with asyncio.TaskGroup() as both:
                    for url in self._doubles[:2]:
                        both.create_task(self._until_answered(client, part, due, url, chance))
            else:
                url = chance.choice(self._urls)
                await self._until_answered(client, part, due, url, chance)

    async def _until_answered(
        self, client: httpx.AsyncClient, part: list[Item], due: float, url: str, chance: Random
    ) -> None:
        pause_s = _AGAIN_S
        for _ in range(_TRIES_MAX):
            part = await self._ask(client, part, due, url)
            if not part or self._stop.is_set() or chance.random() < _LEAVE_SHARE:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(_AGAIN_S_MAX, pause_s * 1.5)
            url = chance.choice(self._urls)

    async def _ask(
        self, client: httpx.AsyncClient, part: list[Item], due: float, url: str
    ) -> list[Item]:
        """One request, recorded before and after; the items that have to be sent again."""
        self._requests += 1
        request = self._requests
        parcel = self._traffic.parcel(part, request)
        asked = Asked(
            request,
            time.time(),
            url,
            parcel.mode,
            [item.id for item in part],
            [item.digest for item in part],
            [item.type for item in part],
            [item.flaw for item in part],
        )
        await _written(self._record.write(asked))
        try:
            response = await client.post(
                f"{url}{parcel.path}", content=parcel.body, headers=parcel.headers
            )
            told = _told(request, len(part), response)
        except httpx.HTTPError as error:
            why = f"{type(error).__name__}: {error}"[:200]
            await _written(self._record.write(Unanswered(request, time.time(), why)))
            return part
        await _written(self._record.write(told))
        return self._count(part, told, due)

    def _count(self, part: list[Item], told: Told, due: float) -> list[Item]:
        accepted = 0
        again: list[Item] = []
        for item, status, is_duplicate in zip(part, told.statuses, told.duplicates, strict=True):
            if status == 202:
                self.duplicates += is_duplicate
                accepted += not is_duplicate
            elif status >= 500 or status == 429:
                again.append(item)
            else:
                self.refused += 1
        self.accepted += accepted
        self.acknowledged.append(Acknowledged(due, told.at - due, accepted))
        return again


def _told(request: int, events: int, response: httpx.Response) -> Told:
    """What the answer says of each event; the status 0 where it does not fit the request."""
    try:
        answers = _answers(events, response)
    except msgspec.MsgspecError:
        answers = []
    if len(answers) != events:
        answers = [_ReceiptItem(0)] * events
    return Told(
        request,
        time.time(),
        [answer.status for answer in answers],
        [answer.event for answer in answers],
        [answer.duplicate for answer in answers],
    )


def _answers(events: int, response: httpx.Response) -> list[_ReceiptItem]:
    status = response.status_code
    if events == 1:
        return [_decode_item(response.content) if status == 202 else _ReceiptItem(status)]
    if status in {202, 207, 400} and b'"items"' in response.content:
        return _decode_batch(response.content).items
    return [_ReceiptItem(status)] * events


def _parts(taken: list[Item], events_max: int) -> list[list[Item]]:
    """Requests that no limit refuses."""
    parts: list[list[Item]] = [[]]
    size = 0
    for item in taken:
        is_full = len(parts[-1]) >= events_max or size + len(item.data) > BATCH_BYTES_MAX
        if parts[-1] and is_full:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += len(item.data)
    return parts


async def _written(done: "Future[None]") -> Any:
    return await asyncio.wrap_future(done)
