"""What a run says, if every event is accounted for, and what many say together."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from bench.peers.roster import VELTRIX


class Unsettled(Exception):
    """A run that lost, repeated or falsified an event: its rate means nothing."""


class Tally(NamedTuple):
    """What a database says after a run; times are Unix seconds."""

    accepted: int
    settled: int
    right: int
    first: float | None
    last: float | None


def judge(answered: int, found: Tally) -> dict[str, Any]:
    """Counts and rate. `Unsettled` unless all that was answered 202 is there, settled and right.

    More may be there than was answered, and counts: the load generator does not wait for the
    answers to its last batches.
    """
    is_whole = answered <= found.accepted == found.settled == found.right
    if not is_whole or found.first is None or found.last is None:
        raise Unsettled(
            f"{answered} answered 202; {found.accepted} accepted, {found.settled} settled,"
            f" {found.right} right"
        )
    seconds = found.last - found.first
    return {
        "rate": round(found.settled / seconds, 1),
        "accepted": found.accepted,
        "settled": found.settled,
        "seconds": round(seconds, 2),
        "payload": "CloudEvents of about 200 bytes",
    }


def latencies(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each program the medians of its runs' p50 and p99, the quickest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if "p50" in run:
            found.setdefault(run["program"], []).append(run)
    rows = [
        {
            "program": program,
            "runs": len(of),
            **{name: median(float(run[name]) for run in of) for name in ("p50", "p99")},
        }
        for program, of in found.items()
    ]
    return sorted(rows, key=lambda row: float(row["p50"]))


def latency_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The latencies as Markdown, as they stand in docs/reference/peers.md."""
    lines = ["| program | runs | p50, ms | p99, ms |", "|---|---|---|---|"]
    lines += [
        f"| {row['program']} | {row['runs']} | {row['p50']:,.1f} | {row['p99']:,.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def summarise(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each program its runs, median, least and greatest rate, fastest first.

    `veltrix_is` is how many times the median Veltrix has of it; absent without runs of Veltrix.
    """
    rates: dict[str, list[float]] = {}
    for run in (one for one in runs if "p50" not in one):
        rates.setdefault(run["program"], []).append(float(run["rate"]))
    ours = median(rates[VELTRIX]) if VELTRIX in rates else None
    rows = [
        {
            "program": program,
            "runs": len(found),
            "median": median(found),
            "least": min(found),
            "greatest": max(found),
            **({} if ours is None else {"veltrix_is": round(ours / median(found), 2)}),
        }
        for program, found in rates.items()
    ]
    return sorted(rows, key=lambda row: -float(row["median"]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as Markdown, as it stands in docs/reference/peers.md."""
    lines = [
        "| program | runs | events/s, median | least to greatest | Veltrix is |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row['veltrix_is']:g} x" if "veltrix_is" in row else ""
        lines.append(
            f"| {row['program']} | {row['runs']} | {row['median']:,.0f} |"
            f" {row['least']:,.0f} to {row['greatest']:,.0f} | {times} |"
        )
    return "\n".join(lines)
