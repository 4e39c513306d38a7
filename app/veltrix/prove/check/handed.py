"""Runs that were begun as claimed: no line of the witness says so, but their steps' first lines do.

They are told here as if they had been claimed when their first step began, so that every property
asks of them what it asks of a claim.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from veltrix.prove.check.evidence import Begin
from veltrix.prove.deployment.witness import CLOCKS_S, Move

HANDED = "handed over"  # in the place of a transaction: this move was in none


def with_hand_overs(
    moves: Iterable[Move], begins_of: Mapping[str, Sequence[Begin]]
) -> Iterator[Move]:
    """The moves, with a claim before the first one of each run that had been begun by then."""
    seen: set[str] = set()
    for move in moves:
        is_first = move.what == "move" and move.run_id not in seen
        if is_first:
            seen.add(move.run_id)
        if not (is_first and move.was_leased and move.old_state == "queued"):
            yield move
            continue
        began = _began(move, begins_of.get(move.run_id, ()))
        if began is None:
            yield move
            continue
        pid, at = began
        is_own = move.writer == pid
        worker = move.worker_id if is_own else f"handed/{pid}"
        application = move.application if is_own else f"veltrix worker {pid}"
        yield move._replace(
            new_state="running", worker_id=worker, application=application, xid=HANDED, at=at
        )
        yield move._replace(old_state="running")


def _began(move: Move, begins: Sequence[Begin]) -> tuple[int, float] | None:
    """Which process began it before this move, and when; a run may end without any step."""
    before = [one for one in begins if one.at <= move.at + CLOCKS_S]
    if before:
        first = min(before, key=lambda one: one.at)
        return first.pid, min(first.at, move.at)
    is_own = move.worker_id.endswith(f"/{move.writer}")
    return (move.writer, move.at) if is_own and move.new_state != "running" else None
