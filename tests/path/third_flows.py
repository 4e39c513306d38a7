"""A workflow on a queue of its own, beside those of `effects_flows`."""

from typing import Any

from tests.path.effects_flows import mark
from veltrix import Event, workflow


@workflow(on="effects.third", queue="third")
async def take_third(event: Event[dict[str, Any]]) -> int:
    """The event's number."""
    return int(await mark(event.data["number"]))
