"""Workflows of one step each, fast or slow; each step notes its run in the file of PATH_EFFECTS."""

import os
import threading
from typing import Any

from veltrix import Event, step, workflow
from veltrix.domain.context import step_context

_never = threading.Event()


def _write_down() -> None:
    context = step_context.get()
    assert context is not None
    file = os.open(os.environ["PATH_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{context.run_id}\n".encode())
    os.close(file)


@step
def mark(number: int) -> int:
    """Takes no time."""
    _write_down()
    return number


@step
def mark_slowly(number: int) -> int:
    """Holds its child for 50 ms."""
    _write_down()
    _never.wait(0.05)
    return number


@workflow(on="effects.fast", queue="fast")
async def take_fast(event: Event[dict[str, Any]]) -> int:
    """The event's number."""
    return int(await mark(event.data["number"]))


@workflow(on="effects.slow", queue="slow")
async def take_slow(event: Event[dict[str, Any]]) -> int:
    """The event's number, 50 ms later."""
    return int(await mark_slowly(event.data["number"]))
