"""One run of one program: start it on an empty database and virtual host, flood it, count."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from sqlalchemy import text

from bench.peers.flooding import open_runs
from bench.peers.roster import QUEUES, TALLY_VELTRIX, TIMES_VELTRIX, VELTRIX, Peer
from bench.peers.summary import Tally, Unsettled, judge
from bench.report import percentiles
from veltrix.dev.children import Child, tail, wait_for
from veltrix.dev.platform import Platform
from veltrix.dev.processes import Spec, Supervisor
from veltrix.dev.servers.ports import LOOPBACK, free_port
from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.operations.books.books import balance
from veltrix.store.schema import upgrade
from veltrix.store.transactions import make_engine, open_autocommit, transaction

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_READY_S = 60.0
_DRAIN_S = 120.0
_SENDERS = 8  # as in `python -m bench throughput`
_OPEN_MAX = 5_000
_DURABILITY = "PostgreSQL fsync=on synchronous_commit=on full_page_writes=on"
_VERSIONS = "import sys, importlib.metadata as m; print(*(m.version(n) for n in sys.argv[1:]))"


class Ground:
    """One PostgreSQL and one RabbitMQ, private and durable, for all runs; each begins empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres")
        self.rabbitmq = RabbitMQ(folder / "rabbitmq")
        self._runs = 0

    def __enter__(self) -> Self:
        self.rabbitmq.begin()
        self.postgres.start()
        self.rabbitmq.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.rabbitmq.stop()
        self.postgres.stop()

    @contextmanager
    def empty(self) -> Iterator[str]:
        """The name of a new database and virtual host, gone afterwards."""
        self._runs += 1
        name = f"run{self._runs}"
        self.postgres.create_database(name)
        self.rabbitmq.create_vhost(name)
        try:
            yield name
        finally:
            self.rabbitmq.delete_vhost(name)
            engine = make_engine(self.postgres.url, application="bench")
            with open_autocommit(engine) as connection:
                connection.execute(text(f"drop database {name} with (force)"))
                connection.execute(text("checkpoint"))
            engine.dispose()


class Load(NamedTuple):
    """Batches as fast as they are answered, or `rate` single events a second on schedule."""

    seconds: float
    batch: int
    rate: float = 0.0
    queue: Literal["classic", "quorum"] = "classic"  # Veltrix's


class Posted(NamedTuple):
    """How many events were answered 202, and when those of a schedule were due, by number."""

    accepted: int
    due: dict[int, float]


def run(ground: Ground, peer: Peer | None, load: Load) -> dict[str, Any]:
    """The figures of one run. `Unsettled` when not every accepted event was settled, once."""
    with (
        ground.empty() as place,
        tempfile.TemporaryDirectory(prefix="peers-", dir=ground.folder) as work,
    ):
        if peer is None:
            return _run_veltrix(ground, place, Path(work), load)
        return _run_peer(ground, place, Path(work), peer, load)


def _run_peer(ground: Ground, place: str, folder: Path, peer: Peer, load: Load) -> dict[str, Any]:
    env = _environment(ground, place, peer)
    _python(peer.set_up.split(), env)
    port = free_port()
    supervisor = Supervisor(folder, cwd=ROOT)
    supervisor.open()
    try:
        for name, arguments in peer.commands(port).items():
            command = (str(PYTHON), *arguments)
            supervisor.start(Spec(name, command, env, folder / f"{name}.log"))
        _wait_front(supervisor.child("front"), port)
        posted = _post(port, load, peer.senders, peer.open_max)
        _drain(port)
        figures = tally(ground.postgres.url_of(place), peer.tally, peer.times, posted)
    except Unsettled as error:
        logs = "\n".join(f"--- {log.stem}\n{tail(log)}" for log in sorted(folder.glob("*.log")))
        raise Unsettled(f"{peer.name}: {error}\n{logs}") from None
    finally:
        supervisor.close(grace_s=3.0)
    versions = _python(["-c", _VERSIONS, *peer.packages], env).split()
    return {
        "program": f"{peer.name} {peer.label}".strip(),
        **figures,
        "settings": {
            **peer.settings,
            "workers": peer.workers,
            **_told(load, peer.senders, peer.open_max),
        },
        "durability": f"{_DURABILITY}; {peer.broker}",
        "versions": dict(zip(peer.packages, versions, strict=True)),
    }


