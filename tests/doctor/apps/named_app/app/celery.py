"""The application, under a name of its own."""

from celery import Celery

queue = Celery("app", broker="amqp://localhost//")
queue.conf["task_acks_late"] = True
queue.conf["task_ack_on_failure"] = False


@queue.task(acks_late=False)
def count(text: str) -> int:
    """Letters."""
    return len(text)
