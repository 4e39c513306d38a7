"""The accounts that an api books events in: remembered, bounded, and loud when there are no more.

Any key that may send events can name sources and types without end. Each pair has an account of its
own up to a bound; all that come later share one, in which the books balance as in any other.
"""

from collections.abc import Callable
from time import monotonic

from sqlalchemy import Connection

from veltrix.pipeline.accept import ledger_rows
from veltrix.telemetry import events_overflowed, logger

REMEMBERED_MAX = 50_000
SAID_AGAIN_S = 60.0

_log = logger("accept")


class Accounts:
    """The account ids this process has seen committed, and the bound on their number."""

    def __init__(self, accounts_max: int, now: Callable[[], float] = monotonic) -> None:
        self._accounts_max, self._now = accounts_max, now
        self._ids: dict[tuple[str, str], int] = {}
        self._is_full = False
        self._overflowed = 0
        self._said_at: float | None = None

    @property
    def is_full(self) -> bool:
        """Whether some of these ids are that of the overflow account."""
        return self._is_full

    def forget(self) -> None:
        """Find each id anew: they may be those of another database."""
        self._ids, self._is_full = {}, False

    def find(self, tx: Connection, keys: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The account of each (source, type), made if new; `tx` must be in autocommit."""
        unknown = keys - self._ids.keys()
        if not unknown:
            return self._ids
        found = ledger_rows.accounts(tx, unknown, self._accounts_max)
        if len(self._ids) + len(found) > REMEMBERED_MAX:
            known = {key: self._ids[key] for key in keys - unknown}
            self._ids.clear()
            self._ids.update(known)
        self._ids.update(found)
        self._is_full = self._is_full or ledger_rows.OVERFLOW_ACCOUNT in found.values()
        return self._ids

    def count_overflowed(self, events: int) -> None:
        """Count events of the overflow account, and say so once a minute."""
        if not events:
            return
        events_overflowed.inc(events)
        self._overflowed += events
        now = self._now()
        if self._said_at is None or now - self._said_at >= SAID_AGAIN_S:
            _log.error(
                "accounts.full",
                accounts_max=self._accounts_max,
                events=self._overflowed,
                cure="who sends so many sources or types? if they are meant, raise"
                " VELTRIX_ACCOUNTS_MAX: new ones then have books of their own again",
            )
            self._said_at, self._overflowed = now, 0
