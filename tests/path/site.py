"""A platform with the workflows of `effects_flows`, producers that post to it, and its ledger."""

import http.client
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import pytest

from tests.support.wait import until
from veltrix.dev.platform import Member, Platform
from veltrix.domain.events import BATCH_TYPE
from veltrix.operations.books.books import balance
from veltrix.store.transactions import make_engine, transaction

Item = dict[str, Any]
_OPEN = {"queued", "running", "waiting"}


def event_of(number: int, type_: str = "effects.fast") -> Item:
    """The event with this number."""
    return {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": "/effects",
        "type": type_,
        "data": {"number": number, "text": "ü" * (number % 50)},
    }


def connect(url: str, timeout_s: float = 30.0) -> http.client.HTTPConnection:
    """A keep-alive connection to an api."""
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)


def post(connection: http.client.HTTPConnection, events: Sequence[Item]) -> tuple[int, list[Item]]:
    """Status and items; one event is posted as itself, not as a batch of one."""
    is_single = len(events) == 1
    kind = "application/cloudevents+json" if is_single else BATCH_TYPE
    body = json.dumps(events[0] if is_single else events)
    connection.request("POST", "/v1/events", body, {"Content-Type": kind})
    response = connection.getresponse()
    answer = json.loads(response.read())
    return response.status, [answer] if is_single else answer["items"]


class Producers:
    """Threads that post until the api breaks their connection or `stop`; what they were told."""

    def __init__(self, url: str, sizes: Sequence[int], first: int = 0) -> None:
        self.sent: dict[str, Item] = {}
        self.receipts: dict[str, Item] = {}
        self.statuses: Counter[int] = Counter()
        self._url, self._next, self._lock = url, first, threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(size,)) for size in sizes]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def unanswered(self) -> list[Item]:
        """Sent, and nobody said what became of them."""
        return [event for id_, event in self.sent.items() if id_ not in self.receipts]

    def _take(self, size: int) -> list[Item]:
        with self._lock:
            events = [event_of(n) for n in range(self._next, self._next + size)]
            self._next += size
            self.sent.update({event["id"]: event for event in events})
        return events

    def _post(self, size: int) -> None:
        with closing(connect(self._url)) as connection:
            while not self._stop.is_set():
                try:
                    status, items = post(connection, self._take(size))
                except (OSError, http.client.HTTPException):
                    return
                with self._lock:
                    self.statuses[status] += 1
                    self.receipts.update({item["id"]: item for item in items})


