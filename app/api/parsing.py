"""Reading large bodies beside the event loop, in which everybody else's requests wait.

What is small is read at once. What is larger is read by one thread: a flood of large bodies waits
for its turn there, and takes the interpreter from the loop for a switch interval at a time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from app.domain.cloudevents import batch_items, parse_item
from app.domain.event_checks import BadEvent
from app.domain.events import NewEvent

T = TypeVar("T")

# Whatever is in it, reading so much takes 3 ms at most, and an ordinary event of it 0.1 ms.
AT_ONCE_BYTES_MAX = 16 * 1024

_reader = ThreadPoolExecutor(1, thread_name_prefix="bodies")


async def read_beside(size_bytes: int, read: Callable[[], T]) -> T:
    """What `read` returns or raises; it works through so many bytes."""
    if size_bytes <= AT_ONCE_BYTES_MAX:
        return read()
    return await asyncio.get_running_loop().run_in_executor(_reader, read)


async def parse_batch_beside(
    body: bytes, events_max: int, event_bytes_max: int, admit: Callable[[int], None]
) -> list[NewEvent | BadEvent]:
    """As `parse_batch`, with other requests answered in between.

    `admit` is told how many there are before they are read, and may raise.
    """
    items = await read_beside(len(body), lambda: batch_items(body, events_max, event_bytes_max))
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
            events.append(await read_beside(size, partial(parse_item, item)))
    return events
