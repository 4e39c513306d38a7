"""Plain Celery and SQLAlchemy on RabbitMQ, set as its documentation says for work not to be lost.

Late acknowledgement (userguide/tasks), publisher confirms (`confirm_publish`), a quorum queue
(userguide/configuration, `task_default_queue_type`), a large prefetch for short tasks
(userguide/optimizing), an id as argument instead of the object (userguide/tasks), one producer for
many messages, and `chunks` of `PEER_CHUNK` (userguide/canvas) where that is more than one.
"""

import os
from collections.abc import Sequence

from celery import Celery

from bench.peers.front import make_front
from bench.peers.ledger import accept, count_open, run_once, setting

app = Celery("peer", broker=os.environ["PEER_BROKER_URL"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_pool_limit=setting("publishers"),
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue="peer",
    task_default_queue_type="quorum",
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=setting("prefetch"),
)
web = make_front(accept, count_open)


@app.task(name="peer.run", autoretry_for=(Exception,), retry_backoff=True, max_retries=None)
def run(event_id: str) -> None:
    """One event."""
    run_once(event_id)


def publish(event_ids: Sequence[str]) -> None:
    """Each message is confirmed before the next is sent: Celery has no other way."""
    size = setting("chunk")
    if size > 1:
        run.chunks([(event_id,) for event_id in event_ids], size).apply_async()
        return
    with app.producer_pool.acquire(block=True) as producer:
        for event_id in event_ids:
            run.apply_async((event_id,), producer=producer)
