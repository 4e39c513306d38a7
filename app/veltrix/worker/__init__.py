"""The worker: Celery hosts `pipeline.execute`. What parent and children share is here."""
