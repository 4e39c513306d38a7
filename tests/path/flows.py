"""A workflow that does what its event says, step by step; each step notes that it ran, and where.

The event's data is a list of deeds: `[["note"], ["pause", 0.3], ["book"]]`. A line of the file that
PATH_EFFECTS names: workflow, run, idempotency key, pid, monotonic seconds.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from veltrix import Event, step, transaction, workflow
from veltrix.domain.context import step_context

_never = threading.Event()


def _write_down() -> str:
    context = step_context.get()
    assert context is not None
    words = context.workflow, context.run_id, context.idempotency_key, os.getpid()
    line = " ".join(map(str, (*words, time.monotonic()))) + "\n"
    file = os.open(os.environ["PATH_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)
    return context.idempotency_key


@step
def note() -> str:
    """Takes no time."""
    return _write_down()


@step(timeout_s=60)
def pause(seconds: float) -> str:
    """Blocks the child."""
    key = _write_down()
    _never.wait(seconds)
    return key


@step(timeout_s=60)
async def pause_async(seconds: float) -> str:
    """Holds its run, not the child."""
    key = _write_down()
    await asyncio.sleep(seconds)
    return key


@step
def kill() -> None:
    """The child dies as if its memory had run out."""
    _write_down()
    os.kill(os.getpid(), signal.SIGKILL)


@step(timeout_s=0.4, retries=0)
def spin() -> None:
    """Never comes back by itself."""
    _write_down()
    while True:
        pass


@step(timeout_s=0.4, retries=0)
async def spin_async() -> None:
    """Never lets the event loop go on."""
    _write_down()
    while True:
        pass


@step
def hold() -> None:
    """C code that waits for ever and lets nobody else in this process go on."""
    _write_down()
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


@step(timeout_s=0.4, retries=0)
def stubborn() -> None:
    """Goes on whatever its limit raises."""
    _write_down()
    while True:
        with suppress(BaseException):
            _never.wait(0.05)


@step
def log(text: str) -> None:
    """Says something in several ways, and closes what it prints to."""
    _write_down()
    print("printed", text)  # noqa: T201 - steps do
    sys.stdout.close()
    logging.getLogger("shop").info("logged %s", text, extra={"order": "A-1"})


@transaction
def book(session: Session) -> None:
    """One row in a table of the test's own (`seen.make_bookings`)."""
    key = _write_down()
    session.execute(text("insert into bookings (key) values (:key)"), {"key": key})


_STEPS = (note, pause, pause_async, kill, spin, spin_async, hold, stubborn, log, book)
_DEEDS: dict[str, Any] = {one.name: one for one in _STEPS}


async def _do(event: Event[list[list[Any]]]) -> int:
    for name, *arguments in event.data:
        await _DEEDS[name](*arguments)
    return len(event.data)


@workflow(on="path.act", queue="path")
async def act(event: Event[list[list[Any]]]) -> int:
    """The deeds of the event, in turn."""
    return await _do(event)


@workflow(on="path.flood", queue="flood")
async def flood(event: Event[list[list[Any]]]) -> int:
    """The same on another queue."""
    return await _do(event)


# Each for one test, so that nobody has measured its runs yet and they come as one list.
beside_slow = workflow(name="beside_slow", on="path.beside_slow", queue="beside")(_do)
beside_spin = workflow(name="beside_spin", on="path.beside_spin", queue="beside")(_do)
beside_spin_async = workflow(name="beside_spin_async", on="path.beside_spin_async", queue="beside")(
    _do
)
