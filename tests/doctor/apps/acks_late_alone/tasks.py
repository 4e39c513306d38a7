"""The usual advice: acks_late, and a prefetch of one."""

from celery import Celery

app = Celery("mailer", broker="amqp://localhost//")
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1


@app.task
def send(to: str) -> str:
    """Send a mail."""
    return f"sent to {to}"
