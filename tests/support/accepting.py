"""Acceptors on a test's database, and events for them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

from sqlalchemy import Engine

from veltrix.domain.due import DueRun
from veltrix.domain.ids import EventIds
from veltrix.pipeline.accept.acceptor import Acceptor
from veltrix.pipeline.accept.cloudevents import parse_structured
from veltrix.pipeline.accept.event_list import DirectStart, Submission
from veltrix.releases.subscription_rows import Subscription, register
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine, transaction

PLACED = "shop.order.placed"


def submission(
    id_: str = "1",
    data: str = "{}",
    *,
    type_: str = PLACED,
    source: str = "/shop",
    created_by: str | None = None,
    start: DirectStart | None = None,
) -> Submission:
    """An event as it would come in over HTTP."""
    body = (
        f'{{"specversion":"1.0","id":"{id_}","source":"{source}","type":"{type_}","data":{data}}}'
    )
    return Submission(parse_structured(body.encode()), created_by, start)


def subscription(workflow: str, *types: str, queue: str = "orders", **changes: Any) -> Subscription:
    """A subscription to these types, version v1 unless another is named."""
    named = {"code_version": "v1", "options": {}, "input_schema": None} | changes
    return Subscription(workflow=workflow, types=types, queue=queue, **named)


def subscribe(engine: Engine, *subscriptions: Subscription) -> None:
    """Commit subscriptions."""
    with transaction(engine) as tx:
        register(tx, subscriptions)


@contextmanager
def accepting(
    settings: Settings,
    *,
    url: str | None = None,
    take_credit: Callable[[str, int], int] = lambda _queue, _runs: 0,
    hint: Callable[[Sequence[DueRun]], None] = lambda _runs: None,
    seed: int = 0,
    unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Iterator[Acceptor]:
    """A started acceptor with an engine of its own, stopped at the end."""
    assert settings.database_url is not None
    engine = make_engine(url or settings.database_url.get_secret_value(), application="accept")
    ids = EventIds(Random(seed).getrandbits)
    acceptor = Acceptor(engine, settings, ids, unix_ms, take_credit, hint)
    acceptor.start()
    try:
        yield acceptor
    finally:
        acceptor.stop()
        engine.dispose()
