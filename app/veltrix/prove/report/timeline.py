"""The page: one HTML file with everything in it, and a picture of what happened when."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from veltrix.prove.report.report import Proof, Struck, is_tried, shown, state_of

_WIDTH, _LEFT, _RIGHT = 1_000, 70, 20
_PANELS = (
    ("open runs", "open", 130),
    ("accepted per second", "accepted", 110),
    ("settled per second", "settled", 110),
)
_TOP, _GAP = 56, 34
_RATE_S = 1.0  # over which rates are taken
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --paper: #fff; --rule: #d8dde3;
  --open: #b45309; --accepted: #2563eb; --settled: #15803d; --fault: #dc262622; --edge: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --paper: #14181d;
  --rule: #333b45; --open: #fbbf24; --accepted: #60a5fa; --settled: #4ade80; --fault: #f8717133;
  --edge: #f87171; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 1040px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.held { color: var(--settled); } .broken { color: var(--edge); }
.inconclusive { color: var(--open); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; } .number { text-align: right; }
code { background: var(--rule); padding: .1rem .4rem; border-radius: 4px; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--rule); } svg .band { fill: var(--fault); }
svg .edge { stroke: var(--edge); }
svg .open { stroke: var(--open); } svg .accepted { stroke: var(--accepted); }
svg .settled { stroke: var(--settled); } svg path { fill: none; stroke-width: 1.5; }
"""


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
        _table(["", ""], ([n.replace("_", " "), shown(v)] for n, v in proof.counts()), {1}),
        "<h2>Faults</h2>",
        _faults(proof.faults),
        "<h2>Properties</h2>",
        _table(
            ["property", "", "promise", "against it"],
            (
                [p.name.replace("_", " "), state_of(p), p.promise, p.not_checked or _against(p)]
                for p in proof.properties
            ),
        ),
        "<h2>Latency</h2>",
        _table(
            ["", "events", "p50 ms", "p99 ms", "max ms"],
            (
                [x.what, f"{x.events:,}", *(f"{v:,.1f}" for v in (x.p50_ms, x.p99_ms, x.max_ms))]
                for x in proof.latencies
            ),
            {1, 2, 3, 4},
        ),
        *(f"<p>{escape(note)}</p>" for note in proof.notes),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


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
    return _table(heads, rows, {2, 3, 4, 5, 6})


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in right else ''}>{escape(v)}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{cells('th', heads)}</tr>{body}</table></div>"


# The picture


def _picture(proof: Proof) -> str:
    """Three curves over one axis of time, with every fault as a band from strike to recovery."""
    lasted = max(1.0, *(s.at - proof.started_at for s in proof.samples), proof.seconds)
    bottom = _TOP + sum(height + _GAP for _, _, height in _PANELS)

    def x(seconds: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(seconds, 0.0), lasted) / lasted, 1)

    parts = [_band(number, one, x, bottom) for number, one in enumerate(proof.faults, 1)]
    top = _TOP
    for title, name, height in _PANELS:
        points = _points(proof, name)
        most = max([value for _, value in points], default=0.0) or 1.0
        line = " ".join(
            f"{'M' if i == 0 else 'L'}{x(at)} {round(top + height - height * v / most, 1)}"
            for i, (at, v) in enumerate(points)
        )
        parts += [
            f"<path class='axis' d='M{_LEFT} {top + height}H{_WIDTH - _RIGHT}'/>",
            f"<text x='{_LEFT}' y='{top - 6}'>{title}</text>",
            f"<text x='{_LEFT - 6}' y='{top + 8}' text-anchor='end'>{most:,.0f}</text>",
            f"<text x='{_LEFT - 6}' y='{top + height}' text-anchor='end'>0</text>",
        ]
        if line:
            parts.append(f"<path class='{name}' d='{line}'/>")
        top += height + _GAP
    parts += [
        f"<text x='{x(lasted * share)}' y='{bottom}' text-anchor='middle'>"
        f"{lasted * share:,.0f} s</text>"
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    label = "Open runs, accepted and settled events per second over time, with the faults marked"
    inside = "".join(parts)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {bottom + 10}' role='img' aria-label='{label}'>{inside}</svg>"
    )


def _band(number: int, one: Struck, x: Any, bottom: int) -> str:
    if not one.at_s:
        return ""
    left, right = x(one.at_s), x(max(one.healed_s, one.healed_s + (one.recovery_s or 0.0)))
    rows = 3  # their numbers, so that neighbours stay apart
    y = 12 + 12 * (number % rows)
    was_tried = "" if is_tried(one) else " (not tried)"
    return (
        f"<g><title>{number}. {escape(one.name)}{was_tried}</title>"
        f"<rect class='band' x='{left}' y='{_TOP}' width='{max(1.0, round(right - left, 1))}'"
        f" height='{bottom - _TOP - _GAP}'/>"
        f"<line class='edge' x1='{left}' x2='{left}' y1='{y + 2}' y2='{bottom - _GAP}'/>"
        f"<text x='{left + 2}' y='{y}'>{number} {escape(one.name.replace('_', ' '))}</text></g>"
    )


def _points(proof: Proof, name: str) -> list[tuple[float, float]]:
    """Seconds since the first event, and the number open or the rate of the other two."""
    seen = [
        (s.at - proof.started_at, float(value))
        for s in proof.samples
        if (value := getattr(s, name)) is not None
    ]
    if name == "open":
        return seen
    points: list[tuple[float, float]] = []
    first = 0
    for at, value in seen:
        while at - seen[first][0] > _RATE_S and seen[first + 1][0] < at:
            first += 1
        before_at, before = seen[first]
        if at > before_at:
            points.append((at, max(0.0, (value - before) / (at - before_at))))
    return points
