"""What `veltrix prove` ends with: a verdict, and everything it rests on."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from veltrix.prove.check.checker import Property
from veltrix.prove.faults.injections import Blow
from veltrix.prove.report.samples import ProofSample


class Verdict(StrEnum):
    """`inconclusive`: nothing speaks against it, but something was not tried or not checked."""

    HELD = "held"
    BROKEN = "broken"
    INCONCLUSIVE = "inconclusive"


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds of one kind of waiting, of so many events."""

    what: str
    events: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Struck(msgspec.Struct, frozen=True):
    """A fault as the report shows it; times in seconds since the first event."""

    name: str
    at_s: float
    healed_s: float
    open: int
    in_hand: int
    recovery_s: float | None
    target_s: float
    victims: list[str]
    detail: str
    not_tried: str


class Proof(msgspec.Struct):
    """The result. Its JSON line has exactly the fields that `line` names."""

    verdict: Verdict
    scenario: str
    seed: int
    command: str
    source: str
    started_at: float
    seconds: float
    sent: int
    accepted: int
    refused: int
    unknown: int
    duplicates: int
    settled: int
    open: int | None  # as the next four: None when it could not be checked
    lost: int | None
    invented: int | None
    duplicate_effects: int | None
    unaccounted: int | None
    repeated_steps: int
    replayed: int
    faults: list[Struck]
    properties: list[Property]
    latencies: list[Latency]
    samples: list[ProofSample]
    notes: list[str]

    @property
    def is_held(self) -> bool:
        """Everything was tried, checked and found as promised."""
        return self.verdict is Verdict.HELD

    def counts(self) -> list[tuple[str, int | None]]:
        """The numbers, by name; None of what was not checked."""
        names = ["sent", "accepted", "duplicates", "refused", "unknown", "settled", "open"]
        names += [
            "lost",
            "invented",
            "duplicate_effects",
            "unaccounted",
            "repeated_steps",
            "replayed",
        ]
        return [(name, getattr(self, name)) for name in names]

    def line(self) -> str:
        """One line of JSON for scripts."""
        return msgspec.json.encode(
            {
                "verdict": self.verdict,
                "lost": self.lost,
                "invented": self.invented,
                "duplicate_effects": self.duplicate_effects,
                "unaccounted": self.unaccounted,
                "open": self.open,
                "accepted": self.accepted,
                "settled": self.settled,
                "faults": [_brief(fault) for fault in self.faults],
                "seconds": round(self.seconds, 1),
                "seed": self.seed,
                "properties": {found.name: state_of(found) for found in self.properties},
            }
        ).decode()


def _brief(fault: Struck) -> dict[str, object]:
    return {
        "name": fault.name,
        "open": fault.open,
        "in_hand": fault.in_hand,
        "recovery_s": None if fault.recovery_s is None else round(fault.recovery_s, 3),
        "target_s": fault.target_s,
        "tried": is_tried(fault),
    }


def state_of(found: Property) -> str:
    """Held, broken or not checked."""
    if found.not_checked:
        return "not checked"
    return "held" if found.is_held else "broken"


def shown(count: int | None) -> str:
    """A number of the report."""
    return "not checked" if count is None else f"{count:,}"


def is_tried(fault: Struck) -> bool:
    """It struck a system at work."""
    return not fault.not_tried and fault.open > 0 and fault.in_hand > 0


def struck(blow: Blow, started_at: float) -> Struck:
    """A blow for the report."""
    why = blow.not_tried
    if not why and not blow.is_tried:
        why = "it struck an idle system"
    return Struck(
        blow.name,
        blow.at - started_at if blow.at else 0.0,
        blow.healed_at - started_at if blow.healed_at else 0.0,
        blow.open,
        blow.in_hand,
        blow.recovery_s,
        blow.target_s,
        blow.victims,
        blow.detail,
        why,
    )


def verdict_of(properties: Sequence[Property], faults: Sequence[Struck], losses: int) -> Verdict:
    """Broken by anything found; held only if everything was tried and checked."""
    if losses or any(found.broken for found in properties):
        return Verdict.BROKEN
    is_whole = all(found.is_held for found in properties) and all(map(is_tried, faults))
    return Verdict.HELD if is_whole else Verdict.INCONCLUSIVE


def print_proof(proof: Proof, console: Console) -> None:
    """The verdict and its tables, for a person."""
    counts = _table(f"{proof.scenario}, seed {proof.seed}", "", ">")
    for name, value in proof.counts():
        counts.add_row(name.replace("_", " "), shown(value))
    console.print(counts, "")
    if proof.faults:
        console.print(_faults_table(proof.faults), "")
    latencies = _table("latency", ">events", ">p50 ms", ">p99 ms", ">max ms")
    for one in proof.latencies:
        figures = (f"{x:,.1f}" for x in (one.p50_ms, one.p99_ms, one.max_ms))
        latencies.add_row(one.what, f"{one.events:,}", *figures)
    console.print(latencies, "")
    properties = _table("property", "", "")
    for found in proof.properties:
        against = found.not_checked or "\n".join(
            [f"{found.promise} Against it, {found.broken:,} times:", *found.samples]
            if found.broken
            else []
        )
        properties.add_row(found.name.replace("_", " "), state_of(found), escape(against))
    console.print(properties, "")
    for note in proof.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(f"verdict: {proof.verdict}", style="bold", highlight=False)
    console.print(f"again:   {proof.command}", markup=False, highlight=False, soft_wrap=True)


def _faults_table(faults: Sequence[Struck]) -> Table:
    table = _table("fault", ">at s", ">open", ">in hand", ">recovered s", ">at most", "")
    for one in faults:
        recovery = "-" if one.recovery_s is None else f"{one.recovery_s:.2f}"
        said = one.not_tried or ", ".join(filter(None, [*one.victims, one.detail]))
        table.add_row(
            one.name.replace("_", " "),
            f"{one.at_s:.1f}",
            f"{one.open:,}",
            f"{one.in_hand:,}",
            recovery,
            f"{one.target_s:g}",
            escape(said),
        )
    return table


def _table(*headings: str) -> Table:
    """Columns of text, or (`>`) of numbers, as wide as they are; only the last one may wrap."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for number, heading in enumerate(headings, 1):
        is_number = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=number < len(headings),
        )
    return table
