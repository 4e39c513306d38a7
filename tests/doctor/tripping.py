"""Applications that are wrong in as many ways as fit into each."""

from typing import Any

QUEUES = {
    "application.py": """
from celery import Celery
from kombu import Exchange, Queue

direct, topic = Exchange("direct", type="direct"), Exchange("topic", type="topic")
quorum = {"x-queue-type": "quorum"}
dead = {"x-dead-letter-exchange": "dead"}
app = Celery("application", broker="amqp://localhost//")
app.conf.update(
    task_queues=[
        Queue("bare", direct, routing_key="bare",
              queue_arguments={**quorum, "x-delivery-limit": 5}),
        Queue("eu", topic, routing_key="eu.orders", queue_arguments=quorum),
        Queue("orders", topic, routing_key="orders", queue_arguments=quorum),
        Queue("most", topic, routing_key="most", queue_arguments={**quorum, **dead}),
        Queue("vain", topic, routing_key="vain", queue_arguments={
            **quorum, **dead, "x-dead-letter-strategy": "at-least-once"}),
        Queue("again", direct, message_ttl=5, queue_arguments=dead),
        Queue("short", direct, message_ttl=5),
        Queue("gone", direct, expires=60),
        Queue("full", direct, max_length=10),
        Queue("lost", direct, durable=False),
        Queue("first", direct, max_priority=5),
        Queue("celery", direct),
    ],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_timeout=False,
    task_acks_on_failure=False,
    task_retry_on_worker_lost=True,
    task_time_limit=3600,
    task_default_delivery_mode=1,
    task_compression="zstd",
    task_serializer="pickle",
    task_routes={"*": {"mandatory": True}},
    enable_utc=False,
    control_queue_exclusive=False,
    worker_pool="solo",
    worker_prefetch_multiplier=0,
    worker_soft_shutdown_timeout=10,
    broker_heartbeat=0,
)


@app.task(expires=60, rate_limit="5/m", mandatory=True, delivery_mode=1, compression="brotli")
def work():
    pass


def ask():
    work.apply_async(countdown=5)
""",
    "compose.yml": """
services:
  worker:
    command: ["celery", "-A", "application", "worker", "--autoscale=10,2", "-Q", "eu,orders"]
""",
}

DELAYS = {
    "application.py": """
from celery import Celery
from kombu import Exchange, Queue

app = Celery("application", broker="amqp://localhost//")
app.conf.update(
    task_queues=[Queue("celery", Exchange("topic", type="topic"), routing_key="celery",
                       queue_arguments={"x-queue-type": "quorum"})],
    broker_transport_options={"confirm_publish": True},
    task_routes={"*": {"confirm_timeout": 1, "expires": 5}},
    worker_state_db=None,
)


@app.task(bind=True)
def work(self):
    try:
        self.retry(countdown=0.5)
    except Exception:
        pass


def ask():
    work.apply_async(countdown=300000000)
    work.apply_async(expires=10)
    app.control.revoke("one")
""",
    "start.sh": """
celery -A application worker -B --purge -P gevent && celery -A application beat
celery -A application beat
celery -A application flower --port=5555
celery -A application inspect ping -d worker@host
celery -A application purge -f
""",
}

CODE = {
    "application.py": """
from celery import Celery, chain, chord
from sqlalchemy import create_engine

app = Celery("application", broker="amqp://localhost//", backend="db+sqlite:///results.db")
app.conf.task_acks_late = True
app.conf.task_always_eager = True
engine = create_engine("sqlite://")


@app.task
def one():
    from time import sleep
    sleep(1)
    result = two.delay()
    return result.get(disable_sync_subtasks=False)


@app.task
def two():
    chord([one.s()])(two.s())
    (one.s() | two.s()).delay()


def poll(connection, last, result, session):
    connection.execute("SELECT * FROM outbox WHERE id > %s ORDER BY id", last)
    if result.state == "PENDING":
        with session.begin():
            one.delay()
    declare(arguments={"x-message-ttl": 5000, "x-dead-letter-exchange": "work"})


def declare(arguments):
    try:
        one.apply_async(eta=1)
    except one.OperationalError:
        pass
""",
    "script.py": """
from application import one
one.delay()
""",
}

TRIPPING: dict[str, dict[str, str]] = {"queues": QUEUES, "delays": DELAYS, "code": CODE}

# What this machine cannot have: versions as another one tells them.
OLD: dict[str, Any] = {"celery": "5.5.3", "kombu": "5.5.4", "amqp": "5.3.1"}
