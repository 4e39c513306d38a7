"""What authors' steps do to their process: threads, programs, forks, dead loops, odd errors.

And what they do to their transaction: a commit that is refused, a connection that dies.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from veltrix.authoring.flow import StepFailed, idempotency_key, sleep
from veltrix.authoring.steps import step, transaction
from veltrix.authoring.workflows import workflow
from veltrix.domain.events import Event
from veltrix.prove.load.notes import is_first_time, note
from veltrix.prove.load.workflows import (
    PREFIX,
    QUEUE,
    SLOW_QUEUE,
    Order,
    PlannedWork,
    block,
    effects,
    touch,
)

REFUSED_KEY = "refused at the commit"  # what the proved database lets nobody commit (`witness`)
HOLDING_S = 12.0
PROGRAM_S = 20.0


# The key, wherever it is asked for


@step(retries=5, backoff_s=0.05)
def charge(times: int) -> str:
    """Asks for its key in a thread: the same in every attempt, or an error, never another."""
    with ThreadPoolExecutor(1) as pool:
        try:
            key = pool.submit(idempotency_key).result()
        except Exception:  # noqa: BLE001 - told that a thread has none
            key = ""
    context = note(key)
    if context.attempt <= times:
        raise PlannedWork("the answer was lost")
    return context.idempotency_key


@step(retries=5, backoff_s=0.05)
async def charge_async(times: int) -> str:
    """The same on the loop."""
    try:
        key = await asyncio.get_running_loop().run_in_executor(None, idempotency_key)
    except Exception:  # noqa: BLE001 - told that a thread has none
        key = ""
    context = note(key)
    if context.attempt <= times:
        raise PlannedWork("the answer was lost")
    return context.idempotency_key


@workflow(name="prove_threads", on=f"{PREFIX}threads", queue=QUEUE)
async def threads(event: Event[Order]) -> int:
    """Steps with threads."""
    await charge(event.data.times)
    await charge_async(event.data.times)
    return 2


# A loop that dies


async def _exit() -> None:
    sys.exit(3)


@step(retries=8, backoff_s=0.05, timeout_s=10)
async def end_the_loop() -> str:
    """The first time, one task of it ends the interpreter's loop; later another stops it."""
    context = note()
    if is_first_time(context):
        _keep(asyncio.ensure_future(_exit()))
        await asyncio.sleep(0.5)
    elif context.attempt == 2:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.5)
    return context.idempotency_key


_tasks: list[Any] = []


def _keep(task: Any) -> None:
    """A task that nobody holds may be collected before it has run."""
    _tasks[:] = [task]


@workflow(name="prove_dying_loop", on=f"{PREFIX}dying_loop", queue=SLOW_QUEUE)
async def dying_loop(_event: Event[Order]) -> int:
    """Ends the loop of its neighbours' steps, and its own."""
    await touch()
    await end_the_loop()
    await touch()
    return 3


# Errors that misbehave


class _Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    def __repr__(self) -> str:
        raise ValueError("no name either")


