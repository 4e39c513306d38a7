"""What Celery says of a connection that is lost while its loop is cleaned up."""

import logging

from amqp import RecoverableConnectionError

_LOOPS = "celery.worker.loops"


class OfLostConnection(logging.Filter):
    """Its traceback says what the line does, and what the next line says again: it was lost.

    kombu leaves a read to be done, the loop's clean-up does it, and the connection is still lost.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """The record without its traceback, as the warning that it is."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError | RecoverableConnectionError):
            record.exc_info, record.exc_text = None, None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def foresee() -> None:
    """For a worker's process, once."""
    logging.getLogger(_LOOPS).addFilter(OfLostConnection())
