"""A run on its way to the broker."""

import msgspec


class DueRun(msgspec.Struct, gc=False, frozen=True):
    """A run to hand over. `alone`: it crashed a worker before and shares no message or list."""

    id: str
    workflow: str
    queue: str
    payload_bytes: int = 0
    alone: bool = False