class _Evasive(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no {name}")


class _Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class _Odd(BaseException):
    def __str__(self) -> str:
        return "\x00 \ud800 " + "long " * 50_000


def _looped() -> Exception:
    one, other = PlannedWork("one"), PlannedWork("other")
    one.__cause__, other.__cause__ = other, one
    return one


_ODD = (_Silent, _Evasive, _Leaving, _Odd, _looped, SystemExit, KeyboardInterrupt, GeneratorExit)


def _odd(which: int) -> BaseException:
    return _ODD[which % len(_ODD)]()


@step(retries=1, backoff_s=0.01)
def go_wrong(which: int) -> None:
    """Raises something odd."""
    note()
    raise _odd(which)


@step(retries=1, backoff_s=0.01)
async def go_wrong_async(which: int) -> None:
    """The same on the loop."""
    note()
    raise _odd(which)


@workflow(name="prove_odd", on=f"{PREFIX}odd", queue=QUEUE)
async def odd(event: Event[Order]) -> int:
    """Each odd error is the end of an attempt, and of nothing else."""
    first = sum(map(ord, event.id))
    for number, wrong in enumerate((go_wrong, go_wrong_async)):
        try:
            await wrong(first + number)
        except StepFailed:
            continue
    await touch()
    return 3


# Programs, forks, loggers


@step(retries=3, backoff_s=0.05)
def run_programs() -> str:
    """Programs that a step starts end when they are told to."""
    context = note()
    for told in (signal.SIGTERM, signal.SIGINT):
        program = subprocess.Popen(["sleep", "60"])
        program.send_signal(told)
        try:
            code = program.wait(PROGRAM_S)
        except subprocess.TimeoutExpired:
            program.kill()
            raise
        if code != -told:
            raise AssertionError(f"{told.name} ended a program with {code}")
    return context.idempotency_key


@step(retries=3, backoff_s=0.05)
def fork() -> str:
    """A fork that ends at once."""
    context = note()
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 7:
        raise AssertionError(f"the fork ended with {status}")
    return context.idempotency_key


class _Deaf(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise BrokenPipeError(record.name)


class _Shut:
    """A stream that is no more."""

    def write(self, _text: str) -> int:
        raise ValueError("I/O operation on closed file")

    def flush(self) -> None:
        raise ValueError("I/O operation on closed file")


@step(retries=3, backoff_s=0.05)
def go_mute() -> str:
    """Nothing that this process prints or logs arrives from now on, for a while."""
    context = note()
    if not any(isinstance(one, _Deaf) for one in logging.getLogger().handlers):
        logging.getLogger().addHandler(_Deaf())
    sys.stdout = sys.stderr = _Shut()
    return context.idempotency_key


@step(retries=3, backoff_s=0.05)
def speak_again() -> str:
    """As it was."""
    for one in list(logging.getLogger().handlers):
        if isinstance(one, _Deaf):
            logging.getLogger().removeHandler(one)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return note().idempotency_key


@workflow(name="prove_programs", on=f"{PREFIX}programs", queue=QUEUE)
async def programs(_event: Event[Order]) -> int:
    """Programs and forks."""
    await run_programs()
    await fork()
    return 2


@workflow(name="prove_mute", on=f"{PREFIX}mute", queue=QUEUE)
async def mute(event: Event[Order]) -> int:
    """Nobody can write what it logs."""
    await go_mute()
    await touch()
    await sleep(event.data.seconds)
    await speak_again()
    return 3


# Transactions


@transaction(retries=8, backoff_s=0.05)
def commit_refused(session: Session, times: int) -> str:
    """The first attempts write what cannot be committed: it is told so at the commit."""
    context = note()
    key = context.idempotency_key
    if context.attempt <= times:
        key = REFUSED_KEY
    session.execute(effects.insert(), {"key": key})
    return context.idempotency_key


@transaction(retries=8, backoff_s=0.05)
def connection_lost(session: Session, times: int) -> str:
    """The first attempts lose their connection."""
    context = note()
    session.execute(effects.insert(), {"key": context.idempotency_key})
    if context.attempt <= times:
        session.execute(text("select pg_terminate_backend(pg_backend_pid())"))
    return context.idempotency_key


@transaction(retries=8, backoff_s=0.05)
def leave_things_behind(session: Session) -> str:
    """Changes its session in every way there is."""
    session.execute(text("set time zone 'Asia/Tokyo'"))
    session.execute(text("set search_path to pg_catalog"))
    session.execute(text("create temp table if not exists left_behind (n int)"))
    session.execute(text("select pg_advisory_lock(hashtext('prove'))"))
    session.execute(text("set search_path to public, pg_catalog"))
    context = note()
    session.execute(effects.insert(), {"key": context.idempotency_key})
    return context.idempotency_key


@transaction(retries=8, backoff_s=0.05)
def look_around(session: Session) -> str:
    """What a session is when a step gets it."""
    context = note()
    zone = session.execute(text("select current_setting('timezone')")).scalar_one()
    left = session.execute(
        text("select to_regclass('pg_temp.left_behind') is not null")
    ).scalar_one()
    if zone == "Asia/Tokyo" or left:
        raise AssertionError(f"another run's session: time zone {zone}, its table {left}")
    session.execute(effects.insert(), {"key": context.idempotency_key})
    return context.idempotency_key


@workflow(name="prove_refused", on=f"{PREFIX}refused", queue=QUEUE)
async def refused(event: Event[Order]) -> int:
    """A commit that is refused is the end of an attempt."""
    await touch()
    await commit_refused(event.data.times)
    await touch()
    return 3


@workflow(name="prove_unconnected", on=f"{PREFIX}unconnected", queue=QUEUE)
async def unconnected(event: Event[Order]) -> int:
    """A connection that is lost is the end of an attempt."""
    await touch()
    await connection_lost(event.data.times)
    await touch()
    return 3


@workflow(name="prove_untidy", on=f"{PREFIX}untidy", queue=QUEUE)
async def untidy(_event: Event[Order]) -> int:
    """A session is another for each step."""
    await leave_things_behind()
    await look_around()
    return 2


# Full hands


@workflow(name="prove_holding", on=f"{PREFIX}holding", queue=SLOW_QUEUE)
async def holding(_event: Event[Order]) -> int:
    """Keeps its child for long."""
    await block(HOLDING_S)
    return 1
