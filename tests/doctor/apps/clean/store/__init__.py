"""A shop of which nothing is lost, as far as Celery can do it."""
