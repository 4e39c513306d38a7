"""Settings partly from the environment, which is not there."""

import os

from celery import Celery

app = Celery("billing", broker=os.environ["BILLING_BROKER_URL_CANARY"])
app.conf.update(
    task_acks_late=True,
    task_always_eager=True,
    task_time_limit=int(os.environ["BILLING_LIMIT_S"]),
    worker_prefetch_multiplier=0,
)
