"""What authors write: clean-ups, wide and many gathers, limits, tenants, changed arguments.

Sent in the families that name them (`items`). An event's order says how long and how often, as for
the plain workflows of `workflows`; what a workflow is given at a point it says again each time it
is run (`notes.saw`), for the checker to compare.
"""

from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import msgspec

from veltrix.authoring.flow import gather, now, random, sleep, uuid
from veltrix.authoring.steps import step
from veltrix.authoring.workflows import workflow
from veltrix.domain.events import Event
from veltrix.prove.load.notes import note, note_of, saw
from veltrix.prove.load.workflows import (
    PREFIX,
    QUEUE,
    SLOW_QUEUE,
    Order,
    PlannedWork,
    block,
    fall,
    linger,
    stumble,
    touch,
)

# By workflow: seconds from the first claim of a generation, after which a run is over.
LIMITS_S = {"limited_sleep": 2.0, "limited_backoff": 2.0, "limited_wide": 2.0}
WIDE, ROUNDS, LONG = 120, 210, 60
NOBODY = "nobody"

_AGAIN_MAX = 50

tenant: ContextVar[str] = ContextVar("prove_tenant", default=NOBODY)


@step(retries=5, backoff_s=0.05)
def put_away(seat: str) -> str:
    """A clean-up. It knows its run by the seat, a key, wherever it is called."""
    note_of(seat)
    return seat


class Seat:
    """A seat that is put away at the end of the block."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await put_away(self._key)


@workflow(name="prove_finally", on=f"{PREFIX}finally", queue=QUEUE)
async def finally_(event: Event[Order]) -> int:
    """A clean-up at the end of the run, and not when it sleeps, retries or goes elsewhere."""
    seat = await touch()
    try:
        await sleep(event.data.seconds)
        await stumble(event.data.times)
    finally:
        await put_away(seat)
    return 3


@workflow(name="prove_catching", on=f"{PREFIX}catching", queue=QUEUE)
async def catching(event: Event[Order]) -> int:
    """A clean-up after whatever goes wrong, and nothing does."""
    seat = await touch()
    try:
        await sleep(event.data.seconds)
        await stumble(event.data.times)
    except BaseException:
        await put_away(seat)
        raise
    return 2


@workflow(name="prove_managing", on=f"{PREFIX}managing", queue=QUEUE)
async def managing(event: Event[Order]) -> int:
    """A clean-up at the end of a block, with branches inside."""
    async with Seat(await touch()):
        await gather(sleep(event.data.seconds), stumble(event.data.times))
    return 3


@workflow(name="prove_stubborn", on=f"{PREFIX}stubborn", queue=QUEUE)
async def stubborn(event: Event[Order]) -> int:
    """Goes on whatever is thrown at it: for ever, if not for the harness's sake."""
    seat = await touch()
    for _ in range(_AGAIN_MAX):
        try:
            await sleep(event.data.seconds)
            await stumble(event.data.times)
        except BaseException:  # noqa: BLE001 - what an author may write
            await put_away(seat)
        else:
            return 2
    raise AssertionError("it was thrown out of every try")


@workflow(name="prove_ending", on=f"{PREFIX}ending", queue=QUEUE)
async def ending(_event: Event[Order]) -> int:
    """Fails, and its clean-up belongs to the run."""
    seat = await touch()
    try:
        await fall()
    finally:
        await put_away(seat)
    return 3


@workflow(
    name="prove_chosen",
    on=f"{PREFIX}chosen",
    queue=QUEUE,
    when=lambda event: event.data.seconds >= 0,
    key=lambda event: event.id,
)
async def chosen(_event: Event[Order]) -> int:
    """There is something to do, and it has a key."""
    await touch()
    return 1


@workflow(
    name="prove_unchosen",
    on=f"{PREFIX}unchosen",
    queue=QUEUE,
    when=lambda event: event.data.seconds < 0,
)
async def unchosen(_event: Event[Order]) -> int:
    """There is nothing to do."""
    await touch()
    return 1


# Values


class Basket(msgspec.Struct):
    """Something that can be changed."""

    lines: list[str]
    total: int = 0


@step
def enrich(order: dict[str, Any], basket: Basket) -> None:
    """Changes what it was given."""
    note()
    order["vat"] = 19
    order["deep"]["list"].append(2)
    basket.lines.append("postage")
    basket.total += 5


@step
def bill(order: dict[str, Any], basket: Basket) -> str:
    """Says what it was given."""
    note()
    return f"{order.get('vat')} {order['deep']['list']} {basket.lines} {basket.total}"


