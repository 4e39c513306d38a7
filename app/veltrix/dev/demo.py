"""`veltrix demo`: a year of real flights through the whole platform, with a worker killed midway.

It ends by comparing what is in the database with what is in the file: every event accepted and
accounted for, and the compensation of every flight booked, once.
"""

import contextlib
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from sqlalchemy import Engine, text

from veltrix.dev.children import CannotStart, kill_all, wait_for
from veltrix.dev.demo_result import Demonstration, DemoResult, Kill, Moment
from veltrix.dev.flights import FLIGHTS, TYPE, event_of, flights_file, owed_cents, read_flights
from veltrix.dev.platform import Platform
from veltrix.dev.poster import NotTaken, Poster
from veltrix.dev.progress import DemoProgress
from veltrix.dev.session import ended_by_signals, own_folder, undisturbed
from veltrix.operations.books.books import Balance, RunCounts, balance, fold_once, recount_once
from veltrix.store.transactions import make_engine, open_autocommit, transaction

_WORKERS = 2
_CONNECTIONS = 3
_BATCH_EVENTS_MAX = 500
_STALL_S = 90.0  # nothing settles for so long: give up, and say so
_READY_WAIT_S = 30.0  # a worker that was started again is worth killing only when it works
_KILL_WAIT_S = 10.0
_KILLS_MAX = 10
_LOOK_S = 0.2

_IN_HAND = text(
    "select id from runs where due_at is not null and state = 'running'"
    " and starts_with(worker_id, :prefix)"
)
_SUBSCRIBED = text("select count(*) from subscriptions where :type = any(types)")
_SESSIONS = text("select count(*) from pg_stat_activity where application_name ~ :pattern")
_AT_WORK = text(
    "select count(*) from pg_stat_activity where application_name ~ :pattern and state = 'active'"
)
_NOW = text("select clock_timestamp()")
_RECOVERED = text(
    "select extract(epoch from max(settled_at) - :killed_at)::float8 from runs"
    " where id = any(cast(:ids as uuid[])) having count(*) = count(settled_at)"
)
_BOOKED = text("select flight_id, cents from flight_compensations")
_REFUSED_EFFECTS = text(
    "select count(*) from failed_attempts where step = 'book' and type = 'IntegrityError'"
)


