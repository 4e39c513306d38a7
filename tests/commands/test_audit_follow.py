"""`veltrix audit --follow` as a process: every entry once, whenever it is committed."""

import json
import signal
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix, as_process
from tests.support.served import served
from tests.support.wait import until
from veltrix.access.audit import Audited, append
from veltrix.store.transactions import transaction


def entry(reason: str) -> Audited:
    return Audited(author="ann", action="run.cancel", reason=reason, target="run")


@pytest.fixture(params=["database", "http"])
def where(request: pytest.FixtureRequest, engine: Engine, database_url: str) -> Iterator[str]:
    """What is asked: the database itself, or an api before it."""
    if request.param == "database":
        yield database_url
        return
    with served(engine, database_url) as api:
        yield api.url


def test_every_entry_is_followed_once_and_in_the_order_of_the_commits(
    veltrix: Veltrix, engine: Engine, where: str
) -> None:
    assert veltrix("keys", "create", "before", "--scope", "runs:read").code == 0
    told: SimpleQueue[dict[str, object]] = SimpleQueue()

    def read(lines: IO[str]) -> None:
        for line in lines:
            told.put(json.loads(line))

    def first() -> dict[str, object] | None:
        with transaction(engine) as tx:
            append(tx, [entry("does it follow yet?")])
        try:
            return told.get(timeout=0.3)
        except Empty:
            return None

    with as_process(where, "audit", "--follow", "--json") as following:
        assert following.stdout is not None
        reader = Thread(target=read, args=(following.stdout,))
        reader.start()
        until(first, 30, "it to follow")
        with transaction(engine) as late:
            append(late, [entry("committed late")])
            waiting = Thread(
                target=veltrix, args=("keys", "create", "after", "--scope", "runs:read")
            )
            waiting.start()  # entries are numbered without gaps, so this one waits for that commit
        waiting.join(30)
        reasons = [told.get(timeout=30)]
        while reasons[-1]["action"] != "key.create":
            reasons.append(told.get(timeout=30))
        following.send_signal(signal.SIGINT)
        code = following.wait(30)
        reader.join(30)
        assert following.stderr is not None
        assert following.stderr.read() == ""

    assert code == 0
    assert reasons[-2]["reason"] == "committed late"
    assert told.empty()
    ids = [int(str(one["id"])) for one in reasons]
    assert ids == sorted(set(ids))
    last = reasons[-1]
    assert {"author", "action", "target_id", "at", "request", "runs", "is_refused"} <= set(last)
