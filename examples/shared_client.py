"""A `@resource` is made once in each worker process, shared by its steps, and closed at its end."""

from collections.abc import AsyncIterator
from typing import Any

import httpx

from veltrix import Event, resource, step, workflow


@resource
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """One client for all async steps of a process: its connections are kept."""
    async with httpx.AsyncClient(timeout=5) as client:
        yield client


@step(retries=2, backoff_s=0.1)
async def status_of(url: str) -> int:
    """What the page answers."""
    client = await http()
    return (await client.get(url)).status_code


@workflow(on="examples.page.changed", queue="examples")
async def look(event: Event[dict[str, Any]]) -> int:
    """Ask a page for its status."""
    return await status_of(event.data["url"])
