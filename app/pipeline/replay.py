"""Replay: an operator's decision to run failed runs again, in their next generation."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from sqlalchemy import Engine

from app.domain.states import Reason
from app.store.actions import FailedRun, Recorded, failed_runs, recorded, sorted_ids, states_of
from app.store.actions import replay as replay_rows
from app.store.transactions import open_autocommit, retry_transient
from app.telemetry import logger

Mode = Literal["failed_step", "beginning"]

log = logger("replay")


class Replayed(msgspec.Struct, frozen=True):
    """The run is queued again, as this generation, with `steps_kept` entries of its journal."""

    run_id: str
    generation: int
    steps_kept: int


class NotReplayed(msgspec.Struct, frozen=True):
    """The run is not failed, but in this state; None: there is no such run."""

    run_id: str
    state: str | None


def replay(
    engine: Engine, run_ids: Iterable[str], mode: Mode, reason: str, author: str
) -> list[Replayed | NotReplayed]:
    """Every failed run of the list runs again from now; each run's answer, by id.

    `failed_step` keeps the journal up to the step that failed, so that finished steps give their
    recorded output; `beginning` keeps nothing. The journal so far stays as evidence under its
    generation either way. Up to 1,000 runs; ValueError beyond.
    """
    ids, strange = sorted_ids(run_ids)
    with open_autocommit(engine) as tx:
        failed = failed_runs(tx, ids)
        journals = recorded(tx, failed) if mode == "failed_step" else {}
        dropped = {
            run.run_id: repeated(journals[run.run_id], run)
            for run in failed
            if run.run_id in journals
        }
        moved = retry_transient(
            lambda: replay_rows(
                tx,
                failed,
                dropped if mode == "failed_step" else None,
                action=f"replay.{mode}",
                reason=reason,
                author=author,
            )
        )
        states = states_of(tx, ids) if len(moved) < len(ids) else {}
    for run in moved:
        log.info(
            "run.replayed",
            run_id=run.run_id,
            event_id=run.event_id,
            workflow=run.workflow,
            generation=run.generation,
            mode=mode,
            author=author,
        )
    answers = {run.run_id: Replayed(run.run_id, run.generation, run.steps_kept) for run in moved}
    return [answers.get(id_) or NotReplayed(id_, states.get(id_)) for id_ in sorted(ids + strange)]


def repeated(journal: Sequence[Recorded], run: FailedRun) -> list[str]:
    """The positions that a replay from the failed step runs again: that step and what follows it.

    The failed step is the last error of that name; for a workflow that raised an error of its own,
    the last error it saw. An error before it in the same branch was dealt with and stays recorded;
    one in a branch beside it is run again as well, or the run would fail of it at once.
    """
    errors = [entry for entry in journal if entry.is_error]
    if run.failed_step is not None:
        errors = [entry for entry in errors if entry.name == run.failed_step]
    elif run.reason != Reason.ERROR:
        errors = []  # a time-out of the run, a poison run: no step is to blame
    if not errors:
        return []
    last = _path(errors[-1].position)
    cuts = [last] + [
        _path(entry.position)
        for entry in journal
        if entry.is_error and not _is_before(_path(entry.position), last)
    ]
    return [
        entry.position
        for entry in journal
        if any(_is_undone(_path(entry.position), cut) for cut in cuts)
    ]


def _path(position: str) -> tuple[int, ...]:
    return tuple(int(part) for part in position.split("."))


def _fork(a: tuple[int, ...], b: tuple[int, ...]) -> int | None:
    """The index at which two paths part; None: one leads to the other. Odd: two branches there."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


def _is_before(path: tuple[int, ...], cut: tuple[int, ...]) -> bool:
    fork = _fork(path, cut)
    return fork is not None and fork % 2 == 0 and path[fork] < cut[fork]


def _is_undone(path: tuple[int, ...], cut: tuple[int, ...]) -> bool:
    """Whether `path` is the step at `cut`, contains it, or came after it."""
    fork = _fork(path, cut)
    return fork is None or (fork % 2 == 0 and path[fork] > cut[fork])
