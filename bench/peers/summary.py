"""What many runs say together: medians and ratios."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from bench.peers.roster import VELTRIX


def summarise(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each program its runs, median, least and greatest rate, fastest first.

    `veltrix_is` is how many times the median Veltrix has of it; absent without runs of Veltrix.
    """
    rates: dict[str, list[float]] = {}
    for run in runs:
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
    """The summary as Markdown, as it stands in docs/peers.md."""
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
