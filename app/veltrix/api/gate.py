"""Who may be connected to an api, and for how long it may keep it waiting."""

import asyncio
from math import ceil
from typing import Protocol

import msgspec

from veltrix.telemetry import connections_closed, connections_open, logger

SWEEP_S = 0.5
# Who came together is late together, and comes again together: a hundredth of them is ended each
# time, all within 2 s, so that the loop is left to others in between.
END_S, END_SHARE = 0.02, 100
SAY_S = 1.0

_log = logger("api")


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection may take; times in seconds."""

    connections_max: int = 4_096
    head_bytes_max: int = 64 * 1024
    head_s: float = 10.0  # from connecting, or from its first byte, to the end of a head
    body_s: float = 20.0  # for a body, and longer by what has come at the pace below
    body_bytes_per_s: int = 16 * 1024
    linger_s: float = 2.0  # an answer is read before its connection ends
    linger_bytes_max: int = 64 * 1024 * 1024
    write_s: float = 30.0  # to read some of an answer that has filled its buffers


class Guest(Protocol):
    """A connection."""

    transport: asyncio.Transport

    def is_over(self, now: float) -> bool:
        """Its time is over."""
        ...

    def close_late(self) -> None:
        """End it for that."""
        ...


class Gate:
    """All connections of one server; for its loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._guests: set[Guest] = set()
        # Who asks nothing now, the longest first: has not asked yet, and has been answered.
        self._strangers: dict[Guest, None] = {}
        self._idle: dict[Guest, None] = {}
        # Who keeps us waiting: has been refused and is read to its end, and sends its body.
        self._lingering: dict[Guest, None] = {}
        self._unfinished: dict[Guest, None] = {}
        self._late: list[Guest] = []
        self._share = 1
        self._timer: asyncio.TimerHandle | None = None
        self._said_at = float("-inf")
        self._unsaid = 0

    def enter(self, guest: Guest) -> None:
        """It has connected. Where there is no room, who has asked nothing for longest goes."""
        self._guests.add(guest)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SWEEP_S, self._sweep)
        if len(self._guests) > self.limits.connections_max:
            self._end(self._least() or guest, "crowded")
        if guest in self._guests:
            self._strangers[guest] = None
        connections_open.set(len(self._guests))

    def heard(self, guest: Guest) -> None:
        """It has sent a whole head."""
        self._strangers.pop(guest, None)
        self._idle.pop(guest, None)
        self._unfinished[guest] = None

    def whole(self, guest: Guest) -> None:
        """It has sent all of its request: it is for us now."""
        self._unfinished.pop(guest, None)

    def lingers(self, guest: Guest) -> None:
        """It was told the last it will be told, and may read that."""
        if guest in self._guests:
            self._lingering[guest] = None

    def _least(self) -> Guest | None:
        """Who goes first where there is no room. An answer on its way is not cut."""
        for group in (self._lingering, self._strangers, self._idle, self._unfinished):
            for guest in group:
                if group is not self._idle or not guest.transport.get_write_buffer_size():
                    return guest
        return None

    def answered(self, guest: Guest) -> None:
        """It has its answer, and may ask again."""
        if guest in self._guests:
            self._idle[guest] = None

    def leave(self, guest: Guest) -> None:
        """It is gone."""
        self._guests.discard(guest)
        for group in (self._lingering, self._strangers, self._idle, self._unfinished):
            group.pop(guest, None)
        connections_open.set(len(self._guests))

    def _sweep(self) -> None:
        """End some of those that are over their time, and come back for the others."""
        loop = asyncio.get_running_loop()
        try:
            self._end_some(loop.time())
        finally:
            pause_s = END_S if self._late else SWEEP_S
            self._timer = loop.call_later(pause_s, self._sweep) if self._guests else None
            if self._timer is None:
                self._late.clear()

    def _end_some(self, now: float) -> None:
        if not self._late:
            self._late = [one for one in self._guests if one.is_over(now)]
            self._share = ceil(len(self._late) / END_SHARE)
        ended = 0
        while self._late and ended < self._share:
            guest = self._late.pop()
            if guest in self._guests and guest.is_over(now):
                ended += 1
                connections_closed.labels("slow").inc()
                guest.close_late()

    def _end(self, guest: Guest, why: str) -> None:
        self.leave(guest)
        guest.transport.abort()
        connections_closed.labels(why).inc()
        self._unsaid += 1
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= SAY_S:
            _log.warning(
                "connections.crowded", limit=self.limits.connections_max, closed=self._unsaid
            )
            self._said_at, self._unsaid = now, 0
