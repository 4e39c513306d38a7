"""Its tasks."""

from time import sleep

from .celery import app


@app.task(expires=60)
def bill(customer: int) -> str:
    """Wait for the bank."""
    sleep(5)
    return f"billed {customer}"


@app.task
def bill_all(customers: list[int]) -> list[str]:
    """One after the other."""
    return [bill.delay(one).get() for one in customers]