def _run_veltrix(ground: Ground, place: str, folder: Path, load: Load) -> dict[str, Any]:
    database_url = ground.postgres.url_of(place)
    upgrade(database_url)
    with Platform(
        folder,
        workflows="bench.flows",
        children=2,
        postgres=ground.postgres,
        rabbitmq=ground.rabbitmq,
        database=place,
        vhost=place,
        queue_type=load.queue,
    ) as platform:
        port = next(one.port for one in platform.processes.values() if one.kind == "api")
        posted = _post(port, load, _SENDERS, _OPEN_MAX)
        _drain(port)
        figures = tally(database_url, TALLY_VELTRIX, TIMES_VELTRIX, posted)
        engine = make_engine(database_url, application="bench")
        books = balance(engine)
        engine.dispose()
    if books.unaccounted or books.runs.open:
        raise Unsettled(f"{books.unaccounted} unaccounted, {books.runs.open} open")
    packages = ("celery", "sqlalchemy", "psycopg")
    return {
        "program": VELTRIX,
        **figures,
        "settings": {"children": 2, "queue": load.queue, **_told(load, _SENDERS, _OPEN_MAX)},
        "durability": f"{_DURABILITY}; {QUEUES[load.queue]}",
        "versions": {name: version(name) for name in packages},
    }


def tally(database_url: str, counts: str, times: str, posted: Posted) -> dict[str, Any]:
    """Counts and rate, from the database alone; `Unsettled` as in `judge`.

    Of events on schedule also p50 and p99, in milliseconds, from their turn to their settlement.
    """
    engine = make_engine(database_url, application="bench")
    with transaction(engine) as tx:
        found = tx.execute(text(counts)).one()
        settled = tx.execute(text(times)).all() if posted.due else []
    engine.dispose()
    judged = judge(posted.accepted, Tally(*found))
    took = [at - posted.due[number] for number, at in settled if number in posted.due]
    return judged | {name: ms for name, ms in percentiles(took).items() if name in {"p50", "p99"}}


def _environment(ground: Ground, place: str, peer: Peer) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PEER_DATABASE_URL": ground.postgres.url_of(place),
        "PEER_BROKER_URL": ground.rabbitmq.url(place),
        **peer.environment(),
    }


def _python(arguments: Sequence[str], env: Mapping[str, str]) -> str:
    command = [str(PYTHON), *arguments]
    ended = subprocess.run(
        command, env=dict(env), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise Unsettled(f"{' '.join(arguments)} failed:\n{ended.stderr}")
    return ended.stdout


def _wait_front(front: Child, port: int) -> None:
    def answers() -> bool:
        try:
            return open_runs(_url(port)) >= 0
        except (OSError, ValueError, KeyError):
            return False

    if not wait_for(answers, deadline_s=_READY_S, alive=lambda: front.is_running):
        raise Unsettled("the front does not answer")


def _told(load: Load, senders: int, open_max: int) -> dict[str, float]:
    if load.rate:
        return {"events per second": load.rate}
    return {"batch": load.batch, "senders": senders, "open_max": open_max}


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _post(port: int, load: Load, senders: int, open_max: int) -> Posted:
    arguments = [_url(port), *map(str, (load.seconds, load.batch, senders, open_max, load.rate))]
    command = [sys.executable, "-m", "bench.peers.flooding", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Unsettled(f"the load ended with:\n{ended.stderr}")
    said = json.loads(ended.stdout)
    return Posted(said["accepted"], dict(said["due"]))


def _drain(port: int) -> None:
    # Whatever is missing after that, the tally says.
    wait_for(lambda: open_runs(_url(port)) == 0, deadline_s=_DRAIN_S)
