"""What happens to an order."""

from typing import Any

from kombu.exceptions import OperationalError

from .celery import app


@app.task(bind=True, max_retries=3)
def charge(self: Any, order: str) -> str:
    """Take the money."""
    try:
        return f"paid {order}"
    except OSError as error:
        raise self.retry(exc=error) from error


@app.task
def ship(order: str) -> str:
    """Send it."""
    return f"sent {order}"


@app.task(expires=3600)
def remind(order: str) -> str:
    """Tell the customer."""
    return f"told {order}"


def place(order: str) -> bool:
    """Called by the web."""
    try:
        charge.delay(order)
        remind.apply_async((order,), countdown=300)
    except OperationalError:
        return False
    return True
