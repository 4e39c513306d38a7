"""Dead letters become rows; the runs they name come due: they did not fail, their message did."""

from collections.abc import Sequence

from sqlalchemy import Engine

from veltrix.access.audit import Audited, append
from veltrix.broker.message import without_events
from veltrix.domain.dead_letters import DeadLetter
from veltrix.pipeline.relay.dead_letter_rows import insert, mark_seen
from veltrix.pipeline.relay.due_rows import make_runs_due
from veltrix.store.transactions import is_bad_value, retry_transient, transaction
from veltrix.telemetry import dead_letters as counted
from veltrix.telemetry import logger

log = logger("bury")


def bury(engine: Engine, letters: list[DeadLetter]) -> int:
    """The letters are rows, and the runs they name are due, when this returns; how many are new.

    One transaction. A letter that cannot be stored as it is keeps its body and loses its headers.
    Raises what the database raises; nothing was stored then, or some of it twice is stored once.
    Who reads letters need not have a right to see payloads: no event is kept with one.
    """
    for letter in letters:
        letter.body = without_events(letter.body)
    try:
        new = retry_transient(lambda: _bury(engine, letters))
    except Exception as error:
        if not is_bad_value(error):
            raise
        half = len(letters) // 2
        if half:
            return bury(engine, letters[:half]) + bury(engine, letters[half:])
        letters[0].headers, letters[0].run_ids = "{}", []
        letters[0].detail = f"headers left out: {error}"[:1_000]
        new = _bury(engine, letters)
    for letter in letters:
        counted.labels(_reason_label(letter.reason)).inc()
        log.warning(
            "message.buried", queue=letter.queue, reason=letter.reason, runs=len(letter.run_ids)
        )
    return new


def see(engine: Engine, ids: Sequence[int], author: str, reason: str) -> int:
    """Somebody looked at these letters; how many nobody had looked at before. It is audited."""

    def _see() -> int:
        with transaction(engine) as tx:
            marked = mark_seen(tx, ids, author)
            row = Audited(
                author=author,
                action="dead_letter.see",
                reason=reason,
                target="dead_letter",
                target_id=str(ids[0]) if len(ids) == 1 else None,
                request={"ids": list(ids)},
                result={"marked": marked},
                is_refused=not marked,
            )
            append(tx, [row])
            return marked

    return retry_transient(_see)


def _bury(engine: Engine, letters: list[DeadLetter]) -> int:
    with transaction(engine) as tx:
        new = insert(tx, letters)
        run_ids = {run_id for letter in letters for run_id in letter.run_ids}
        if run_ids:
            make_runs_due(tx, run_ids, is_backing_off=True)
    return new


_REASONS = {"rejected", "expired", "maxlen", "delivery_limit", "unroutable"}


def _reason_label(reason: str) -> str:
    """Bounded: anybody may write an x-death header."""
    return reason if reason in _REASONS else "other"
