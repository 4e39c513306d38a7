"""Deploys: the code deployed last, of that which somebody serves, routes and names the queues.

A new release takes over when its first worker registers. This duty sees to the rest: that a
roll-back takes when the workers of the later release are gone, and that who comes late is heard.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection, Engine

from veltrix.releases import release_rows, subscription_rows
from veltrix.releases.register import tell
from veltrix.releases.rules import Release, Switch, switches
from veltrix.releases.subscription_rows import Taken
from veltrix.settings.fields import Settings
from veltrix.store.loads import PRESENT_S
from veltrix.store.transactions import after_commit, open_autocommit, retry_transient, transaction

SETTLE_S = 5.0  # between two decisions while the same releases are there
GAP_S = 5.0  # a look that comes later than this cannot tell who is gone from who was cut off


class Deploys:
    """Watches who serves. For one thread."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._monotonic = engine, monotonic
        self._restart_s = settings.deploy_grace_s
        self._live: frozenset[str] = frozenset()
        self._watched_from = self._looked_at = self._settled_at = float("-inf")

    def once(self) -> int:
        """Look who is there, and decide when that has changed, and now and then; 0."""
        now = self._monotonic()
        if now - self._looked_at > GAP_S:
            # The database was away from us, and may have been from workers: they get the time to
            # say that they are there before anything goes back.
            self._watched_from = now
        with open_autocommit(self._engine) as tx:
            live = release_rows.live_ids(tx)
        self._looked_at = now
        if live == self._live and now - self._settled_at < SETTLE_S:
            return 0
        is_settled = retry_transient(partial(self._settle, live, now))
        if is_settled:
            self._live, self._settled_at = live, now
        return 0

    def _settle(self, live: frozenset[str], now: float) -> bool:
        with transaction(self._engine) as tx:
            if not release_rows.take_turn(tx, is_patient=False):
                return False
            settle(
                tx,
                restart_s=self._restart_s,
                may_go_back=now - self._watched_from >= PRESENT_S,
                has_old_workers="" in live,
            )
        return True


def settle(
    tx: Connection, *, restart_s: float, may_go_back: bool, has_old_workers: bool = False
) -> list[Taken]:
    """Make current what the release deployed last says, of those somebody serves; what changed.

    Needs `releases.take_turn`.
    """
    there = release_rows.serve(tx, restart_s=restart_s)
    wanted = switches(
        there,
        subscription_rows.routed(tx),
        may_go_back=may_go_back,
        has_old_workers=has_old_workers,
    )
    if not wanted:
        return []
    taken = subscription_rows.switch(tx, wanted)
    for release in _gone_back_to(wanted, there):
        release_rows.raise_to_last(tx, release.id)
    after_commit(tx, partial(tell, taken))
    return taken


def _gone_back_to(wanted: Sequence[Switch], there: Sequence[Release]) -> list[Release]:
    back = {one.release_id for one in wanted if one.is_back}
    return sorted((one for one in there if one.id in back), key=lambda one: one.deployed_at)
