"""Its tasks."""

from celery import shared_task


@shared_task
def report() -> str:
    """Count what was sold."""
    return "0"


@shared_task
def confirm(order: int) -> str:
    """Write to the customer."""
    return f"confirmed {order}"
