"""Rules about a Celery application and its code, whoever it is of."""
