"""Long work on Redis, which hands out again what is not done within an hour."""

from celery import Celery

app = Celery("video", broker="redis://:canary-3f9c@localhost/0")
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 1


@app.task(time_limit=7200)
def encode(film: str) -> str:
    """Takes hours."""
    return f"encoded {film}"


@app.task(time_limit=60)
def clean(film: str) -> str:
    """Takes away what is left, tomorrow."""
    return f"cleaned {film}"


def encode_and_clean(film: str) -> None:
    """Called by the web."""
    encode.delay(film)
    clean.apply_async((film,), countdown=86400)
