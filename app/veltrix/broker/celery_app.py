"""The Celery app and every setting of it, each because of a way this stack loses or stalls work."""

from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from veltrix.broker.connect import address_of, broker_url, tls_of
from veltrix.broker.names import CONNECTION_PREFIX, RUNS
from veltrix.domain.events import CANARY_WORKFLOW
from veltrix.settings.fields import Settings


class _OnlyByRelay(RuntimeError):
    """A workflow's task was called as a Celery task."""


def make_celery(
    settings: Settings, workflows: Iterable[str], queues: list[str], *, name: str = "a command"
) -> Celery:
    """The app of a worker or of Flower: each workflow, and the canary, is a task of that name.

    `name` is what RabbitMQ knows its connections by.
    """
    celery = Celery("veltrix", set_as_current=False, autofinalize=False)
    celery.conf.update(_settings(settings, queues, name))
    for workflow in {*workflows, CANARY_WORKFLOW}:
        celery.task(name=workflow, acks_late=True)(_never)
    celery.finalize()
    return celery


def _never(*_: Any) -> None:
    raise _OnlyByRelay(
        "workflows are started by events or POST /v1/workflows/{name}/runs, never as Celery tasks"
    )


def _settings(settings: Settings, queues: list[str], name: str) -> dict[str, Any]:
    url = broker_url(settings)
    # The topology declares them: a user without the right to may use what is there.
    exchange = Exchange(RUNS, type="topic", durable=True, no_declare=True)
    lines = max(1, len(queues))
    return {
        "broker_url": address_of(url),
        "broker_use_ssl": tls_of(url),
        "broker_heartbeat": settings.broker_heartbeat_s,
        # The broker may be away for any time; a channel error is not the end (W16, W37).
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_pool_acquire_timeout": 5.0,
        "broker_transport_options": _transport(name),
        # Late acknowledgement; what failed is a row, so its message is done (W01, W02, W05, W06).
        "task_acks_late": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": True,
        # An open run always has a due_at: nothing is cancelled or requeued with its connection
        # (mechanics 18, against W14), and prefetch stays what it is (W17).
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        "worker_prefetch_multiplier": max(2, settings.list_runs_max // lines),
        # JSON only, no result backend: outcomes are rows (W10, W12, W13).
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # Queues are the topology's: a typo never makes one (P21); their type is said (B14).
        "task_create_missing_queues": False,
        "task_default_exchange": RUNS,
        "task_default_exchange_type": "topic",
        "task_default_queue": queues[0] if queues else "default",
        "task_default_routing_key": queues[0] if queues else "default",
        "task_queues": [
            Queue(
                name,
                exchange,
                routing_key=name,
                durable=True,
                # Whatever they are: so Celery asks for no global prefetch, which 4.x gives up.
                queue_arguments={"x-queue-type": "quorum"},
                no_declare=True,
            )
            for name in queues
        ],
        "worker_detect_quorum_queues": True,
        # Limits of steps are ours (mechanics 7); Celery's time limits stay off.
        "task_time_limit": None,
        "task_soft_time_limit": None,
        "worker_soft_shutdown_timeout": 0.0,
        "worker_consumer": "veltrix.worker.parent.consumer:ListConsumer",
        "worker_pool": "prefork",
        "worker_concurrency": settings.worker_children,
        "worker_proc_alive_timeout": 30.0,
        # Any limit has billiard ask after each job: veltrix.worker.child.recycling answers.
        "worker_max_memory_per_child": (settings.child_memory_max or settings.child_runs_max) and 1,
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
        "timezone": "UTC",
    }


def _transport(name: str) -> dict[str, Any]:
    """RabbitMQ and `veltrix doctor` know its connections by their name.

    Those that only ask and answer what Flower shows have no heartbeat: kombu would not send it.
    """
    return {
        "confirm_publish": True,
        "client_properties": {"connection_name": f"{CONNECTION_PREFIX}{name}"},
    }
