"""Confirms, quorum queues with dead letters, late acks, limits."""

from celery import Celery
from kombu import Exchange, Queue

DURABLE = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}

app = Celery("store", broker="amqp://store:canary-3f9c@rabbitmq//", include=["store.tasks"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_pool_acquire_timeout=5,
    broker_connection_max_retries=None,
    broker_channel_error_retry=True,
    task_annotations={"*": {"mandatory": True}},
    task_routes={"store.tasks.*": {"queue": "orders", "confirm_timeout": 30}},
    task_create_missing_queues=False,
    task_default_queue="orders",
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    task_queues=[
        Queue("orders", Exchange("store"), routing_key="orders", queue_arguments=DURABLE),
        Queue("mails", Exchange("store"), routing_key="mails", queue_arguments=DURABLE),
    ],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure=False,
    task_acks_on_timeout=True,
    task_time_limit=600,
    task_soft_time_limit=540,
    task_ignore_result=True,
    task_send_sent_event=True,
    task_compression="gzip",
    event_queue_ttl=300,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_soft_shutdown_timeout=30,
    worker_enable_soft_shutdown_on_idle=True,
    worker_send_task_events=True,
    beat_schedule={"nightly": {"task": "store.tasks.report", "schedule": 86400.0}},
)
for queue in app.conf.task_queues:
    queue.exchange.type = "topic"
