"""Reading large bodies beside the event loop, in which everybody else's requests wait.

What is small is read at once. What is larger is read by one thread, a body of each caller in turn:
a flood of large bodies waits for itself, and takes the interpreter from the loop for a switch
interval at a time.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from veltrix.domain.events import NewEvent
from veltrix.pipeline.accept.cloudevents import batch_items, parse_item
from veltrix.pipeline.accept.event_checks import BadEvent
from veltrix.web.turns import AT_ONCE_BYTES_MAX, Turns

T = TypeVar("T")

# A flood of the worst payloads has a quarter of the interpreter.
_reading = Turns("bodies", rest=3.0)


async def read_beside(author: str, size_bytes: int, read: Callable[[], T]) -> T:
    """What `read` returns or raises; it works through so many bytes of this author's."""
    if size_bytes <= AT_ONCE_BYTES_MAX:
        return read()
    return await asyncio.wrap_future(_reading.submit(author, read))


async def parse_batch_beside(
    author: str,
    body: bytes,
    events_max: int,
    event_bytes_max: int,
    admit: Callable[[int], None],
) -> list[NewEvent | BadEvent]:
    """As `parse_batch`, with other requests answered in between.

    `admit` is told how many there are before they are read, and may raise.
    """
    items = await read_beside(
        author, len(body), lambda: batch_items(body, events_max, event_bytes_max)
    )
    admit(len(items))
    events: list[NewEvent | BadEvent] = []
    since_pause_bytes = 0
    for item in items:
        size = len(memoryview(item))
        since_pause_bytes += size
        if since_pause_bytes > AT_ONCE_BYTES_MAX:
            since_pause_bytes = size
            await asyncio.sleep(0)
        if size <= AT_ONCE_BYTES_MAX:
            events.append(parse_item(item))
        else:
            events.append(await read_beside(author, size, partial(parse_item, item)))
    return events
