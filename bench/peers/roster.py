"""What there is, how each is started, and its best settings (docs/reference/peers.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

VELTRIX = "veltrix"
_COUNTS = ("workers", "senders", "open_max")
_QUORUM = "quorum queue, persistent messages, publisher confirms, late acknowledgement"
_CLASSIC = "durable classic queue, persistent messages, publisher confirms, late acknowledgement"
QUEUES = {
    "classic": "classic queue, transient messages that come due, publisher confirms, late"
    " acknowledgement",
    "quorum": _QUORUM,
}
_NO_BROKER = "no broker: its queue is a table"
_TALLY = """
select count(*), count(settled_at), count(*) filter (where output = 2 * (body::json->>'n')::bigint),
    extract(epoch from min(accepted_at))::float8, extract(epoch from max(settled_at))::float8
from events where id::bigint < 10^12
"""
# DBOS pickles outputs, which SQL cannot read: one recorded step to each workflow is what it sees.
_TALLY_DBOS = """
select count(*), count(*) filter (where status = 'SUCCESS'),
    count(*) filter (where 1 = (select count(*) from dbos.operation_outputs o
        where o.workflow_uuid = w.workflow_uuid)),
    min(created_at) / 1000.0::float8, max(updated_at) / 1000.0::float8
from dbos.workflow_status w where queue_name = 'peer' and workflow_uuid::bigint < 10^12
"""
TALLY_VELTRIX = """
select count(*), count(*) filter (where r.state = 'succeeded'),
    count(*) filter (where r.outcome::text::bigint = 2 * (e.data->>'n')::bigint),
    extract(epoch from min(e.accepted_at))::float8, extract(epoch from max(r.settled_at))::float8
