"""Refusals in the audit: the first are rows at once, repeats are counted.

No row of the audit can be deleted, and whoever has any key can be refused, or sign in, as often as
he likes. So
of one key, reason and route the first few of a minute are rows of their own before they are
answered; what follows in that minute is one row at its end that says how many there were.
"""

from collections.abc import Callable
from threading import Event, Lock, Thread
from time import monotonic
from typing import NamedTuple

import msgspec
from sqlalchemy import Engine
from starlette.requests import Request

from veltrix.access.audit import Audited, append
from veltrix.store.transactions import transaction
from veltrix.telemetry import calls_refused, logger

OWN_ROWS = 3
MINUTE_S = 60.0
FLUSH_S = 1.0
_STOP_S = 5.0

_log = logger("api")


class _Key(NamedTuple):
    author: str
    why: str
    route: str


class _Minute(msgspec.Struct):
    """What was refused since it began; `last` is the row that the last one would have been."""

    began: float
    rows: int = 0
    repeats: int = 0
    last: Audited | None = None


class Refusals:
    """Writes refusals and sign-ins down. Thread-safe; `start` it, or repeats are not written."""

    def __init__(self, engine: Engine, now: Callable[[], float] = monotonic) -> None:
        self._engine, self._now = engine, now
        self._lock = Lock()
        self._minutes: dict[_Key, _Minute] = {}
        self._has_repeats, self._is_stopping = Event(), Event()
        self._thread = Thread(target=self._flush_until_stopped, name="refusals", daemon=True)

    def start(self) -> None:
        """Write repeats when their minute has ended."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Write what was counted, if the database takes it soon, and end."""
        self._is_stopping.set()
        self._has_repeats.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def is_repeat(self, row: Audited, why: str, route: str) -> bool:
        """Count this; True: it is a repeat, and no row of its own is to be written."""
        if row.is_refused:
            calls_refused.inc()
        key, now = _Key(row.author, why, route), self._now()
        with self._lock:
            minute = self._minutes.get(key)
            if minute is None or (not minute.repeats and now - minute.began >= MINUTE_S):
                minute = self._minutes[key] = _Minute(now)
            if minute.rows < OWN_ROWS:
                minute.rows += 1
                return False
            minute.repeats += 1
            minute.last = msgspec.structs.replace(row, target_id=route)
        self._has_repeats.set()
        return True

    def note(self, row: Audited, why: str, route: str) -> None:
        """The refusal is in the audit, or counted, when this returns."""
        if not self.is_repeat(row, why, route):
            self.write(row)

    def write(self, *rows: Audited) -> None:
        """Write these rows now, in a transaction of their own."""
        with transaction(self._engine) as tx:
            append(tx, rows)

    def flush_once(self, *, is_last: bool = False) -> int:
        """Write the repeats of the minutes that have ended, all of them if `is_last`; how many."""
        now = self._now()
        with self._lock:
            ended = {
                key: minute
                for key, minute in self._minutes.items()
                if is_last or now - minute.began >= MINUTE_S
            }
            for key in ended:
                del self._minutes[key]
            if not any(minute.repeats for minute in self._minutes.values()):
                self._has_repeats.clear()
        rows = [row for minute in ended.values() if (row := _repeated(minute, now)) is not None]
        try:
            self.write(*rows)
        except Exception:
            self._keep(ended)
            raise
        return len(rows)

    def _keep(self, ended: dict[_Key, _Minute]) -> None:
        """Count on with what could not be written: the database is away."""
        with self._lock:
            for key, minute in ended.items():
                there = self._minutes.setdefault(key, minute)
                if there is not minute:
                    there.repeats, there.last = there.repeats + minute.repeats, minute.last
        self._has_repeats.set()

    def _flush_until_stopped(self) -> None:
        while not self._is_stopping.is_set():
            self._has_repeats.wait()
            self._is_stopping.wait(FLUSH_S)
            try:
                self.flush_once(is_last=self._is_stopping.is_set())
            except Exception as error:  # noqa: BLE001 - kept, and tried again
                _log.warning("refusals.delayed", error=str(error).partition("\n")[0])


def route_of(request: Request) -> str:
    """What was called, without what the caller chose: its path with the names of its parameters."""
    names = {str(value): f"{{{name}}}" for name, value in request.path_params.items()}
    # Not the path of its URL, which ends where a parameter has a question mark in it.
    path: str = request.scope["path"]
    return "/".join(names.get(part, part) for part in path.split("/"))


def _repeated(minute: _Minute, now: float) -> Audited | None:
    if minute.last is None or not minute.repeats:
        return None
    told = {"repeats": minute.repeats, "within_s": round(now - minute.began, 1)}
    result = minute.last.result | told
    return msgspec.structs.replace(
        minute.last, result=result, request={"repeated": minute.last.request}
    )
