"""Steps that start programs and processes, and what they saw."""

import json
import multiprocessing
import os
import signal
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from veltrix import Event, step, transaction, workflow

_never = threading.Event()


def double(number: int) -> int:
    """In another process."""
    return 2 * number


def rest() -> None:
    """Until it is ended."""
    _never.wait(30)


@step(retries=0)
def end_a_program(number: int) -> int:
    """How it ended."""
    program = subprocess.Popen(["sleep", "20"])
    program.send_signal(number)
    return program.wait(5)


@step(retries=0)
def ignored_by_programs() -> list[int]:
    """The signals that what a step starts ignores, of those that end programs."""
    told = subprocess.run(
        ["grep", "SigIgn", "/proc/self/status"], capture_output=True, check=True, text=True
    )
    bits = int(told.stdout.split()[1], 16)
    ends = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE]
    ends += [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM]
    return [number for number in ends if bits >> (number - 1) & 1]


@step(retries=0)
def pool(method: str) -> list[int]:
    """`multiprocessing.Pool`."""
    with multiprocessing.get_context(method).Pool(2) as workers:
        return workers.map(double, [1, 2, 3])


@step(retries=0)
def executor() -> list[int]:
    """`ProcessPoolExecutor`."""
    with ProcessPoolExecutor(2) as workers:
        return list(workers.map(double, [1, 2, 3]))


@step(retries=0)
def end_a_process(method: str) -> Any:
    """`Process.terminate`."""
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=rest)
    process.start()
    process.terminate()
    process.join(5)
    return process.exitcode


@step(retries=0)
def fork(deed: str) -> int:
    """What the copy ended with: it returns, raises, or exits."""
    return _fork(deed)


@step(retries=0)
async def fork_async(deed: str) -> int:
    """As `fork`, of an async step."""
    return _fork(deed)


@transaction(retries=0)
def fork_in_transaction(_session: Session, deed: str) -> int:
    """As `fork`, of a transactional step."""
    return _fork(deed)


def _fork(deed: str) -> int:
    copy = os.fork()
    if copy == 0:
        if deed == "raise":
            raise ValueError("in the copy")
        if deed == "exit":
            raise SystemExit(3)
        return -1
    return _code_of(copy)


def _code_of(copy: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


@step(retries=0)
def leave_a_process() -> int | None:
    """One that the child leaves behind."""
    process = multiprocessing.get_context("spawn").Process(target=rest)
    process.start()
    return process.pid


@step(retries=0)
def is_there(pid: int) -> bool:
    """That process lives."""
    return Path(f"/proc/{pid}").exists()


_DEEDS: dict[str, Any] = {
    one.name: one
    for one in (
        end_a_program,
        ignored_by_programs,
        pool,
        executor,
        end_a_process,
        fork,
        fork_async,
        fork_in_transaction,
        leave_a_process,
        is_there,
    )
}


@workflow(on="path.usual", queue="path")
async def usual(event: Event[list[list[Any]]]) -> str:
    """What the deeds gave."""
    return json.dumps([await _DEEDS[name](*arguments) for name, *arguments in event.data])


@workflow(on="path.forks", queue="path")
async def forks(event: Event[Any]) -> int:
    """A copy of its own code."""
    copy = os.fork()
    return -1 if copy == 0 else _code_of(copy)
