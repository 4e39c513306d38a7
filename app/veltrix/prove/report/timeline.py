"""The page: one HTML file with everything in it, and a picture of what happened when."""

from collections.abc import Sequence
from html import escape
from typing import Any

from veltrix.dev.picture import Curve, Mark, Panel, Point, page, picture, rates, table
from veltrix.prove.report.report import Proof, Struck, is_tried, shown, state_of

_PANELS = (
    ("open runs", "open", 130),
    ("accepted per second", "accepted", 110),
    ("settled per second", "settled", 110),
)
_RATE_S = 1.0  # over which rates are taken


def page_of(proof: Proof) -> str:
    """The page, complete: it asks no other host for anything."""
    title = f"veltrix prove: {proof.scenario} {proof.verdict}"
    parts = [
        f"<h1>{escape(proof.scenario)}: <span class='{proof.verdict}'>{proof.verdict}</span></h1>",
        f"<p>Seed {proof.seed}, {proof.seconds:,.0f} s.</p>",
        f"<p>Again: <code>{escape(proof.command)}</code></p>",
        "<h2>What happened when</h2>",
        _picture(proof),
        "<h2>Counts</h2>",
        table(["", ""], ([n.replace("_", " "), shown(v)] for n, v in proof.counts()), {1}),
        "<h2>Faults</h2>",
        _faults(proof.faults),
        "<h2>Properties</h2>",
        table(
            ["property", "", "promise", "against it"],
            (
                [p.name.replace("_", " "), state_of(p), p.promise, p.not_checked or _against(p)]
                for p in proof.properties
            ),
        ),
        "<h2>Latency</h2>",
        table(
            ["", "events", "p50 ms", "p99 ms", "max ms"],
            (
                [x.what, f"{x.events:,}", *(f"{v:,.1f}" for v in (x.p50_ms, x.p99_ms, x.max_ms))]
                for x in proof.latencies
            ),
            {1, 2, 3, 4},
        ),
        *(f"<p>{escape(note)}</p>" for note in proof.notes),
    ]
    return page(title, parts)


def _against(found: Any) -> str:
    return f"{found.broken:,} times: {'; '.join(found.samples)}" if found.broken else ""


def _faults(faults: Sequence[Struck]) -> str:
    if not faults:
        return "<p>None: this deployment is not ours to break.</p>"
    rows = (
        [
            str(number),
            one.name.replace("_", " "),
            f"{one.at_s:.1f}",
            f"{one.open:,}",
            f"{one.in_hand:,}",
            "-" if one.recovery_s is None else f"{one.recovery_s:.2f}",
            f"{one.target_s:g}",
            one.not_tried or ", ".join([*one.victims, one.detail] if one.detail else one.victims),
        ]
        for number, one in enumerate(faults, 1)
    )
    heads = ["", "fault", "at s", "open", "in hand", "recovered after s", "at most", ""]
    return table(heads, rows, {2, 3, 4, 5, 6})


def _picture(proof: Proof) -> str:
    """Three curves over one axis of time, with every fault as a band from strike to recovery."""
    panels = [
        Panel([Curve(title, name, _points(proof, name))], height) for title, name, height in _PANELS
    ]
    marks = [_mark(number, one) for number, one in enumerate(proof.faults, 1) if one.at_s]
    lasted = max([proof.seconds, *(s.at - proof.started_at for s in proof.samples)])
    label = "Open runs, accepted and settled events per second over time, with the faults marked"
    return picture(panels, marks, seconds=lasted, label=label)


def _mark(number: int, one: Struck) -> Mark:
    name = one.name.replace("_", " ") + ("" if is_tried(one) else " (not tried)")
    return Mark(one.at_s, str(number), name, until_s=one.healed_s + (one.recovery_s or 0.0))


def _points(proof: Proof, name: str) -> list[Point]:
    """Seconds since the first event, and the number open or the rate of the other two."""
    seen = [
        (s.at - proof.started_at, float(value))
        for s in proof.samples
        if (value := getattr(s, name)) is not None
    ]
    return seen if name == "open" else rates(seen, _RATE_S)
