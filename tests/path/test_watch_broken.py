"""A deployment broken on purpose, under load: the watch names each before 1,000 events are harmed.

One platform with servers of its own, 40 events a second, the watch at its default interval. Harmed
is an event that no api took, or whose run has no outcome when the fault is named.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from time import monotonic
from typing import Any

import pytest

from tests.path.seen import Scene, options
from tests.path.site import connect, post
from tests.support.processes import freeze, thaw
from tests.support.wait import until
from veltrix.broker.connect import close_connection, open_connection
from veltrix.broker.management import Management
from veltrix.dev.platform import Platform
from veltrix.prove.faults.broker import rabbitmqctl

pytestmark = pytest.mark.slow

RATE_PER_S, BATCH = 40, 4
HARMED_MAX = 1_000
NAMED_S, MENDED_S = 60.0, 90.0


class Broken:
    """The platform, its load, and what the watch says."""

    def __init__(self, seen: Scene) -> None:
        self.seen = seen
        self.management = Management(seen.platform.management_url, "/")
        self.refused = 0
        self._stop = threading.Event()
        self._load = threading.Thread(target=self._send)

    @contextmanager
    def loaded(self) -> Iterator["Broken"]:
        self._load.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._load.join()

    def ask(self, method: str, path: str, body: Any = None) -> None:
        """Of the management API, in the virtual host."""
        self.management._ask(method, f"/api/{path.replace('{vhost}', '%2F')}", body)

    def sql(self, statement: str) -> None:
        with closing(self.seen.engine.connect()) as connection:
            free = connection.execution_options(isolation_level="AUTOCOMMIT")
            free.exec_driver_sql(statement)

    def found(self) -> set[str]:
        """The ids of what is found and not accepted; nothing while no api answers."""
        rows = self.seen.ask("select finding from doctor_findings where gone_at is null")
        return {finding["id"] for (finding,) in rows if finding["accepted"] is None}

    def open_runs(self) -> int:
        (row,) = self.seen.ask(
            "select count(*) from runs where due_at is not null and account_id <> -2"
        )
        return int(row[0])

    def _send(self) -> None:
        number, due_at = 0, monotonic()
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            events = [
                {
                    "specversion": "1.0",
                    "id": f"load-{number + place}",
                    "source": "/load",
                    "type": "path.act",
                    "data": [["note"]],
                }
                for place in range(BATCH)
            ]
            number += BATCH
            try:
                if connection is None:
                    connection = connect(self.seen.platform.api_url, timeout_s=5.0)
                status, _ = post(connection, events)
                self.refused += 0 if status == 202 else BATCH
            except (OSError, http.client.HTTPException, ValueError):
                self.refused += BATCH
                if connection is not None:
                    connection.close()
                connection = None
            due_at += BATCH / RATE_PER_S
            self._stop.wait(max(0.0, due_at - monotonic()))
        if connection is not None:
            connection.close()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("broken")
    platform = Platform(folder / "platform", **options(folder / "effects", apis=1, workers=1))
    try:
        platform.open()
        platform.wait_ready()
        seen = Scene(platform, folder / "effects")
        seen.wait_registered()
        with (
            Broken(seen).loaded() as one,
            (folder / "watch.log").open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", "veltrix.cli", "doctor", "--watch"],
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    **platform.env,
                    "VELTRIX_DOCTOR_APIS": platform.api_url,
                    "VELTRIX_DOCTOR_PORT": "0",
                },
            ) as watch,
        ):
            try:
                out = "select 1 from canaries where ending = 'out'"
                until(lambda: seen.ask(out), NAMED_S, "the first canary")
                until(lambda: not one.found(), NAMED_S, "a platform without a fault")
                yield one
            finally:
                watch.kill()
        seen.engine.dispose()
    finally:
        platform.close(grace_s=0)


Deed = Callable[[Broken], None]


def policy(pattern: str, definition: dict[str, Any], kind: str = "queues") -> Deed:
    """A policy above ours."""
    rule = {"pattern": pattern, "definition": definition, "priority": 99, "apply-to": kind}
    return lambda b: b.ask("PUT", "policies/{vhost}/theirs", rule)


def without_policy(b: Broken) -> None:
    b.ask("DELETE", "policies/{vhost}/theirs")


def sql(statement: str) -> Deed:
    return lambda b: b.sql(statement)


def memory(limit: str) -> Deed:
    return lambda b: rabbitmqctl(
        b.seen.platform.rabbitmq, "set_vm_memory_high_watermark", limit  # type: ignore[arg-type]
    )  # fmt: skip


def to_process(name: str, do: Callable[[int], None]) -> Deed:
    return lambda b: do(b.seen.platform.processes[name].pid)


def without_api(b: Broken) -> None:
    b.seen.platform.kill("api-1")


def api_again(b: Broken) -> None:
    b.seen.platform.start("api-1", "api")
    b.seen.platform.wait_ready("api-1")


def worker_of_another_queue(b: Broken) -> None:
    b.seen.platform.terminate("worker-1")
    b.seen.platform.wait_ended("worker-1")
    b.seen.platform.start("worker-1", "worker", {"VELTRIX_WORKER_QUEUES": "flood"})


def worker_of_all(b: Broken) -> None:
    b.seen.platform.terminate("worker-1")
    b.seen.platform.wait_ended("worker-1")
    b.seen.platform.start("worker-1", "worker")


_hogs: list[Any] = []


def hog(b: Broken) -> None:
    """Somebody takes every message of the queue and answers for none."""
    connection = open_connection(b.seen.platform.broker_url, name="hog", heartbeat_s=0)
    channel = connection.channel()
    channel.basic_consume("path")
    _hogs.append(connection)


def no_hog(_: Broken) -> None:
    close_connection(_hogs.pop())


DATABASE = "alter database veltrix"
NETS = {"dead-letter-exchange": "veltrix.dead", "dead-letter-strategy": "at-most-once"}
CASES: dict[str, tuple[Deed, Deed, set[str]]] = {
    "drops the oldest run": (
        policy("^path$", {"max-length": 1, "overflow": "drop-head"}),
        without_policy,
        {"B01", "B05", "B06"},
    ),
    "runs that expire": (policy("^path$", {"message-ttl": 1}), without_policy, {"B07"}),
    "dead letters dropped": (
        policy("^veltrix.dead$", {"max-length": 1, "overflow": "drop-head"}),
        without_policy,
        {"B06"},
    ),
    "dead letters at most once": (policy("^path$", NETS), without_policy, {"B03"}),
    "an alternate exchange": (
        policy("^veltrix.runs$", {"alternate-exchange": "amq.fanout"}, "exchanges"),
        without_policy,
        {"P02"},
    ),
    "a memory alarm": (memory("0.00001"), memory("0.4"), {"B11"}),
    "a consumer that takes all": (hog, no_hog, {"W22"}),
    "commits that do not wait": (
        sql(f"{DATABASE} set synchronous_commit = off"),
        sql(f"{DATABASE} reset synchronous_commit"),
        {"D08"},
    ),
    "an unlogged table": (
        sql("alter table journal set unlogged"),
        sql("alter table journal set logged"),
        {"D08"},
    ),
    "sessions that only read": (
        sql(f"{DATABASE} set default_transaction_read_only = on"),
        sql(f"set default_transaction_read_only = off; {DATABASE} reset all"),
        {"D19"},
    ),
    "a role with few sessions": (
        sql("alter role current_user connection limit 12"),
        sql("alter role current_user connection limit -1"),
        {"D20"},
    ),
    "a worker that is frozen": (
        to_process("worker-1", freeze),
        to_process("worker-1", thaw),
        {"O16", "P21", "O11", "O13"},
    ),
    "a worker of another queue": (
        worker_of_another_queue,
        worker_of_all,
        {"O09"},
    ),
    "an api that is gone": (without_api, api_again, {"O17"}),
}


@pytest.mark.parametrize("fault", CASES)
def test_what_is_broken_is_named_before_a_thousand_events_are_harmed(
    broken: Broken, fault: str
) -> None:
    break_, mend, ids = CASES[fault]
    assert not broken.found() & ids
    refused, open_ = broken.refused, broken.open_runs()

    began = monotonic()
    break_(broken)
    try:
        named = until(lambda: broken.found() & ids, NAMED_S, f"{fault} to be named")
        harmed = broken.refused - refused + max(0, broken.open_runs() - open_)
        took_s = monotonic() - began
    finally:
        mend(broken)
    print(  # noqa: T201 - the figures of the run, with -s
        json.dumps(
            {"fault": fault, "named": sorted(named), "s": round(took_s, 1), "harmed": harmed}
        )
    )

    assert harmed < HARMED_MAX
    until(lambda: not broken.found(), MENDED_S, "all to be well again")
    until(lambda: broken.open_runs() < RATE_PER_S, MENDED_S, "what waited to be done")
