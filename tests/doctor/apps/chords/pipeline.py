"""Reports by chords, whose members are tried again."""

from typing import Any

from celery import Celery, chain, chord

app = Celery("reports", broker="amqp://localhost//", backend="redis://localhost/1")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=600,
    broker_transport_options={"confirm_publish": True},
)


@app.task(autoretry_for=(OSError,), retry_backoff=True)
def fetch(shop: str) -> int:
    """What a shop sold."""
    return len(shop)


@app.task
def total(counts: list[int]) -> int:
    """The sum."""
    return sum(counts)


@app.task
def publish(count: int) -> str:
    """Put it on a page."""
    return str(count)


@app.task
def report(shops: list[str]) -> Any:
    """All of it, and wait for the end."""
    sent = chord([fetch.s(one) for one in shops])(total.s())
    page = chain(total.s([1]), publish.s()).apply_async()
    return sent, page.get()