class Site:
    """A running platform and what its ledger says."""

    def __init__(self, platform: Platform, effects: Path) -> None:
        self.platform = platform
        self.engine = make_engine(platform.database_url, application="tests", connections_max=3)
        self._effects = effects

    def member(self, name: str) -> Member:
        """A process."""
        return self.platform.processes[name]

    def start(self, name: str, **env: str) -> Member:
        """Start a process (`api-2`), or again one that ended; `env` without the prefix."""
        kind: Any = name.partition("-")[0]
        return self.platform.start(name, kind, {f"VELTRIX_{k}": v for k, v in env.items()})

    def start_ready(self, name: str, **env: str) -> Member:
        """Start it and wait until it is ready."""
        member = self.start(name, **env)
        self.platform.wait_ready(name)
        return member

    def post(
        self,
        numbers: Sequence[int],
        *,
        url: str | None = None,
        size: int = 100,
        type_: str = "effects.fast",
    ) -> list[Item]:
        """Post these events, all of which must be taken; the receipts."""
        receipts: list[Item] = []
        with closing(connect(url or self.platform.api_url)) as connection:
            for first in range(0, len(numbers), size):
                events = [event_of(number, type_) for number in numbers[first : first + size]]
                status, items = post(connection, events)
                assert status == 202, items
                receipts += items
        return receipts

    def ask(self, sql: str, *values: Any) -> list[Any]:
        """The rows."""
        with transaction(self.engine) as tx:
            return [tuple(row) for row in tx.exec_driver_sql(sql, values or None)]

    def states(self) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(dict(self.ask("select state, count(*) from runs group by state")))

    def open_runs(self) -> int:
        """Runs without an outcome."""
        return sum(count for state, count in self.states().items() if state in _OPEN)

    def contents(self) -> dict[str, Any]:
        """The data of every event in the ledger, by the sender's id."""
        return dict(self.ask("select sender_id, data from events"))

    def run_ids(self) -> dict[str, list[str]]:
        """The runs of every event in the ledger, by the sender's id."""
        found: dict[str, list[str]] = {}
        sql = "select sender_id, r.id::text from events e join runs r on r.event_id = e.id"
        for sender_id, run_id in self.ask(sql):
            found.setdefault(sender_id, []).append(run_id)
        return found

    def wait_settled(self, runs: int, deadline_s: float) -> None:
        """This many runs have succeeded, and there are no others."""
        wanted = Counter(succeeded=runs)
        try:
            until(lambda: self.states() == wanted, deadline_s, f"{runs} runs to succeed")
        except AssertionError as late:
            raise AssertionError(f"{late}; {self.states()}") from late

    def check_books(self, events: int) -> None:
        """Each event started one run, each run has one outcome, and nothing is unaccounted."""
        books = balance(self.engine)
        assert (books.events.accepted, books.events.routed) == (events, events)
        assert (books.runs.started, books.runs.succeeded) == (events, events), books.runs
        assert (books.runs.open, books.unaccounted) == (0, 0)

    def marks(self) -> Counter[str]:
        """How often the step of each run began."""
        return Counter(self._effects.read_text().split() if self._effects.exists() else ())

    def check_ran_once(self, events: int) -> None:
        """No worker died, so the step of every run began exactly once."""
        marks = self.marks()
        assert len(marks) == events
        assert set(marks.values()) == {1}, marks.most_common(3)

    def wait_registered(self) -> None:
        """The workflows have subscriptions, and every api routes by them."""
        until(lambda: self.ask("select 1 from subscriptions"), 20, "the subscriptions")
        apis = [name for name in self.platform.processes if name.startswith("api")]
        until(lambda: all(self.metric("veltrix_subscriptions", api) for api in apis), 20, "routing")

    def logged(self, word: str, name: str) -> int:
        """Lines of a process's log that hold this word."""
        lines = self.member(name).log.read_text(errors="replace").splitlines()
        return sum(word in line for line in lines)

    def metric(self, name: str, *members: str) -> float:
        """The sum of a metric over these processes and its labels."""
        total = 0.0
        for member in members:
            url = f"{self.member(member).url}/metrics"
            with urllib.request.urlopen(url, timeout=5) as told:  # noqa: S310 - on loopback
                for line in told.read().decode().splitlines():
                    words = line.rsplit(" ", 1)
                    if words[0].partition("{")[0] == name:
                        total += float(words[1])
        return total

    def manage(self, method: str, path: str) -> Any:
        """Call RabbitMQ's management API; `{vhost}` in the path is ours."""
        parts = urlsplit(self.platform.management_url)
        vhost = quote(urlsplit(self.platform.broker_url).path[1:], safe="%")
        url = f"http://{parts.hostname}:{parts.port}/api/{path.format(vhost=vhost)}"
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(
            None, url, parts.username or "", parts.password or "", is_authenticated=True
        )
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        request = urllib.request.Request(url, method=method)
        with opener.open(request, timeout=20) as told:
            body = told.read()
        return json.loads(body) if body else None

    def queues(self) -> list[str]:
        """Every queue of the virtual host."""
        return [queue["name"] for queue in self.manage("GET", "queues/{vhost}?columns=name")]

    def purge_all(self) -> None:
        """Every message of every queue is gone."""
        for queue in self.queues():
            self.manage("DELETE", f"queues/{{vhost}}/{queue}/contents")


Open = Callable[..., Site]


@pytest.fixture
def site(platform: Callable[..., Platform], tmp_path: Path) -> Iterator[Open]:
    """Start a platform whose workflows are registered: `site(workers=2, HOLD_S=2)`.

    A capitalised name is a setting of all its processes, any other an option of `Platform`.
    """
    sites: list[Site] = []

    def start(**changes: Any) -> Site:
        effects = tmp_path / "effects"
        options = {"workflows": "tests.path.effects_flows"}
        env = {"PATH_EFFECTS": str(effects)}
        for name, value in changes.items():
            if name.isupper():
                env[f"VELTRIX_{name}"] = str(value)
            else:
                options[name] = value
        one = Site(platform(**options, env=env), effects)
        sites.append(one)
        if options.get("workers", 1):
            one.wait_registered()
        return one

    yield start
    for one in sites:
        one.engine.dispose()