@workflow(name="prove_changing", on=f"{PREFIX}changing", queue=QUEUE)
async def changing(event: Event[Order]) -> int:
    """A step changes its arguments, and the run goes on elsewhere."""
    order: dict[str, Any] = {"id": 1, "deep": {"list": [1]}}
    basket = Basket(["lamp"])
    await enrich(order, basket)
    saw(event.id, "after", f"{sorted(order)} {order['deep']} {basket.lines} {basket.total}")
    saw(event.id, "bill", await bill(order, basket))
    await sleep(event.data.seconds)
    saw(event.id, "then", f"{sorted(order)} {order['deep']} {basket.lines} {basket.total}")
    await stumble(event.data.times)
    return 3


@workflow(name="prove_chance", on=f"{PREFIX}chance", queue=QUEUE)
async def chance(event: Event[Order]) -> int:
    """Time and chance of the first run, in every other."""
    first = f"{now()} {uuid()} {random()}"
    await touch()  # before it is written nobody can see it again
    saw(event.id, "first", first)
    await sleep(event.data.seconds)
    await stumble(event.data.times)
    last = f"{now()} {uuid()} {random()}"
    await touch()
    saw(event.id, "last", last)
    return 3


# Many


@workflow(name="prove_wide", on=f"{PREFIX}wide", queue=QUEUE)
async def wide(event: Event[Order]) -> int:
    """Hundreds of branches, one of which sleeps and one of which is tried again."""
    plain = [touch() for _ in range(WIDE)]
    slow = [linger(0.01) for _ in range(WIDE)]
    await gather(*plain, *slow, sleep(event.data.seconds), stumble(event.data.times))
    await touch()
    return 2 * WIDE + 2


@workflow(name="prove_rounds", on=f"{PREFIX}rounds", queue=SLOW_QUEUE)
async def rounds(event: Event[Order]) -> int:
    """Hundreds of gathers, read back from the journal after a pause."""
    for _ in range(ROUNDS):
        await gather(touch(), linger(0.0))
    await sleep(event.data.seconds)
    await stumble(event.data.times)
    return 2 * ROUNDS + 1


@workflow(name="prove_long", on=f"{PREFIX}long", queue=QUEUE)
async def long(_event: Event[Order]) -> int:
    """A long run of steps, one after the other; somebody may cancel it."""
    for _ in range(LONG):
        await linger(0.05)
    return LONG


@workflow(name="prove_long_wide", on=f"{PREFIX}long_wide", queue=SLOW_QUEUE)
async def long_wide(_event: Event[Order]) -> int:
    """Many steps that wait for their turn; somebody may cancel it."""
    await gather(*(block(0.03) for _ in range(LONG)))
    return LONG


# Limits


@step(retries=5, backoff_s=60, backoff_s_max=60)
def fail_for_long() -> None:
    """Fails, and waits for a minute."""
    note()
    raise PlannedWork("it shall fail, and wait")


@workflow(
    name="prove_limited_sleep", on=f"{PREFIX}limited_sleep", queue=QUEUE, timeout_s=2, retries=0
)
async def limited_sleep(_event: Event[Order]) -> int:
    """Over in its sleep."""
    await touch()
    await sleep(60)
    await touch()
    return 2


@workflow(
    name="prove_limited_backoff", on=f"{PREFIX}limited_backoff", queue=QUEUE, timeout_s=2, retries=0
)
async def limited_backoff(_event: Event[Order]) -> int:
    """Over while an attempt is waited for."""
    await fail_for_long()
    return 1


@workflow(
    name="prove_limited_wide", on=f"{PREFIX}limited_wide", queue=SLOW_QUEUE, timeout_s=2, retries=0
)
async def limited_wide(_event: Event[Order]) -> int:
    """Over with most of its branches not begun."""
    await gather(*(block(0.1) for _ in range(WIDE)))
    return WIDE


# Tenants


@step
def whose() -> str:
    """The tenant that a step sees."""
    note()
    return tenant.get()


@step
async def whose_async() -> str:
    """The tenant that an async step sees."""
    note()
    return tenant.get()


@workflow(name="prove_tenant", on=f"{PREFIX}tenant", queue=QUEUE)
async def tenants(event: Event[Order]) -> int:
    """A run of a tenant, as its own steps see it."""
    tenant.set(event.id)
    saw(event.id, "tenant here", tenant.get())
    saw(event.id, "tenant of a step", await whose())
    saw(event.id, "tenant of an async step", await whose_async())
    await sleep(event.data.seconds)
    saw(event.id, "tenant later", tenant.get())
    saw(event.id, "tenant of branches", set(await gather(whose(), whose_async())).pop())
    return 4


@workflow(name="prove_tenantless", on=f"{PREFIX}tenantless", queue=QUEUE)
async def tenantless(event: Event[Order]) -> int:
    """A run that set nothing, and sees nothing of others."""
    saw(event.id, "tenantless here", tenant.get())
    saw(event.id, "tenantless step", await whose())
    saw(event.id, "tenantless async step", await whose_async())
    return 2
