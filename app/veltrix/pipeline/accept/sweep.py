"""The sweep: events that a stale cache kept from a workflow start it; history only when asked.

An api looks at the subscriptions once a second. What it accepted in between, after a subscription
began, is started here, every time and once (mechanics 21). `start_events` does the same for
history.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Engine

from veltrix.access.audit import Audited, append
from veltrix.domain.ids import first_id_at, run_id, workflow_suffix
from veltrix.pipeline.accept.routing import is_match
from veltrix.pipeline.accept.startable_rows import (
    LAST_ID,
    Stretch,
    read_stretch,
    read_unrouted,
    start,
    types_unrouted,
    types_unrouted_lately,
)
from veltrix.releases.subscription_rows import Subscription, current
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit, retry_transient, transaction
from veltrix.telemetry import logger

log = logger("sweep")

LIST_EVENTS_MAX = 1_000
STRETCH_EVENTS_MAX = 5_000
# A cache may be this much older than its limit says while an api commits its last list.
GRACE = timedelta(seconds=5)
# How long after its window the beginning of a subscription is looked at again.
WATCH = timedelta(seconds=30)
# How long after its event was given its id a list may still be committed.
LATE = timedelta(seconds=30)
CALM_S = 10.0  # between looks while no subscription changes
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class UnknownWorkflow(LookupError):
    """No subscription has this name."""

    def __init__(self, workflow: str) -> None:
        super().__init__(
            f"no workflow {workflow!r}; `veltrix workflows list` shows those there are"
        )
        self.workflow = workflow


class Sweep:
    """Starts what stale caches missed. For one thread.

    A look reads the types of what was accepted since the look before and a little more: it costs
    what the events of that time cost, however many are unrouted from before. An event is missed
    only while its api does not know of a change yet, so looks are rarer while nothing changes; now
    and then one is wide, for lists whose commit took long.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._monotonic = engine, monotonic
        self._window = timedelta(seconds=2 * settings.subscriptions_cache_s) + GRACE
        self._looks: dict[tuple[str, datetime], timedelta] = {}
        self._wanted = Coverage(())
        self._changed_at = self._looked_at = self._widely_at = monotonic()
        self._begun: set[datetime] = set()  # beginnings before which nothing is looked for

    def once(self) -> int:
        """Start what was missed; how many runs. Ask again at once while it is not 0."""
        with open_autocommit(self._engine) as tx:
            subscriptions = [s for s in current(tx) if s.types]
            if not self._is_look_due(subscriptions):
                return 0
            began = self._monotonic()
            is_wide = began - self._widely_at >= CALM_S
            behind = self._window + timedelta(seconds=began - self._looked_at)
            if is_wide:
                behind = self._window + LATE + timedelta(seconds=began - self._widely_at)
            now, types = types_unrouted_lately(
                tx, behind_s=behind.total_seconds(), ahead_s=self._window.total_seconds()
            )
        first, last = first_id_at(now - behind), first_id_at(now + self._window)
        started = self._start_between(types, first, last) + self._start_begun(now - behind)
        started += sum(self._sweep_beginning(subscription, now) for subscription in subscriptions)
        self._looked_at, self._widely_at = began, began if is_wide else self._widely_at
        if started:
            log.info("runs.started_late", runs=started)
        return started

    def _is_look_due(self, subscriptions: Sequence[Subscription]) -> bool:
        """Each time while apis may route by other subscriptions than these; else now and then."""
        now = self._monotonic()
        if subscriptions != self._wanted.subscriptions:
            self._wanted, self._changed_at = Coverage(subscriptions), now
            keys = {(s.workflow, _since(s)) for s in subscriptions}
            self._looks = {key: age for key, age in self._looks.items() if key in keys}
        busy = self._window + 2 * WATCH + LATE
        return now - self._changed_at <= busy.total_seconds() or now - self._looked_at >= CALM_S

    def _start_between(self, types: Iterable[str], first: str, last: str) -> int:
        """Unrouted events of these types that a subscription covers since before they came."""
        since = {t: begun for t in types if (begun := self._wanted.since(t)) is not None}
        started, after = 0, first if since else None
        while after is not None:
            more, after = retry_transient(partial(self._start_list, since, after, last))
            started += more
        return started

    def _start_list(
        self, since: dict[str, datetime], after: str, last: str
    ) -> tuple[int, str | None]:
        started = 0
        with transaction(self._engine) as tx:
            events = read_unrouted(tx, since, after=after, last=last, limit=LIST_EVENTS_MAX)
            for subscription in self._wanted.subscriptions:
                begun = _since(subscription)
                ids = [
                    event_id
                    for event_id, type_, accepted_at in events
                    if accepted_at >= begun and _covers(subscription.types, type_)
                ]
                started += _start(tx, subscription, ids)
        return started, events[-1][0] if len(events) == LIST_EVENTS_MAX else None

    def _start_begun(self, looked_from: datetime) -> int:
        """What was missed when a subscription began, while no relay was there to see it: once."""
        started = 0
        beginnings = {_since(s) for s in self._wanted.subscriptions}
        for begun in sorted(beginnings - self._begun):
            if begun < looked_from:
                first, last = first_id_at(begun), first_id_at(begun + self._window)
                with open_autocommit(self._engine) as tx:
                    types = types_unrouted(tx, first, last)
                started += self._start_between(types, first, last)
        self._begun = beginnings
        return started

    def _sweep_beginning(self, subscription: Subscription, now: datetime) -> int:
        """Events routed to others while an api did not know this new subscription yet."""
        since, last = _since(subscription), self._window + WATCH
        key, age = (subscription.workflow, since), now - since
        if not self._has_to_look(key, age):
            return 0
        started = retry_transient(lambda: self._look(subscription, since))
        self._looks[key] = min(2 * age, last) if age < last else timedelta.max
        return started

    def _has_to_look(self, key: tuple[str, datetime], age: timedelta) -> bool:
        """Each look is at twice the age of the one before, the last when the watch is over.

        A look reads every event of the window: under load that is a hundred thousand.
        """
        return age < self._window + 2 * WATCH and self._looks.get(key, timedelta()) <= age

    def _look(self, subscription: Subscription, since: datetime) -> int:
        started = 0
        after: str | None = first_id_at(since)
        end = first_id_at(since + self._window)
        with transaction(self._engine) as tx:
            while after is not None:
                stretch = _stretch(tx, subscription, subscription.types, since, after, end)
                started += _start(tx, subscription, stretch.event_ids)
                after = stretch.last_id
        return started


