"""A run on its way to the broker."""

import msgspec


class Lease(msgspec.Struct, frozen=True, gc=False):
    """What the ledger gave a list of runs with their insert.

    Until `until_ms` (the ledger's clock) a run of it may be begun without a claim; 0: never, since
    nobody knows whether the list was committed.
    """

    token: str
    until_ms: int


class DueRun(msgspec.Struct, gc=False, frozen=True):
    """A run to hand over. `alone`: it crashed a worker before and shares no message or list.

    `lease`: it is handed over as claimed, and `packed` is the run with its event (`pack_event`).
    """

    id: str
    workflow: str
    queue: str
    payload_bytes: int = 0
    alone: bool = False
    lease: Lease | None = None
    packed: bytes = b""
