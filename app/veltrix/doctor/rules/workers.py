"""Workers, waiting runs and the books."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from veltrix.doctor.facts.workers import LiveWorkers
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.settings.agreed import AGREED
from veltrix.settings.fields import PREFIX

rules = Rules("workers and books")

UNFOLDED_S_MAX = 300.0  # a minute is as fine as its age is known
CRASHES_MAX = 3
RELEASES_SETTLED = timedelta(minutes=15)
# One death of a worker may take back hundreds of runs, in a minute or two: that is no rate.
RESCUED_MINUTES_MAX, RESCUED_SHARE_MAX = 3, 0.001
_OPERATING = "docs/how-to/operating.md"


@rules.rule(
    "O12",
    Severity.LOSS,
    LiveWorkers,
    title="the books do not balance",
    why="An event was accepted that is neither routed nor unrouted, or a run is in no state:"
    " something was lost, or counted twice.",
    safe="veltrix balance  # unaccounted 0",
    source="docs/reference/guarantees.md",
)
def unaccounted(facts: LiveWorkers) -> Iterator[Evidence]:
    if facts.unaccounted:
        yield Evidence(
            found=f"{facts.unaccounted:,} events and runs are unaccounted for",
            origin="counters and rows in one snapshot",
            cure="veltrix balance --by 20  # names the sources; then tell us",
        )


@rules.rule(
    "O09",
    Severity.STALL,
    LiveWorkers,
    title="a queue has open runs and no worker serves it",
    why="They wait until a worker with that queue comes.",
    safe="VELTRIX_WORKER_QUEUES empty on some worker that has the workflow",
    source=_OPERATING,
)
def unserved_queues(facts: LiveWorkers) -> Iterator[Evidence]:
    for one in facts.unserved:
        yield Evidence(
            found=f"queue {one.queue!r} has {one.told}",
            origin=f"the oldest began {one.oldest_started_at:%Y-%m-%d %H:%M:%S}",
            cure=f"VELTRIX_WORKER_QUEUES={one.queue} veltrix worker",
        )


@rules.rule(
    "O13",
    Severity.STALL,
    LiveWorkers,
    title="runs are due and nobody hands them over",
    why="A relay hands a due run over at once, unless its queue is full: none runs, or workers do"
    " not keep up.",
    safe="two relays; veltrix_relay_lag_seconds below a second",
    source=_OPERATING,
)
def late_runs(facts: LiveWorkers) -> Iterator[Evidence]:
    for one in facts.late:
        yield Evidence(
            found=f"{one.runs:,} runs of queue {one.queue!r} are due, for up to {one.oldest_s:,.0f}"
            " s",
            origin="runs.due_at",
            cure="veltrix relay  # and, if one runs, more workers for that queue",
        )


@rules.rule(
    "O14",
    Severity.BLIND,
    LiveWorkers,
    title="nobody books what happened",
    why="Relays book counts every second: while none does, figures are old and no due run is"
    " handed over.",
    safe="veltrix relay",
    source=_OPERATING,
)
def not_booked(facts: LiveWorkers) -> Iterator[Evidence]:
    if facts.unfolded and facts.unfolded_s > UNFOLDED_S_MAX:
        yield Evidence(
            found=f"{facts.unfolded:,} counts are not booked, the oldest of {facts.unfolded_s:,.0f}"
            " s ago",
            origin="table counter_deltas",
            cure="veltrix relay",
        )


@rules.rule(
    "O11",
    Severity.BLIND,
    LiveWorkers,
    title="a worker is silent",
    why="It said no goodbye and reports nothing: it died, is frozen, or cannot reach the database;"
    " what it had in hand waits for its leases to end.",
    safe="veltrix worker under a supervisor that looks at /livez",
    source=_OPERATING,
)
def silent(facts: LiveWorkers) -> Iterator[Evidence]:
    for worker in facts.workers:
        if not worker.is_present:
            yield Evidence(
                found=f"worker {worker.name!r} was last heard of at"
                f" {worker.seen_at:%Y-%m-%d %H:%M:%S}",
                origin="table workers",
                cure="look at its log and /livez; start it again",
            )


@rules.rule(
    "O15",
    Severity.BLIND,
    LiveWorkers,
    title="workers have different code",
    why="Side by side they are a deploy, which should be over: until then the later release routes,"
    " and runs of what only one side has wait for it.",
    safe="one VELTRIX_RELEASE on all workers",
    source="docs/how-to/rollback.md",
)
def different_code(facts: LiveWorkers) -> Iterator[Evidence]:
    versions: dict[str, dict[str, list[str]]] = {}
    for worker in facts.workers:
        if not worker.is_present:
            continue
        for workflow, codes in worker.code_versions.items():
            for code in codes:
                versions.setdefault(workflow, {}).setdefault(code, []).append(worker.name)
    is_settled = _is_settled(facts)
    for workflow, found in sorted(versions.items()):
        if len(found) > 1 and is_settled:
            told = ", ".join(f"{code} on {', '.join(who)}" for code, who in sorted(found.items()))
            yield Evidence(
                found=f"workflow {workflow!r} is {told}",
                origin="what workers report",
                cure="bring the same release to all workers, or end the old ones",
            )


@rules.rule(
    "O19",
    Severity.BLIND,
    LiveWorkers,
    title="workers have different settings",
    why="What becomes of a run depends on who claims it, and nobody sees why the same step ends"
    " well here and badly there.",
    safe="one environment for all workers",
    source="docs/settings.md",
)
def different_settings(facts: LiveWorkers) -> Iterator[Evidence]:
    if not _is_settled(facts):
        return
    for name, otherwise in AGREED.items():
        found: dict[Any, set[str]] = {}
        for settings, who in facts.settings:
            if name in settings:
                found.setdefault(settings[name], set()).update(who)
        if len(found) > 1:
            most = max(found, key=lambda value: (len(found[value]), value))
            told = ", ".join(
                f"{value:g} on {', '.join(sorted(found[value]))}" for value in sorted(found)
            )
            yield Evidence(
                found=f"{PREFIX}{name.upper()} is {told}: {otherwise}",
                origin="what workers report",
                cure=f"{PREFIX}{name.upper()}={most:g}  # on all workers, or another value on all",
            )


@rules.rule(
    "O20",
    Severity.DUPLICATE,
    LiveWorkers,
    title="runs are taken back from workers again and again",
    why="A step that was in hand runs again, also where its worker only stood still and goes on"
    " with it.",
    safe="veltrix_runs_rescued_total that grows after a crash only",
    source=_OPERATING,
)
def often_rescued(facts: LiveWorkers) -> Iterator[Evidence]:
    is_steady = facts.rescued_minutes > RESCUED_MINUTES_MAX
    if is_steady and facts.rescued > facts.started * RESCUED_SHARE_MAX:
        beside = f" beside {facts.started:,} that began" if facts.started else ""
        yield Evidence(
            found=f"{facts.rescued:,} runs were taken back in the last hour{beside}, in"
            f" {facts.rescued_minutes} different minutes",
            origin="table failed_attempts, type WorkerVanished",
            cure="veltrix failures list  # then look for workers that are killed, swapped or"
            " stopped, or that PostgreSQL does not answer",
        )


@rules.rule(
    "W02",
    Severity.SLOW,
    LiveWorkers,
    title="processes of workers die at work",
    why="A run that kills its process is tried again, alone, and fails as poison in the end; every"
    " death delays the runs beside it.",
    safe="veltrix failures list  # none of kind poison",
    source="docs/how-to/failures.md",
)
def crashes(facts: LiveWorkers) -> Iterator[Evidence]:
    if facts.crashes > CRASHES_MAX:
        yield Evidence(
            found=f"{facts.crashes:,} of {facts.attempts:,} attempts that failed in the last hour"
            " ended with their process",
            origin="table failed_attempts",
            cure="veltrix failures list  # then VELTRIX_CHILD_MEMORY_MAX, if memory ran out",
        )


@rules.rule(
    "O10",
    Severity.BLIND,
    LiveWorkers,
    title="dead letters are there that nobody has looked at",
    why="Each is a message that no code of ours understood: of a foreign producer, or altered.",
    safe="veltrix events dead-letters  # none unseen",
    source="docs/how-to/failures.md",
)
def unseen_letters(facts: LiveWorkers) -> Iterator[Evidence]:
    if facts.unseen:
        yield Evidence(
            found=f"{facts.unseen:,} dead letters are unseen",
            origin="table dead_letters",
            cure="veltrix events dead-letters  # and `veltrix events seen` for those",
        )


def _is_settled(facts: LiveWorkers) -> bool:
    """No worker is so new that a deploy may be under way."""
    return all(
        facts.as_of - worker.started_at > RELEASES_SETTLED
        for worker in facts.workers
        if worker.is_present
    )
