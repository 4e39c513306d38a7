"""`veltrix demo`: a year of real flights through the whole platform, with a worker killed midway.

It ends by comparing what is in the database with what is in the file: every event accepted and
accounted for, and the compensation of every flight booked, once.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from sqlalchemy import Engine, text

from veltrix.dev.children import CannotStart, kill_all, wait_for
from veltrix.dev.flights import FLIGHTS, TYPE, event_of, flights_file, owed_cents, read_flights
from veltrix.dev.platform import Platform
from veltrix.dev.poster import NotTaken, Poster
from veltrix.dev.progress import Progress, print_table
from veltrix.dev.session import ended_by_signals, own_folder
from veltrix.operations.books.books import Balance, balance, fold_once, recount_once
from veltrix.store.transactions import make_engine, open_autocommit, transaction

_WORKERS = 2
_CONNECTIONS = 3
_BATCH_EVENTS_MAX = 500
_STALL_S = 90.0  # nothing settles for so long: give up, and say so
_KILL_WAIT_S = 10.0
_KILLS_MAX = 10
_LOOK_S = 0.2

_IN_HAND = text(
    "select count(*) from runs where due_at is not null and state = 'running'"
    " and starts_with(worker_id, :prefix)"
)
_SUBSCRIBED = text("select count(*) from subscriptions where :type = any(types)")
_SESSIONS = text("select count(*) from pg_stat_activity where application_name ~ :pattern")
_BOOKED = text("select flight_id, cents from flight_compensations")
_REFUSED_EFFECTS = text(
    "select count(*) from failed_attempts where step = 'book' and type = 'IntegrityError'"
)


class DemoResult(msgspec.Struct, frozen=True):
    """What the demo ends with; every field is a key of its last line."""

    accepted: int
    succeeded: int
    failed: int
    cancelled: int
    open: int
    unaccounted: int
    duplicate_effects: int  # rows beyond one per flight, or missing, or refused by the primary key
    workers_killed: int  # only those that died with runs in their hands
    seconds: float  # from the first event sent until the last run had its outcome
    events_per_s: float
    matches_dataset: bool  # table and file agree, flight by flight

    @property
    def is_ok(self) -> bool:
        """Nothing open, unaccounted or done twice, a worker really died at work, totals match."""
        return (
            self.open == self.unaccounted == self.duplicate_effects == 0
            and self.workers_killed > 0
            and self.matches_dataset
        )

    def as_json_line(self) -> str:
        """One line of JSON with exactly these fields."""
        return msgspec.json.encode(self).decode()


def run_demo(
    events: int | None = None,
    *,
    folder: Path | None = None,
    children: int | None = None,
    as_json: bool = False,
    make_platform: Callable[..., Platform] = Platform,
) -> DemoResult:
    """Post the first `events` flights (None: all), kill a worker midway, wait, check everything.

    Progress goes to standard error; unless `as_json`, a table to standard output. The result's JSON
    line is the caller's to print. Its PostgreSQL and RabbitMQ are private, in a new folder inside
    `folder` (kept, with the logs) or in a temporary one (removed). Nothing runs afterwards, also
    after Ctrl-C. `children` are those of each of two workers. `CannotStart` says what is missing.
    """
    total = FLIGHTS if events is None else min(events, FLIGHTS)
    if total < 1:
        raise CannotStart("the demo needs at least 1 event")
    path = flights_file()
    children = children or max(1, (os.cpu_count() or 1) // _WORKERS)
    with own_folder(folder, "veltrix-demo-") as own, ended_by_signals():
        progress = Progress(total, Console(stderr=True))
        progress.say(f"starting PostgreSQL, RabbitMQ, api, relay and workers in {own}")
        with make_platform(own, workers=_WORKERS, children=children) as platform:
            result = _Demo(platform, path, total, progress).run()
    if not as_json:
        print_table(msgspec.structs.asdict(result), Console())
    return result


class Stalled(Exception):
    """Runs are open and nothing moves."""


class _Demo:
    def __init__(self, platform: Platform, path: Path, total: int, progress: Progress) -> None:
        self._platform, self._path, self._total, self._progress = platform, path, total, progress
        self._engine = make_engine(
            platform.database_url, application="veltrix demo", connections_max=2
        )
        self._expected: dict[str, int] = {}
        self._killed = self._kills = 0
        self._pause = threading.Event()

    def run(self) -> DemoResult:
        """From the first event to the checks."""
        try:
            _make_table(self._engine)
            self._wait_subscribed()
            poster = Poster(
                self._platform.api_url,
                self._events(),
                batch_events=max(1, min(_BATCH_EVENTS_MAX, self._total // 40)),
                connections=_CONNECTIONS,
                hold_at=self._total * 3 // 4,
            )
            started = time.monotonic()
            try:
                with poster:
                    self._watch(poster)
            except (NotTaken, Stalled) as error:
                self._progress.say(f"{error}\n{self._platform.logs(lines=20)}")
            seconds = time.monotonic() - started
            self._progress.close()
            return self._check(seconds)
        finally:
            self._progress.close()
            self._engine.dispose()

    def _wait_subscribed(self) -> None:
        """Workers have written what their workflows subscribe to: nothing old starts by itself."""
        if not wait_for(lambda: self._ask(_SUBSCRIBED, type=TYPE) > 0, deadline_s=30):
            logs = self._platform.logs(*(f"worker-{n}" for n in range(1, _WORKERS + 1)), lines=40)
            raise CannotStart(f"no worker subscribes to {TYPE}; the ends of their logs:\n{logs}")

    def _events(self) -> Iterator[bytes]:
        for flight in read_flights(self._path, self._total):
            if flight.id in self._expected:
                raise ValueError(f"two flights have the id {flight.id}")
            self._expected[flight.id] = owed_cents(flight)
            yield event_of(flight)

    def _watch(self, poster: Poster) -> None:
        """Until every event is posted and every run has its outcome. Raises Stalled."""
        moved, settled_before = time.monotonic(), -1
        while True:
            asked = time.monotonic()
            books = balance(self._engine)
            runs = books.runs
            settled = runs.succeeded + runs.failed + runs.cancelled
            self._progress.show(books.events.accepted, settled, runs.open)
            if poster.is_done and runs.open == 0 and runs.started >= self._total:
                return
            now = time.monotonic()
            if settled != settled_before:
                moved, settled_before = now, settled
            elif now - moved > _STALL_S:
                raise Stalled(f"{runs.open:,} runs are open and none settled for {_STALL_S:.0f} s")
            if not poster.is_released and settled >= self._total // 3:
                self._kill_worker(poster)
            # Looking costs the database something: never more than a tenth of the time.
            self._pause.wait(max(_LOOK_S, 10 * (now - asked)))

    def _kill_worker(self, poster: Poster) -> None:
        """SIGKILL a worker while runs are in its hands, count them, start it again."""
        name = f"worker-{self._kills % _WORKERS + 1}"
        self._kills += 1
        member = self._platform.processes[name]
        family = member.child.family()
        is_caught = self._wait_in_hand(name, poster)
        self._platform.kill(name)
        kill_all(family)
        # Whatever its sessions had under way is committed or not before the runs are counted.
        pids = "|".join(str(one.pid) for one in family)
        wait_for(
            lambda: self._ask(_SESSIONS, pattern=f"^veltrix worker ({pids})") == 0, deadline_s=10
        )
        in_hand = self._in_hand(name)
        self._platform.start(name, "worker")
        self._killed += in_hand > 0
        caught = f"{in_hand:,} runs in its hands" if in_hand else "nothing in its hands"
        self._progress.say(f"killed {name} (pid {member.pid}) with {caught}; started it again")
        if in_hand or not is_caught or self._kills >= _KILLS_MAX:
            poster.release()

    def _wait_in_hand(self, name: str, poster: Poster) -> bool:
        """The worker is at work; False if it had nothing to do for all the time we waited."""
        end_at = time.monotonic() + _KILL_WAIT_S
        permit_at = 0.0
        while self._in_hand(name) == 0:
            now = time.monotonic()
            if now >= end_at:
                return False
            if now >= permit_at:
                poster.permit()
                permit_at = now + 0.05
        return True

    def _in_hand(self, name: str) -> int:
        return self._ask(_IN_HAND, prefix=f"{name}@")

    def _ask(self, question: object, **values: str) -> int:
        with open_autocommit(self._engine) as tx:
            return int(tx.execute(question, values).scalar_one())  # type: ignore[call-overload]

    def _check(self, seconds: float) -> DemoResult:
        books = self._recounted()
        with transaction(self._engine, snapshot=True) as tx:
            booked = [(row[0], row[1]) for row in tx.execute(_BOOKED)]
            refused = tx.execute(_REFUSED_EFFECTS).scalar_one()
        flights = {flight_id for flight_id, _ in booked}
        missing = self._expected.keys() - flights
        unasked = flights - self._expected.keys()
        is_match = len(booked) == len(self._expected) == self._total and (
            dict(booked) == self._expected
        )
        return DemoResult(
            accepted=books.events.accepted,
            succeeded=books.runs.succeeded,
            failed=books.runs.failed,
            cancelled=books.runs.cancelled,
            open=books.runs.open,
            unaccounted=books.unaccounted,
            duplicate_effects=len(booked) - len(flights) + len(missing) + len(unasked) + refused,
            workers_killed=self._killed,
            seconds=round(seconds, 2),
            events_per_s=round(self._total / seconds, 1),
            matches_dataset=is_match and books.events.accepted == self._total,
        )

    def _recounted(self) -> Balance:
        """The books after every minute, this one too, was recounted from rows."""

        def is_done() -> bool:
            while fold_once(self._engine):
                pass
            found = recount_once(self._engine, closed_minutes=0, is_forced=True)
            return is_sealed() or (found.minutes > 0 and found.sealed == 0)

        def is_sealed() -> bool:
            with transaction(self._engine) as tx:
                left = tx.execute(text("select 1 from counters where not is_sealed limit 1"))
                return left.one_or_none() is None

        wait_for(is_done, deadline_s=60)
        return balance(self._engine)


def _make_table(engine: Engine) -> None:
    """The table of the flights workflow, which no migration of ours makes."""
    from workflows.flights import metadata  # not at import: `veltrix` starts without workflows

    with transaction(engine) as tx:
        metadata.create_all(tx)
