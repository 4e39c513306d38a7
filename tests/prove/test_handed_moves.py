"""What the witness sees of runs that are handed over as claimed, and what that says."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, Engine

from tests.support.due_runs import change_runs, hand_over
from veltrix.broker.handed import unpack
from veltrix.broker.message import HANDED, Message
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import Settlement
from veltrix.pipeline.relay.due_rows import QueueShare, scan
from veltrix.prove.check.evidence import Begin, Books, CheckedEvidence
from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import look
from veltrix.prove.check.properties_claims import (
    attempts_are_counted,
    handed_runs_are_begun_early_and_by_one,
    holds_of,
    steps_begin_under_a_claim,
)
from veltrix.prove.deployment.witness import CLOCKS_S, Move, install, read_moves
from veltrix.store.transactions import make_engine, open_autocommit

As = Callable[[str], Connection]
FIRST, SECOND = "w@h/7", "v@h/8"


@pytest.fixture
def by(database_url: str) -> Iterator[As]:
    """`by(name)`: a connection to a database with a witness, that calls itself so."""
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        install(connection)
    with ExitStack() as stack:

        def connect(name: str) -> Connection:
            engine = make_engine(database_url, application=name)
            stack.callback(engine.dispose)
            return stack.enter_context(open_autocommit(engine))

        yield connect


def moves_of(engine: Engine) -> list[Move]:
    """All that the witness saw."""
    with engine.connect() as connection:
        return list(read_moves(connection.connection.driver_connection))  # type: ignore[arg-type]


def after_the_last(engine: Engine) -> float:
    """A moment after what the witness saw last, which two clocks may take for one before it."""
    return moves_of(engine)[-1].at + CLOCKS_S / 5


def case_of(engine: Engine, begins: list[Begin]) -> Case:
    """What these notes of steps say, beside what the witness saw."""
    moves = moves_of(engine)
    return Case([], CheckedEvidence([], [], [], begins, moves, Counter(), Counter(), Books()), [])


def now(tx: Connection) -> float:
    """The database's clock, in seconds since 1970."""
    (said,) = tx.exec_driver_sql("select extract(epoch from clock_timestamp())::float8").one()
    return float(said)


def token_of(message: Message) -> str:
    body = msgspec.json.decode(message.body, type=tuple[Any, Any, dict[str, msgspec.Raw]])
    return unpack(bytes(body[2][HANDED])).token


def take_away(engine: Engine, relay: Connection, run_id: str) -> None:
    """Its hold is over, and the due scan has it."""
    change_runs(engine, [run_id], "due_at = now() - interval '1 second'")
    found: Any = scan(
        relay,
        [QueueShare("orders", 10)],
        hold_s=8.0,
        hold_s_max=60.0,
        poison_crashes_max=3,
        rescue=["orders"],
    )
    assert [one.id for one in found.runs] == [run_id]


def succeed(tx: Connection, token: str, worker: str, run_id: str) -> None:
    """The end of the run is written by this worker child."""
    settlement = Settlement(run_id=run_id, state="succeeded")
    assert journal_rows.write(tx, token, worker, [], [], [settlement], 0.0)


def test_a_step_that_ended_with_its_worker_is_begun_again_as_the_same_attempt(
    engine: Engine, by: As
) -> None:
    """Its child said that it runs it, which is no end of what it had begun."""
    message = hand_over(engine)
    first, second = by("veltrix worker 7 w@h"), by("veltrix worker 8 v@h")
    (run_id,), token, other = message.run_ids, token_of(message), str(uuid4())
    begins = [Begin(run_id, "1", "key", 1, 7, now(first))]
    assert lease_rows.announce(first, token, FIRST, [(run_id, str(uuid4()), 0.1)], 8.0)
    take_away(engine, by("veltrix-relay"), run_id)
    assert lease_rows.claim(second, other, SECOND, [(run_id, str(uuid4()))], 8.0)
    begins.append(Begin(run_id, "1", "key", 1, 8, after_the_last(engine)))
    succeed(second, other, SECOND, run_id)

    case = case_of(engine, begins)

    assert look(attempts_are_counted, case).samples == []
    assert look(steps_begin_under_a_claim, case).samples == []
    assert [(hold.pid, hold.is_taken) for hold in holds_of(case, run_id)] == [(7, True), (8, False)]


def test_a_step_that_was_given_back_is_not_begun_again_as_the_same_attempt(
    engine: Engine, by: As
) -> None:
    """The child that let go of its run, itself, has written what it had begun of it."""
    message = hand_over(engine)
    first, second = by("veltrix worker 7 w@h"), by("veltrix worker 8 v@h")
    (run_id,), token, other = message.run_ids, token_of(message), str(uuid4())
    begins = [Begin(run_id, "1", "key", 1, 7, now(first))]
    assert lease_rows.announce(first, token, FIRST, [(run_id, str(uuid4()), 0.1)], 8.0)
    assert lease_rows.hand_back(first, token, [run_id])
    assert lease_rows.claim(second, other, SECOND, [(run_id, str(uuid4()))], 8.0)
    begins.append(Begin(run_id, "1", "key", 1, 8, after_the_last(engine)))
    succeed(second, other, SECOND, run_id)

    samples = look(attempts_are_counted, case_of(engine, begins)).samples

    assert samples == [f"attempt 1 of step 1 of run {run_id} was one of 2 claims"]


def test_a_claim_that_names_its_token_is_begun_under_that_however_late(
    engine: Engine, by: As
) -> None:
    """What is begun in the moment after a claim was not begun unasked."""
    message = hand_over(engine)
    child = by("veltrix worker 7 w@h")
    (run_id,), token, told = message.run_ids, str(uuid4()), token_of(message)
    assert lease_rows.claim(child, token, FIRST, [(run_id, str(uuid4()))], 8.0, [told])
    begins = [Begin(run_id, "1", "key", 1, 7, after_the_last(engine))]
    succeed(child, token, FIRST, run_id)

    case = case_of(engine, begins)
    case.accepted_at[run_id] = begins[0].at - 6.0

    assert case.handed == {}
    assert look(handed_runs_are_begun_early_and_by_one, case).samples == []
    assert look(steps_begin_under_a_claim, case).samples == []
