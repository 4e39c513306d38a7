"""Its tasks: retries, delays, transactions and engines, as they should be."""

from itertools import chain
from typing import Any

import amqp.exceptions
from celery.signals import worker_process_init
from kombu.exceptions import EncodeError, OperationalError
from sqlalchemy import create_engine

from .application import app

engine = create_engine("postgresql+psycopg://localhost/store", pool_pre_ping=True)
READY = "SELECT id FROM outbox WHERE state = 'ready' ORDER BY id FOR UPDATE SKIP LOCKED"


@worker_process_init.connect
def forked(**_: Any) -> None:
    """Leave the connections to the parent."""
    engine.dispose(close=False)


@app.task(bind=True)
def charge(self: Any, order: str) -> str:
    """Take the money."""
    try:
        return f"paid {order}"
    except OSError as error:
        raise self.retry(exc=error, countdown=60) from error


@app.task(autoretry_for=(OSError,))
def report() -> str:
    """Count what was sold."""
    return "0"


def place(order: str, session: Any) -> bool:
    """Called by the web."""
    with session.begin():
        session.add(order)
    try:
        charge.apply_async((order,), countdown=5)
    except (OperationalError, amqp.exceptions.AMQPError, OSError, EncodeError):
        return False
    return True


def cancel(identity: str) -> None:
    """Do not run it."""
    app.control.revoke(identity)


def state(found: dict[str, Any]) -> bool:
    """What looks as Celery's and is not: get, delay, chain, apply_async, PENDING."""
    found["signal"].delay(3)
    found["token"].revoke()
    found["all"] = list(chain([1], [2]))
    with found["pool"] as pool:
        pool.apply_async(state, ({},))
    return found.get("state") == "PENDING" or found["order"].status == "PENDING"
