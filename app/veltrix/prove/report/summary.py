"""From the case to the report: counts, latencies in and outside faults, the verdict."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from veltrix.prove.check.checker import Property
from veltrix.prove.check.history import Case
from veltrix.prove.load.workload import Acknowledged
from veltrix.prove.report.report import Latency, Proof, Struck, struck, verdict_of
from veltrix.prove.report.samples import ProofSample

_WORTH_TELLING_S = 1.0


def summarise(
    plan: Any,
    case: Case,
    properties: list[Property],
    *,
    acknowledged: Sequence[Acknowledged],
    samples: list[ProofSample],
    unaccounted: int | None,
    notes: list[str],
    started_at: float,
    seconds: float,
) -> Proof:
    """The result of a run of `plan` (a `scenario.Plan`)."""
    by_name = {found.name: found for found in properties}
    strikes = [struck(blow, started_at) for blow in case.blows]

    def against(*names: str) -> int | None:
        founds = [by_name[name] for name in names]
        is_seen = not any(found.not_checked for found in founds)
        return sum(found.broken for found in founds) if is_seen else None

    return Proof(
        verdict=verdict_of(properties, strikes, unaccounted or 0),
        scenario=plan.scenario,
        seed=plan.seed,
        command=plan.command,
        source=plan.source,
        started_at=started_at,
        seconds=seconds,
        sent=case.receipts + case.refusals + case.doubts,
        accepted=len(case.evidence.events),
        refused=case.refusals,
        unknown=case.doubts,
        duplicates=case.receipts - len(case.accepted),
        settled=sum(not run.is_open for run in case.evidence.runs),
        open=against("nothing_left_open"),
        lost=against("accepted_is_stored", "events_start_their_runs"),
        invented=against("nothing_invented"),
        duplicate_effects=against("transactional_effects_once"),
        unaccounted=unaccounted,
        repeated_steps=_repeated(case),
        replayed=len(case.replayed),
        faults=strikes,
        properties=properties,
        latencies=_latencies(case, acknowledged, strikes, started_at),
        samples=samples,
        notes=[*notes, *_slowest(case)],
    )


def _slowest(case: Case) -> Iterator[str]:
    """The story of the run that kept a fault from being over sooner; seconds since the strike."""
    for blow in case.blows:
        if not blow.slowest or (blow.recovery_s is not None and blow.recovery_s < _WORTH_TELLING_S):
            continue
        run = case.run.get(blow.slowest)
        told = [
            f"{move.at - blow.at:+.2f} {move.new_state or f'journalled {move.old_state}'}"
            f" ({move.application})"
            for move in case.moves_of.get(blow.slowest, ())
        ]
        name = "unknown" if run is None else run.workflow
        yield f"{blow.name}: the last was run {blow.slowest} of {name}: {'; '.join(told)}"


def _repeated(case: Case) -> int:
    """Steps that began again without having failed: what at-least-once means under faults."""
    again = 0
    for begins in case.begins_of.values():
        again += len(begins) - len({(begin.position, begin.attempt) for begin in begins})
    return again


def _latencies(
    case: Case, acknowledged: Sequence[Acknowledged], strikes: Sequence[Struck], started_at: float
) -> list[Latency]:
    windows = [
        (started_at + one.at_s, started_at + one.healed_s + (one.recovery_s or 0.0))
        for one in strikes
        if one.at_s
    ]
    acks = [(one.due_at, one.took_s, one.events) for one in acknowledged if one.events]
    settled: dict[str, float] = {}
    for run in case.evidence.runs:
        if run.workflow == "prove_fast" and run.settled_at is not None:
            settled[run.event_id] = run.settled_at
    outcomes = [
        (event.accepted_at, settled[event.event_id] - event.accepted_at, 1)
        for event in case.evidence.events
        if event.event_id in settled
    ]
    found: list[Latency] = []
    for what, values in (("until the 202", acks), ("from the 202 to the outcome", outcomes)):
        inside = [v for v in values if any(a <= v[0] <= b for a, b in windows)]
        outside = [v for v in values if not any(a <= v[0] <= b for a, b in windows)]
        found += _latency(f"{what}, outside faults", outside)
        found += _latency(f"{what}, during faults", inside)
    return found


def _latency(what: str, values: Iterable[tuple[float, float, int]]) -> list[Latency]:
    """Of events: those of one request waited equally long."""
    took = sorted(seconds * 1_000 for _, seconds, events in values for _ in range(events))
    if not took:
        return []
    p50, p99 = (took[min(len(took) - 1, int(len(took) * share))] for share in (0.5, 0.99))
    return [Latency(what, len(took), round(p50, 2), round(p99, 2), round(took[-1], 2))]
