"""An error that was foreseen is no traceback; any other is."""

import logging

import pytest
from amqp import RecoverableConnectionError

from veltrix.worker.parent.lost_connections import OfLostConnection


def said(error: Exception) -> tuple[str, object]:
    """Level and traceback of what Celery's loop logs of this error while it cleans up."""
    text, known = "Error cleaning up after event loop: %r", (type(error), error, None)
    record = logging.LogRecord("loops", logging.ERROR, __file__, 1, text, (error,), known)
    assert OfLostConnection().filter(record)
    return record.levelname, record.exc_info


@pytest.mark.parametrize("error", [OSError("closed"), RecoverableConnectionError("gone")])
def test_a_connection_lost_once_more_is_a_line(error: Exception) -> None:
    assert said(error) == ("WARNING", None)


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    level, trace = said(KeyError("x"))

    assert level == "ERROR"
    assert trace is not None
