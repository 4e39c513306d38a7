"""Its pages. They publish while the transaction is open, but for the last."""

from typing import Any

from .tasks import confirm


def place(transaction: Any, orders: Any) -> int:
    """Store and confirm an order."""
    with transaction.atomic():
        order = orders.create()
        confirm.delay(order.id)
    return int(order.id)


def change(transaction: Any, orders: Any) -> int:
    """Store and confirm an order, in that order."""
    with transaction.atomic():
        order = orders.create()
        transaction.on_commit(lambda: confirm.delay(order.id))
    return int(order.id)
