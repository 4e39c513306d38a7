"""The duties of history: days are there before they are needed, and what ended is in its day."""

from datetime import timedelta
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from veltrix.store.history import days
from veltrix.store.transactions import is_locked, open_autocommit, retry_transient
from veltrix.telemetry import days_ahead, logger, tables_late

log = logger("history")

AHEAD_S, MOVE_S = 600.0, 300.0  # between two looks
MOVE_RUNS, MOVE_PAGES_MAX = 1_000, 50
FIRST_ID = "00000000-0000-0000-0000-000000000000"


def make_ahead_once(engine: Engine, ahead_days: int = days.AHEAD_DAYS) -> int:
    """Today and the days after it are there, unless the ledger is whole; how many were made.

    A day that a long reader stands in the way of is left to the next look.
    """
    made = 0
    with open_autocommit(engine) as tx:
        found = days.look(tx)
        if found.is_split and (found.ahead <= ahead_days or found.late):
            for number in range(ahead_days + 1):
                day = found.today + timedelta(days=number)
                try:
                    made += days.make(tx, day)
                except DBAPIError as error:
                    if not is_locked(error):
                        raise
                    log.warning("day.held_up", day=day.isoformat())
            found = days.look(tx)
    days_ahead.set(found.ahead)
    tables_late.set(len(found.late))
    if made:
        log.info("days.made", days=made, ahead=found.ahead)
    if found.late:
        log.error("days.late", tables=found.late, cure="veltrix db partition")
    return made


class Moving:
    """Puts runs that old code settled, or that ended before the split, into their days.

    A page after the other, from the beginning again after the last. For one thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._after = FIRST_ID

    def once(self) -> int:
        """Move what the next pages hold; how many runs. 0 at the end of the table, too."""
        total = 0
        with open_autocommit(self._engine) as tx:
            if not days.look(tx).is_split:
                return 0
            for _ in range(MOVE_PAGES_MAX):
                page = partial(days.move_ended, tx, self._after, MOVE_RUNS)
                moved, last = retry_transient(page)
                total += moved
                self._after = last or FIRST_ID
                if last is None or moved:
                    break
        if total:
            log.info("runs.moved", runs=total)
        return total
