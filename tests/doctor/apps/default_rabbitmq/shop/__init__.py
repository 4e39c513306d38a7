"""A shop with Celery as the first page of its documentation shows it."""