class Coverage:
    """What subscriptions cover, asked by event type at a cost that does not grow with them."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self.subscriptions = subscriptions
        self._since: dict[str, datetime] = {}  # by type, or by what a type begins with
        for subscription in subscriptions:
            for pattern in subscription.types:
                key = pattern.removesuffix("*")
                earliest = self._since.get(key, _since(subscription))
                self._since[key] = min(earliest, _since(subscription))

    def since(self, type_: str) -> datetime | None:
        """Since when the first of them covers this type; None: none does."""
        dots = [at for at, letter in enumerate(type_[:-1], 1) if letter == "."]
        keys = (type_, *(type_[:at] for at in dots))
        return min((self._since[key] for key in keys if key in self._since), default=None)


def count_events(
    engine: Engine, pattern: str, workflow: str, since: datetime, *, after: str | None = None
) -> Stretch:
    """How many events of this type `start_events` would start, one stretch of the ledger at a time.

    Go on with `after=last_id` until that is None. Raises UnknownWorkflow.
    """
    with transaction(engine) as tx:
        subscription = _named(tx, workflow)
        return _stretch(tx, subscription, [pattern], since, after or first_id_at(since))


def start_events(
    engine: Engine,
    pattern: str,
    workflow: str,
    since: datetime,
    *,
    after: str | None = None,
    events_max: int = LIST_EVENTS_MAX,
    author: str | None = None,
    reason: str = "",
) -> tuple[int, str | None]:
    """Start the workflow for events of this type accepted since then that were never given to it.

    One stretch of at most `events_max` events of the ledger, of any type: (runs started, where the
    next stretch begins, or None at the end). The caller sets the pace. An event starts a workflow
    once, however often and by whomever this is called. Raises UnknownWorkflow.
    """

    def _once() -> tuple[int, str | None]:
        with transaction(engine) as tx:
            subscription = _named(tx, workflow)
            begin = after or first_id_at(since)
            stretch = _stretch(tx, subscription, [pattern], since, begin, limit=events_max)
            started = _start(tx, subscription, stretch.event_ids, author)
            if started:
                row = _audited(subscription, pattern, since, stretch, started, author, reason)
                append(tx, [row])
            return started, stretch.last_id

    return retry_transient(_once)


def _audited(
    subscription: Subscription,
    pattern: str,
    since: datetime,
    stretch: Stretch,
    started: int,
    author: str | None,
    reason: str,
) -> Audited:
    suffix = workflow_suffix(subscription.workflow)
    return Audited(
        author=author or "",
        action="event.start",
        reason=reason,
        target="workflow",
        target_id=subscription.workflow,
        request={"type": pattern, "since": since.isoformat()},
        run_ids=[run_id(event_id, suffix) for event_id in stretch.event_ids],
        result={"started": started},
    )


def _named(tx: Connection, workflow: str) -> Subscription:
    for subscription in current(tx):
        if subscription.workflow == workflow:
            return subscription
    raise UnknownWorkflow(workflow)


def _since(subscription: Subscription) -> datetime:
    return subscription.since or _LONG_AGO


def _covers(patterns: Sequence[str], type_: str) -> bool:
    return any(is_match(pattern, type_) for pattern in patterns)


def _stretch(
    tx: Connection,
    subscription: Subscription,
    patterns: Sequence[str],
    since: datetime,
    after: str,
    before: str = LAST_ID,
    limit: int = STRETCH_EVENTS_MAX,
) -> Stretch:
    suffix = workflow_suffix(subscription.workflow)
    return read_stretch(tx, patterns, suffix, since=since, after=after, before=before, limit=limit)


def _start(
    tx: Connection, subscription: Subscription, event_ids: Sequence[str], author: str | None = None
) -> int:
    if not event_ids:
        return 0
    suffix = workflow_suffix(subscription.workflow)
    return start(tx, event_ids, subscription.workflow, subscription.queue, suffix, author)
