"""Settings of a Django project, of which Celery takes what begins with CELERY_."""

SECRET_KEY = "canary-3f9c"
DEBUG = False
INSTALLED_APPS = ["orders"]

CELERY_BROKER_URL = "amqp://guest:canary-3f9c@localhost//"
CELERY_RESULT_BACKEND = "db+postgresql://shop:canary-3f9c@localhost/shop"
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_ALWAYS_EAGER = DEBUG
CELERY_WORKER_PREFETCH_MULTIPLER = 1
CELERY_TASK_TIME_LIMIT = 300
CELERY_BEAT_SCHEDULE = {
    "nightly": {"task": "orders.tasks.report", "schedule": 86400.0},
    "hourly": {"task": "orders.tasks.clean_up", "schedule": 3600.0},
}