def run_demo(
    events: int | None = None,
    *,
    folder: Path | None = None,
    children: int | None = None,
    make_platform: Callable[..., Platform] = Platform,
) -> Demonstration:
    """Post the first `events` flights (None: all), kill a worker midway, wait, check everything.

    Progress goes to standard error; what came of it is the caller's to print. Its PostgreSQL and
    RabbitMQ are private, in a new folder inside `folder` (kept, with the logs) or in a temporary
    one (removed). Nothing runs afterwards, also after Ctrl-C. `children` are those of each of two
    workers. `CannotStart` says what is missing.
    """
    total = FLIGHTS if events is None else min(events, FLIGHTS)
    if total < 1:
        raise CannotStart("the demo needs at least 1 event")
    path = flights_file()
    _check_workflows()
    children = children or max(1, (os.cpu_count() or 1) // _WORKERS)
    with own_folder(folder, "veltrix-demo-") as own, ended_by_signals():
        progress = DemoProgress(total, Console(stderr=True))
        progress.say(f"starting PostgreSQL, RabbitMQ, api, relay and {_WORKERS} workers in {own}")
        with make_platform(own, workers=_WORKERS, children=children) as platform:
            progress.say(f"sending {total:,} flights; to watch: {platform.api_url}/console")
            try:
                return _Demo(platform, path, total, progress).run()
            except KeyboardInterrupt:
                with undisturbed():
                    progress.say("stopping: ending everything that was started")
                    platform.close(grace_s=0)
                raise


class Stalled(Exception):
    """Runs are open and nothing moves."""


class _Demo:
    def __init__(self, platform: Platform, path: Path, total: int, progress: DemoProgress) -> None:
        self._platform, self._path, self._total, self._progress = platform, path, total, progress
        self._engine = make_engine(
            platform.database_url, application="veltrix demo", connections_max=2
        )
        self._expected: dict[str, int] = {}
        self._kills: list[Kill] = []
        self._recovering: Callable[[], None] | None = None
        self._moments: list[Moment] = []
        self._books: Balance | None = None
        self._look_at = self._began = 0.0
        self._pause = threading.Event()

    def run(self) -> Demonstration:
        """From the first event to the checks."""
        trouble = ""
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
            self._began = time.monotonic()
            try:
                with poster:
                    self._watch(poster)
            except (NotTaken, Stalled) as error:
                trouble = str(error)
                self._progress.say(f"{error}\n{self._platform.logs(lines=20)}")
            seconds = time.monotonic() - self._began
            self._progress.close()
            self._progress.say(
                "checking the books against the rows, and the bookings against the file"
            )
            return Demonstration(self._check(seconds), self._moments, self._kills, trouble)
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
            runs = self._look().runs
            settled = _settled(runs)
            if poster.is_done and runs.open == 0 and runs.started >= self._total:
                return
            now = time.monotonic()
            if settled != settled_before:
                moved, settled_before = now, settled
            elif now - moved > _STALL_S:
                raise Stalled(f"{runs.open:,} runs are open and none settled for {_STALL_S:.0f} s")
            if not poster.is_released and settled >= self._total // 3:
                self._kill_worker(poster)
            self._pause.wait(max(0.0, self._look_at - time.monotonic()))

    def _look(self) -> Balance:
        """The books, for the display and the picture too; as they were if that was just now.

        Looking costs the database something: never more than a tenth of the time.
        """
        asked = time.monotonic()
        if self._books is not None and asked < self._look_at:
            return self._books
        self._books = balance(self._engine)
        now = time.monotonic()
        accepted, runs = self._books.events.accepted, self._books.runs
        self._moments.append(Moment(now - self._began, accepted, _settled(runs), runs.open))
        self._progress.show(accepted, _settled(runs), runs.open)
        if self._recovering is not None:
            self._recovering()
        self._look_at = now + max(_LOOK_S, 10 * (now - asked))
        return self._books

    def _kill_worker(self, poster: Poster) -> None:
        """SIGKILL a worker while runs are in its hands, count them, start it again."""
        name = f"worker-{len(self._kills) % _WORKERS + 1}"
        member = self._platform.processes[name]
        wait_for(lambda: self._looking(member.is_ready), deadline_s=_READY_WAIT_S)
        family = member.child.family()
        is_caught = self._catch(name, family, poster)
        killed_at, at_s = self._rows(_NOW)[0], time.monotonic() - self._began
        self._platform.kill(name)
        kill_all(family)
        # Whatever its sessions had under way is committed or not before the runs are counted.
        wait_for(lambda: self._looking(self._ask(_SESSIONS, **_of(family)) == 0), deadline_s=10)
        in_hand = self._rows(_IN_HAND, prefix=f"{name}@")
        self._platform.start(name, "worker")
        kill = Kill(name, member.pid, at_s, len(in_hand))
        self._kills.append(kill)
        self._progress.note(
            "killed", f"{name} (pid {member.pid}) with {kill.caught}; started it again"
        )
        if in_hand:
            self._progress.note("recovery", f"waiting for the outcome of {kill.runs}")
            self._recovering = lambda: self._note_recovery(kill, in_hand, killed_at)
        if in_hand or not is_caught or len(self._kills) >= _KILLS_MAX:
            poster.release()

    def _catch(self, name: str, family: Sequence[psutil.Process], poster: Poster) -> bool:
        """The worker stands still with runs in its hands; False if it had none all the time.

        A list may be done between a look and a kill: so it is stopped before the look that counts.
        """
        end_at = time.monotonic() + _KILL_WAIT_S
        permit_at = 0.0
        while (now := time.monotonic()) < end_at:
            if self._rows(_IN_HAND, prefix=f"{name}@"):
                _signal(family, signal.SIGSTOP)
                wait_for(lambda: self._ask(_AT_WORK, **_of(family)) == 0, deadline_s=5)
                if self._rows(_IN_HAND, prefix=f"{name}@"):
                    return True
                _signal(family, signal.SIGCONT)
            elif now >= permit_at:
                poster.permit()
                permit_at = now + 0.05
            self._look()
        return False

    def _looking(self, is_so: bool) -> bool:
        """What was asked, beside a look: the picture has no hole where it matters."""
        self._look()
        return is_so

    def _note_recovery(self, kill: Kill, in_hand: Sequence[Any], killed_at: Any) -> None:
        found = self._rows(_RECOVERED, ids=[str(one) for one in in_hand], killed_at=killed_at)
        if found:
            kill.recovery_s, self._recovering = found[0], None
            self._progress.note(
                "recovery", f"its {kill.runs} settled {found[0]:.1f} s after the kill"
            )

    def _ask(self, question: object, **values: object) -> int:
        return int(self._rows(question, **values)[0])

    def _rows(self, question: Any, **values: object) -> list[Any]:
        """The first column of the answer."""
        with open_autocommit(self._engine) as tx:
            return list(tx.execute(question, values).scalars())

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
            workers_killed=sum(kill.in_hand > 0 for kill in self._kills),
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


def _of(family: Sequence[psutil.Process]) -> dict[str, str]:
    """What names the database's sessions of these processes of a worker."""
    return {"pattern": f"^veltrix worker ({'|'.join(str(one.pid) for one in family)}) "}


def _signal(family: Sequence[psutil.Process], number: signal.Signals) -> None:
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def _settled(runs: RunCounts) -> int:
    return runs.succeeded + runs.failed + runs.cancelled


def _check_workflows() -> None:
    """Before servers are started for nothing."""
    try:
        is_there = importlib.util.find_spec("workflows.flights") is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise CannotStart(
            "the demo runs the sample workflow workflows/flights.py, which is not here: start it in"
            " the folder of a source checkout"
        )


def _make_table(engine: Engine) -> None:
    """The table of the flights workflow, which no migration of ours makes."""
    from workflows.flights import metadata  # not at import: `veltrix` starts without workflows

    with transaction(engine) as tx:
        metadata.create_all(tx)