from events e join runs r on r.event_id = e.id where e.sender_id::bigint < 10^12
"""
# When each event was settled, by the database's clock (DBOS: by its own): number, Unix seconds.
_TIMES = """
select id::bigint, extract(epoch from settled_at)::float8 from events where id::bigint < 10^12
"""
_TIMES_DBOS = """
select workflow_uuid::bigint, updated_at / 1000.0::float8 from dbos.workflow_status
where queue_name = 'peer' and workflow_uuid::bigint < 10^12
"""
TIMES_VELTRIX = """
select e.sender_id::bigint, extract(epoch from r.settled_at)::float8
from events e join runs r on r.event_id = e.id where e.sender_id::bigint < 10^12
"""


class NoSuchPeer(Exception):
    """A name or setting on the command line that the roster does not have."""


@dataclass(frozen=True)
class Peer:
    """One program: its processes, its settings, and the statement that counts what became of it.

    Commands are arguments of the Python in .venv-peers. Settings are `PEER_<NAME>` for its
    processes and `{name}` in its commands; `{number}` counts those of `workers`. `tally` gives
    accepted, settled, settled with the right output, first acceptance and last settlement in Unix
    seconds; `times` when each was settled. `senders` connections each send a batch at a time, none
    while more than `open_max` events are open. `tries` are other settings, `name=value` with commas
    between; `label` is the one of them that this is. `beside` are those that are run in every round
    too.
    """

    name: str
    packages: tuple[str, ...]
    broker: str
    set_up: str
    worker: str
    settings: Mapping[str, str]
    workers: int = 1
    senders: int = 4
    open_max: int = 2_000
    tally: str = _TALLY
    times: str = _TIMES
    tries: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    label: str = ""

    def commands(self, port: int) -> dict[str, list[str]]:
        """Of all its processes, by name: a front, a relay if it has an outbox, and workers."""
        front = (
            f"-m uvicorn bench.peers.{self.name}:web --port {port} --loop uvloop --http httptools"
            " --log-level warning --no-access-log --timeout-keep-alive 75"
        )
        found = {"front": front.split()}
        if "publishers" in self.settings:
            found["relay"] = ["-m", "bench.peers.outbox", self.name]
        for number in range(1, self.workers + 1):
            values = {**self.settings, "number": str(number)}
            found[f"worker-{number}"] = self.worker.format(**values).split()
        return found

    def environment(self) -> dict[str, str]:
        """Its settings, for its processes."""
        return {f"PEER_{name.upper()}": value for name, value in self.settings.items()}

    def having(self, changes: str) -> "Peer":
        """The same with other settings; the numbers of workers, senders and open events are some.

        `NoSuchPeer` when it has no such setting.
        """
        found = dict(change.split("=", 1) for change in changes.split(",") if "=" in change)
        counts = {name: int(found.pop(name)) for name in _COUNTS if name in found}
        unknown = set(found) - set(self.settings)
        if unknown or not (found or counts):
            known = [*self.settings, *_COUNTS]
            raise NoSuchPeer(f"{changes!r} is no setting of {self.name}; it has {known}")
        changed = replace(self, settings={**self.settings, **found}, label=changes)
        return replace(changed, **counts)  # type: ignore[arg-type]


_LEDGER = "-m bench.peers.ledger"
PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "plain_celery",
            ("celery", "kombu", "amqp", "sqlalchemy", "psycopg"),
            _QUORUM,
            _LEDGER,
            "-m celery -A bench.peers.plain_celery worker -l warning --pool {pool} -c {concurrency}"
            " -n worker{number}@localhost --without-gossip --without-mingle",
            {
                "pool": "solo",
                "concurrency": "1",
                "prefetch": "128",
                "chunk": "50",
                "publishers": "2",
                "outbox_batch": "100",
            },
            workers=2,
            beside=("chunk=1,publishers=4",),  # as most use it: a task for each event
            tries=(
                "pool=prefork,concurrency=2,workers=1",
                "pool=threads,concurrency=4",
                "chunk=10",
                "chunk=100",
                "chunk=1",
                "publishers=1",
                "publishers=4",
                "prefetch=32",
            ),
        ),
        Peer(
            "on_dramatiq",
            ("dramatiq", "pika", "sqlalchemy", "psycopg"),
            _CLASSIC,
            _LEDGER,
            "-m dramatiq bench.peers.on_dramatiq --processes 2 --threads {concurrency}",
            {"concurrency": "4", "publishers": "2", "outbox_batch": "100"},
            tries=(
                "concurrency=1",
                "concurrency=8",
                "publishers=1",
                "publishers=4",
            ),
        ),
        Peer(
            "on_taskiq",
            ("taskiq", "taskiq-aio-pika", "aio-pika", "sqlalchemy", "asyncpg"),
            _QUORUM,
            _LEDGER,
            "-m taskiq worker bench.peers.on_taskiq:broker --workers 2 --log-level WARNING"
            " --max-async-tasks {concurrency} --ack-type when_executed",
            {
                "concurrency": "16",
                "connections": "16",
                "prefetch": "250",
                "publishers": "1",
                "outbox_batch": "250",
            },
            tries=(
                "concurrency=4,connections=4",
                "concurrency=8,connections=8",
                "concurrency=32,connections=32",
                "prefetch=64",
            ),
        ),
        Peer(
            "on_procrastinate",
            ("procrastinate", "psycopg", "psycopg-pool"),
            _NO_BROKER,
            "-m bench.peers.on_procrastinate",
            "-m procrastinate --app bench.peers.on_procrastinate.app --log-level warning worker"
            " -n worker-{number} -c {concurrency} --{listen} -p {poll_s}",
            {"concurrency": "8", "connections": "10", "listen": "listen-notify", "poll_s": "0.1"},
            workers=2,
            open_max=1_000,
            tries=(
                "concurrency=2",
                "concurrency=4",
                "concurrency=20,connections=22",
                "listen=no-listen-notify",
                "poll_s=5",
                "open_max=2000",
            ),
        ),
        Peer(
            "on_dbos",
            ("dbos", "sqlalchemy", "psycopg"),
            _NO_BROKER,
            "-m bench.peers.on_dbos setup",
            "-m bench.peers.on_dbos work worker-{number}",
            {"concurrency": "32", "connections": "40", "poll_ms": "25", "workflow": "run"},
            workers=2,
            open_max=1_000,
            tally=_TALLY_DBOS,
            times=_TIMES_DBOS,
            tries=(
                "concurrency=4",
                "concurrency=8",
                "concurrency=16,connections=20",
                "poll_ms=100",
                "workflow=run_async",
                "workflow=run_async,concurrency=50",
                "poll_ms=1000,concurrency=100",
                "open_max=250",
            ),
        ),
        Peer(
            "limit",
            ("aio-pika", "asyncpg", "uvloop"),
            QUEUES["classic"],
            "-m bench.peers.limit setup",
            "-m bench.peers.limit work",
            {"prefetch": "16", "list_messages": "4", "queue": "classic"},
            senders=8,
            open_max=5_000,
            tries=(
                "list_messages=1",
                "list_messages=8",
                "workers=2",
            ),
        ),
    )
}


def chosen(
    only: str, settings: Iterable[str], *, is_trying: bool = False, queue: str = "classic"
) -> list[Peer | None]:
    """The programs of a round, in turn; None is Veltrix. `NoSuchPeer` names what is wrong.

    `queue` is the type of the limit's: a loss of its queue loses nothing, as one of Veltrix's.
    `only` is a list with commas, or empty for all; `settings` are `peer.name=value`. When trying,
    each peer is followed by itself with each of its other settings.
    """
    limit = PEERS["limit"]
    limit = replace(limit, broker=QUEUES[queue], settings={**limit.settings, "queue": queue})
    found: dict[str, Peer | None] = {VELTRIX: None, **PEERS, limit.name: limit}
    if only:
        names = only.split(",")
        if unknown := [name for name in names if name not in found]:
            raise NoSuchPeer(f"there is no {unknown[0]}; there are {', '.join(found)}")
        found = {name: found[name] for name in names}
    for setting in settings:
        name, _, change = setting.partition(".")
        peer = found.get(name)
        if peer is None:
            raise NoSuchPeer(f"{setting!r} is not peer.setting=value of a peer that is run")
        found[name] = peer.having(change)
    programs: list[Peer | None] = []
    for peer in found.values():
        programs.append(peer)
        if peer is not None and not peer.label:
            programs += map(peer.having, peer.tries if is_trying else peer.beside)
    return programs
