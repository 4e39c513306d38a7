"""What a list of events costs PostgreSQL and RabbitMQ, counted and not timed.

The stages of an event's path in this process, on lists of a fixed length: accept, publish, claim,
execute, settle.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from sqlalchemy import Engine, text

from tests.support.accepting import accepting, submission
from tests.support.hands import TestHands
from tests.support.wait import until
from veltrix.authoring.workflows import Workflow
from veltrix.broker.message import limits_of, messages_for
from veltrix.broker.publisher import Publisher
from veltrix.domain.due import DueRun
from veltrix.pipeline.handed_key import read_key
from veltrix.pipeline.relay.connections import make_declarer, make_publisher
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit

_MEASURED_S = 1e-5  # of a run, so that a list may have its whole length
_DATABASE = """
select sum(calls), sum(wal_bytes), pg_snapshot_xmax(pg_current_snapshot())::text::bigint
from pg_stat_statements s join pg_database d on d.oid = s.dbid
where d.datname = current_database()
"""


class Counts(msgspec.Struct, frozen=True):
    """Per 1,000 events: statements are round trips; commits those that wrote."""

    statements: float
    commits: float
    wal_bytes: float
    messages: float
    message_bytes: float


def count(
    settings: Settings, engine: Engine, workflow: Workflow, type_: str, size: int, lists: int
) -> Counts:
    """Of `lists` lists of `size` events of this type, each on its whole path to the outcome."""
    offered: list[DueRun] = []
    hands = TestHands(engine, [workflow])
    key = hands.link.call(read_key)
    with (
        accepting(settings, take_credit=lambda _queue, runs: runs, hint=offered.extend) as acceptor,
        _publishing(settings, workflow.queue) as publisher,
    ):
        sent_bytes = messages = 0

        def one_list(name: str) -> None:
            nonlocal messages, sent_bytes
            offered.clear()
            acceptor.accept([submission(f"{name}-{n}", type_=type_) for n in range(size)])
            until(lambda: len(offered) == size, what="the hints")
            sent = messages_for(
                offered, "count@tests", limits_of(settings), {workflow.name: _MEASURED_S}, key
            )
            assert publisher.publish(sent) == len(sent)
            until(lambda: _has_all_confirmed(publisher), what="the confirms")
            messages += len(sent)
            sent_bytes += sum(len(m.body) + len(m.properties) for m in sent)
            for message in sent:
                outcomes = hands.execute(hands.receive(message))
                assert set(outcomes.values()) == {"succeeded"}

        one_list("warm")
        messages = sent_bytes = 0
        before = _database(engine)
        for number in range(lists):
            one_list(str(number))
        after = _database(engine)
    hands.close()
    per_1000 = 1_000 / (size * lists)
    statements, wal, commits = (b - a for a, b in zip(before, after, strict=True))
    return Counts(
        statements=round((statements - 1) * per_1000, 1),  # one is ours
        commits=round(commits * per_1000, 1),
        wal_bytes=round(wal * per_1000),
        messages=round(messages * per_1000, 1),
        message_bytes=round(sent_bytes * per_1000),
    )


def _has_all_confirmed(publisher: Publisher) -> bool:
    publisher.poll(0.01)
    return publisher.unconfirmed == 0


def _database(engine: Engine) -> tuple[int, int, int]:
    with open_autocommit(engine) as connection:
        connection.execute(text("create extension if not exists pg_stat_statements"))
        statements, wal, xid = connection.execute(text(_DATABASE)).one()
    return int(statements), int(wal), int(xid)


@contextmanager
def _publishing(settings: Settings, queue: str) -> Iterator[Publisher]:
    declarer = make_declarer(settings, "count topology")
    declarer.ensure([queue])
    declarer.close()
    publisher = make_publisher(settings, "count publisher")
    publisher.connect()
    try:
        yield publisher
    finally:
        publisher.close()
