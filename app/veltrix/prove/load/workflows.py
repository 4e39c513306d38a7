"""What the events of `veltrix prove` start: one workflow for each way in which work can go.

Workers serve these when VELTRIX_PROVE is 1. Each step notes that it began (`notes`): the effects
that the checker reads, beside the table of the transactional ones (`effects`, made by
`veltrix.store.prove_effects`). Where neither can be read, the runs tell: an output is the step's
idempotency key, and a booking's outcome counts its effects.
"""

import asyncio
import os
import signal
import threading
from typing import Any

import msgspec
from sqlalchemy import Column, MetaData, Table, Text, func, select
from sqlalchemy.orm import Session

from veltrix.authoring.flow import gather, sleep
from veltrix.authoring.steps import step, transaction
from veltrix.authoring.workflows import workflow
from veltrix.domain.context import step_context
from veltrix.domain.events import Event
from veltrix.prove.load.notes import is_first_time, note

QUEUE, SLOW_QUEUE = "prove", "prove-slow"
PREFIX = "veltrix.prove."
DEADLY_WORKFLOWS = ("prove_killing", "prove_poison")  # they end the process that runs them
# Runs that were together in a dead hand go on alone, one after the other: not behind one of these.
LONG_WORKFLOWS = ("prove_holding", "prove_long_wide", "prove_limited_wide", "prove_rounds")
TRANSACTIONAL_WORKFLOWS = ("prove_booking",)  # their runs are locked while it goes on

effects = Table("prove_effects", MetaData(), Column("key", Text(collation="C"), nullable=False))

_never = threading.Event()


class Order(msgspec.Struct):
    """How a run shall go: seconds of work, and how many attempts shall fail before one succeeds."""

    seconds: float = 0.0
    times: int = 0


class PlannedWork(Exception):
    """A step was told to fail."""


@step
def touch() -> str:
    """Takes no time; its effect is the note. The key that every attempt has."""
    return note().idempotency_key


@step(timeout_s=60)
def block(seconds: float) -> str:
    """Holds the worker child."""
    key = note().idempotency_key
    _never.wait(seconds)
    return key


@step(timeout_s=60)
async def linger(seconds: float) -> str:
    """Holds its run, not the child."""
    key = note().idempotency_key
    await asyncio.sleep(seconds)
    return key


@step(retries=5, backoff_s=0.05, backoff_factor=2)
def stumble(times: int) -> str:
    """Fails so many times, then succeeds."""
    context = note()
    if context.attempt <= times:
        raise PlannedWork(f"attempt {context.attempt} of {times} that shall fail")
    return context.idempotency_key


@step(retries=1, backoff_s=0.05)
def fall() -> None:
    """Fails whenever it is tried."""
    note()
    raise PlannedWork("it shall fail")


@step
def die_once() -> str:
    """Ends its process the first time, as if memory had run out."""
    context = note()
    if is_first_time(context):
        os.kill(os.getpid(), signal.SIGKILL)
    return context.idempotency_key


@step
def die() -> None:
    """Ends its process whenever it is tried."""
    note()
    os.kill(os.getpid(), signal.SIGKILL)


@transaction(retries=5, backoff_s=0.05)
def book(session: Session, times: int) -> str:
    """One row; the first `times` attempts fail after they wrote it, and leave none."""
    context = step_context.get()
    assert context is not None
    session.execute(effects.insert(), {"key": context.idempotency_key})
    if context.attempt <= times:
        session.flush()
        raise PlannedWork(f"attempt {context.attempt} of {times} that shall be rolled back")
    return context.idempotency_key


@transaction(retries=5, backoff_s=0.05)
def count_effects(session: Session, keys: list[str]) -> dict[str, int]:
    """How many rows each of these keys has; it writes none."""
    key = effects.c.key
    counted = select(key, func.count()).where(key.in_(keys)).group_by(key)
    found: dict[str, int] = dict(session.execute(counted).tuples().all())
    return {name: found.get(name, 0) for name in keys}


@workflow(name="prove_fast", on=f"{PREFIX}fast", queue=QUEUE)
async def fast(_event: Event[Any]) -> int:
    """One step, whatever the payload is."""
    await touch()
    return 1


@workflow(name="prove_slow", on=f"{PREFIX}slow", queue=SLOW_QUEUE)
async def slow(event: Event[Order]) -> int:
    """A step that waits between two that do not."""
    await touch()
    await linger(event.data.seconds)
    await touch()
    return 3


@workflow(name="prove_blocking", on=f"{PREFIX}blocking", queue=SLOW_QUEUE)
async def blocking(event: Event[Order]) -> int:
    """A step that keeps its child from doing anything else."""
    await touch()
    await block(event.data.seconds)
    return 2


@workflow(name="prove_flaky", on=f"{PREFIX}flaky", queue=QUEUE)
async def flaky(event: Event[Order]) -> int:
    """Succeeds in the end."""
    await stumble(event.data.times)
    await touch()
    return 2


@workflow(name="prove_failing", on=f"{PREFIX}failing", queue=QUEUE)
async def failing(_event: Event[Order]) -> int:
    """Never succeeds."""
    await touch()
    await fall()
    return 2


@workflow(name="prove_killing", on=f"{PREFIX}killing", queue=SLOW_QUEUE)
async def killing(_event: Event[Order]) -> int:
    """Takes its worker child along once."""
    await touch()
    await die_once()
    await touch()
    return 3


@workflow(name="prove_poison", on=f"{PREFIX}poison", queue=SLOW_QUEUE)
async def poison(_event: Event[Order]) -> int:
    """Takes every worker child along that tries it."""
    await touch()
    await die()
    return 2


@workflow(name="prove_sleeping", on=f"{PREFIX}sleeping", queue=QUEUE)
async def sleeping(event: Event[Order]) -> int:
    """Sleeps between two steps, without a worker."""
    await touch()
    await sleep(event.data.seconds)
    await touch()
    return 2


@workflow(name="prove_parallel", on=f"{PREFIX}parallel", queue=QUEUE)
async def parallel(event: Event[Order]) -> int:
    """Three steps at once, then one."""
    await gather(touch(), linger(event.data.seconds), touch())
    await touch()
    return 4


@workflow(name="prove_booking", on=f"{PREFIX}booking", queue=QUEUE)
async def booking(event: Event[Order]) -> dict[str, int]:
    """Two transactional steps between two others; the outcome counts the effects of each."""
    await touch()
    keys = [await book(event.data.times), await book(0)]
    await touch()
    return await count_effects(keys)


@workflow(name="prove_pair_left", on=f"{PREFIX}pair", queue=QUEUE)
async def pair_left(_event: Event[Any]) -> int:
    """One of two workflows that one event starts."""
    await touch()
    return 1


@workflow(name="prove_pair_right", on=f"{PREFIX}pair", queue=QUEUE)
async def pair_right(_event: Event[Any]) -> int:
    """The other."""
    await touch()
    return 1
