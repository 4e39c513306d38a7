"""What an error of the database means: one table, one answer each, for every stage.

DATA          a value cannot be stored: the list is halved, and its one run fails with the reason
AGAIN         a race was lost, or a limit reached: the same again is right, counted and bounded
CANNOT_SERVE  this server cannot do it now (it is gone, a stand-by, full, broken): the connection is
              given up, and another is asked for, with a growing pause, as long as it takes
OUR_FAULT     everything else (a missing right, table or column): as CANNOT_SERVE, but said loudly

After every error but DATA and AGAIN the connection is given up: a server that refuses what it must
be able to do is not the one we want to talk to, and its name may lead to another one by now
(docs/decisions/0024).
"""

from enum import Enum

import psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError


class Answer(Enum):
    """What to do about an error of the database."""

    DATA = "data"
    AGAIN = "again"
    CANNOT_SERVE = "cannot serve"
    OUR_FAULT = "our fault"


# By SQLSTATE: the most letters that fit. (Names: PostgreSQL, appendix A.)
_ANSWERS = {
    "08": Answer.CANNOT_SERVE,  # connection exceptions
    "22": Answer.DATA,
    "23": Answer.DATA,
    "25006": Answer.CANNOT_SERVE,  # read-only: a stand-by, or a server that is being switched off
    "25P03": Answer.CANNOT_SERVE,  # idle in a transaction for too long: the session was ended
    "25P04": Answer.CANNOT_SERVE,  # the transaction took too long: the session was ended
    "28": Answer.CANNOT_SERVE,  # a password being changed
    "3D000": Answer.CANNOT_SERVE,  # a database being restored
    "40": Answer.AGAIN,  # serialization failures and deadlocks
    "53": Answer.CANNOT_SERVE,  # out of memory, disk or connections
    "54": Answer.DATA,  # program limits: what a value, row or key may be
    "55000": Answer.CANNOT_SERVE,  # what a server in recovery says to some statements
    "55006": Answer.AGAIN,  # in use
    "55P03": Answer.AGAIN,  # a lock was not to be had
    "57": Answer.CANNOT_SERVE,  # shutting down, starting up, crashed, ended by an operator
    "57014": Answer.AGAIN,  # statement_timeout, or cancelled
    "58": Answer.CANNOT_SERVE,  # I/O errors
    "72": Answer.AGAIN,  # snapshot too old
    "F0": Answer.CANNOT_SERVE,  # its configuration
    "XX": Answer.CANNOT_SERVE,  # corrupted pages, internal errors
}
# What is not OUR_FAULT alone, but the cure for which is known.
_CURES = {
    "42P05": "a pooler in transaction mode is between; pool by session (docs/how-to/operating.md)",
    "26000": "a pooler in transaction mode is between; pool by session (docs/how-to/operating.md)",
    "42501": "run `veltrix db grants` for our role (docs/how-to/operating.md)",
    "42P01": "run `veltrix db upgrade`, and see that search_path leads to its tables",
    "42703": "run `veltrix db upgrade`: this code is newer than the schema",
    "25006": "the server is a stand-by or read-only; the name must lead to the primary",
    "53300": "raise max_connections, or run fewer children (docs/how-to/operating.md has the sum)",
}
_LOCKED = "55P03"
_RACES = ("40", "55")


def answer_of(error: BaseException) -> Answer:
    """What to do about an error of SQLAlchemy or psycopg; for any other error: OUR_FAULT.

    A value that the driver itself refuses is DATA. A connection that ended without a SQLSTATE, or
    that could not be had, is CANNOT_SERVE.
    """
    state = sqlstate_of(error)
    if state is not None:
        return _ANSWERS.get(state) or _ANSWERS.get(state[:2]) or Answer.OUR_FAULT
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, psycopg.DataError | UnicodeError | OverflowError):
        return Answer.DATA
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Answer.CANNOT_SERVE
    lost = (psycopg.OperationalError, psycopg.InterfaceError, OperationalError, InterfaceError)
    return Answer.CANNOT_SERVE if isinstance(original, lost) else Answer.OUR_FAULT


def sqlstate_of(error: BaseException) -> str | None:
    """The five-character SQLSTATE behind an error of SQLAlchemy or psycopg, or None."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_transient(error: BaseException) -> bool:
    """The statement lost a race (40xxx, 55P03, 55006) and may be tried again at once."""
    state = sqlstate_of(error)
    return state is not None and state[:2] in _RACES and answer_of(error) is Answer.AGAIN


def is_locked(error: BaseException) -> bool:
    """Another transaction holds the lock, and was not waited for any longer (55P03)."""
    return sqlstate_of(error) == _LOCKED


def is_bad_value(error: BaseException) -> bool:
    """A value cannot be stored: halve the list."""
    return answer_of(error) is Answer.DATA


def is_away(error: BaseException) -> bool:
    """The database cannot serve now: give the connection up, hold on to the work and wait."""
    return answer_of(error) is Answer.CANNOT_SERVE


def is_lost(error: BaseException) -> bool:
    """The connection ended, and the server did not say why: it may have been the statement."""
    return is_away(error) and sqlstate_of(error) is None


def may_be_its_own(error: BaseException) -> bool:
    """The statement itself may be why: another may do better, or a part of this one."""
    return answer_of(error) in {Answer.AGAIN, Answer.OUR_FAULT} or is_lost(error)


def keeps_connection(error: BaseException) -> bool:
    """The connection may be used again after this error."""
    return answer_of(error) in {Answer.DATA, Answer.AGAIN}


def told(error: BaseException) -> str:
    """The error in one line, with its SQLSTATE and, where one is known, the cure."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = (str(original).strip() or type(original).__name__).splitlines()[0][:300]
    state = sqlstate_of(error)
    if state is None:
        return said
    cure = _CURES.get(state)
    return f"{said} ({state})" + (f": {cure}" if cure else "")
