"""Runs that were begun as claimed: no line of the witness says so, but their steps' first lines do.

They are told here as if they had been claimed when their first step began, so that every property
asks of them what it asks of a claim.
"""

from collections.abc import Iterator, Mapping, Sequence

from veltrix.prove.check.evidence import Begin
from veltrix.prove.deployment.witness import CLOCKS_S, Move

HANDED = "handed over"  # in the place of a transaction: this move was in none


def with_hand_overs(
    moves: Sequence[Move], begins_of: Mapping[str, Sequence[Begin]]
) -> Iterator[Move]:
    """The moves, with a claim before the first one of each run that had been begun by then.

    Where the child that began it says so before it ends it, that is no second claim: the row is
    made `running` under the token that it had.
    """
    names = {one.worker_id.rpartition("/")[2]: one.worker_id for one in moves if one.worker_id}
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
        worker = move.worker_id if is_own else names.get(str(pid), f"handed/{pid}")
        application = move.application if is_own else f"veltrix worker {pid}"
        yield move._replace(
            new_state="running", worker_id=worker, application=application, xid=HANDED, at=at
        )
        if not (is_own and _is_announced(move)):
            yield move._replace(old_state="running")


def _is_announced(move: Move) -> bool:
    """Its row says from now on who runs it; a claim gives it another token."""
    return move.new_state == "running" and move.has_same_token


def _began(move: Move, begins: Sequence[Begin]) -> tuple[int, float] | None:
    """Which process began it before this move, and when; a run may end without any step."""
    is_claim = move.new_state == "running" and not move.has_same_token
    # What a child begins in the next moment is begun under its claim.
    last = {move.writer: move.at - CLOCKS_S} if is_claim else {}
    before = [one for one in begins if one.at <= last.get(one.pid, move.at + CLOCKS_S)]
    if before:
        first = min(before, key=lambda one: one.at)
        return first.pid, min(first.at, move.at)
    is_own = move.worker_id.endswith(f"/{move.writer}")
    return (move.writer, move.at) if is_own and move.new_state != "running" else None
