"""The application, as Celery's page for Django has it."""

from celery import Celery

app = Celery("project")
app.config_from_object("settings", namespace="CELERY")
app.autodiscover_tasks(["orders"])
