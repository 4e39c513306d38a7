"""A page in one HTML file: a picture of what happened when, and tables.

It asks no other host for anything, follows the reader's light or dark, and fits a phone: places
along the time axis are per cents, so that lines stretch and letters keep their size.
"""

from collections.abc import Iterable, Sequence
from html import escape

import msgspec

Point = tuple[float, float]  # seconds since the beginning, and the value then

_LABELS_TOP, _LABEL_PX = 14, 16
_TITLE_PX, _GAP_PX, _AXIS_PX = 20, 18, 20
_PLOT = 1_000  # units of a curve's own coordinates, both ways
_TURN = 0.6  # right of this share of the width a label stands left of its mark
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --paper: #fff; --rule: #d8dde3;
  --open: #b45309; --accepted: #2563eb; --settled: #15803d; --fault: #dc262622; --edge: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --paper: #14181d;
  --rule: #333b45; --open: #fbbf24; --accepted: #60a5fa; --settled: #4ade80; --fault: #f8717133;
  --edge: #f87171; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 1040px; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.lead { font-size: 1.1rem; max-width: 46em; } .soft { color: var(--soft); max-width: 46em; }
.held { color: var(--settled); } .broken { color: var(--edge); }
.inconclusive { color: var(--open); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; } td:first-child { white-space: nowrap; }
.number { text-align: right; }
code { background: var(--rule); padding: .1rem .4rem; border-radius: 4px; overflow-wrap: anywhere; }
svg { display: block; width: 100%; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--rule); } svg .band { fill: var(--fault); }
svg .edge { stroke: var(--edge); } svg .edge.healed { stroke: var(--settled); }
.open { --own: var(--open); } .accepted { --own: var(--accepted); }
.settled { --own: var(--settled); }
svg .curve { fill: none; stroke: var(--own); stroke-width: 1.75; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
svg .area { fill: var(--own); fill-opacity: .12; }
svg .name { fill: var(--own); font-weight: 600; }
@media (max-width: 40rem) { svg .long { display: none; } }
"""


class Curve(msgspec.Struct, frozen=True):
    """One line of a panel. `colour` is `accepted`, `settled` or `open`."""

    name: str
    colour: str
    points: Sequence[Point]


class Panel(msgspec.Struct, frozen=True):
    """Curves over one scale, which begins at 0."""

    curves: Sequence[Curve]
    height_px: int = 120

    @property
    def most(self) -> float:
        """The highest value of its curves."""
        return max((value for curve in self.curves for _, value in curve.points), default=0.0)


class Mark(msgspec.Struct, frozen=True):
    """Something that happened, or began, at a moment. `more` is told where there is room."""

    at_s: float
    label: str
    more: str = ""
    until_s: float | None = None
    is_good: bool = False


def page(title: str, parts: Iterable[str]) -> str:
    """The document with these parts, which are HTML already."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Text in rows; the columns in `numbers` are set to the right. What is too wide scrolls."""
    right = set(numbers)

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in right else ''}>{escape(v)}</{tag}>"
            for i, v in enumerate(values)
        )

    head = f"<tr>{cells('th', heads)}</tr>" if any(heads) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='scroll'><table>{head}{body}</table></div>"


def picture(
    panels: Sequence[Panel], marks: Sequence[Mark], *, seconds: float, label: str, rows: int = 3
) -> str:
    """The panels below each other over one axis of time, with every mark through all of them.

    `label` is for who cannot see it; labels of marks take turns on so many `rows`.
    """
    seconds = max(1.0, seconds)
    top = _LABELS_TOP + _LABEL_PX * min(rows, len(marks))
    bottom = top + sum(_TITLE_PX + panel.height_px + _GAP_PX for panel in panels)
    parts = [
        _mark(one, seconds, _LABELS_TOP + _LABEL_PX * (number % rows), bottom - _GAP_PX)
        for number, one in enumerate(marks)
    ]
    for panel in panels:
        parts.append(_panel(panel, seconds, top))
        top += _TITLE_PX + panel.height_px + _GAP_PX
    parts += [
        f"<text x='{_per_cent(share)}' y='{bottom}' text-anchor='{_anchor(share)}'>"
        f"{seconds * share:,.0f} s</text>"
        for share in _TICKS
    ]
    inside = "".join(parts)
    return (
        f"<svg height='{bottom + _AXIS_PX}' role='img' aria-label='{escape(label)}'>{inside}</svg>"
    )


def rates(points: Sequence[Point], over_s: float) -> list[Point]:
    """Of a number that grows: how much a second, over the last `over_s` or what was seen of it."""
    found: list[Point] = []
    first = 0
    for at, value in points:
        while at - points[first][0] > over_s and points[first + 1][0] < at:
            first += 1
        before_at, before = points[first]
        if at > before_at:
            found.append((at, max(0.0, (value - before) / (at - before_at))))
    return found


def _panel(panel: Panel, seconds: float, top: int) -> str:
    most = panel.most or 1.0
    names = "".join(
        f"<tspan class='name {curve.colour}' dx='{12 * (number > 0)}'>{escape(curve.name)}</tspan>"
        for number, curve in enumerate(panel.curves)
    )
    plot = top + _TITLE_PX
    floor = plot + panel.height_px
    lines = "".join(_lines(curve, seconds, most) for curve in panel.curves)
    return (
        f"<text x='0' y='{plot - 6}'>{names}</text>"
        f"<text x='100%' y='{plot - 6}' text-anchor='end'>at most {most:,.0f}</text>"
        f"<line class='axis' x1='0' x2='100%' y1='{plot}' y2='{plot}'/>"
        f"<line class='axis' x1='0' x2='100%' y1='{floor}' y2='{floor}'/>"
        f"<svg x='0' y='{plot}' width='100%' height='{panel.height_px}' overflow='visible'"
        f" viewBox='0 0 {_PLOT} {_PLOT}' preserveAspectRatio='none'>{lines}</svg>"
    )


def _lines(curve: Curve, seconds: float, most: float) -> str:
    """A curve and the area below it."""
    if not curve.points:
        return ""
    places = [
        (round(_PLOT * _share(at, seconds), 1), round(_PLOT * (1 - value / most), 1))
        for at, value in curve.points
    ]
    line = "L".join(f"{x:g} {y:g}" for x, y in places)
    return (
        f"<path class='area {curve.colour}'"
        f" d='M{places[0][0]:g} {_PLOT}L{line}L{places[-1][0]:g} {_PLOT}Z'/>"
        f"<path class='curve {curve.colour}' d='M{line}'/>"
    )


def _mark(mark: Mark, seconds: float, y: int, bottom: int) -> str:
    begin = _share(mark.at_s, seconds)
    at, band = _per_cent(begin), ""
    if mark.until_s is not None:
        width = _per_cent(max(0.001, _share(mark.until_s, seconds) - begin))
        band = f"<rect class='band' x='{at}' y='{y}' width='{width}' height='{bottom - y}'/>"
    more = f"<tspan class='long'> {escape(mark.more)}</tspan>" if mark.more else ""
    is_turned = begin > _TURN
    return (
        f"<g><title>{escape(f'{mark.label} {mark.more}'.strip())}</title>{band}"
        f"<line class='edge{' healed' if mark.is_good else ''}' x1='{at}' x2='{at}'"
        f" y1='{y - 10}' y2='{bottom}'/>"
        f"<text x='{at}' dx='{-4 if is_turned else 4}' y='{y}'"
        f" text-anchor='{'end' if is_turned else 'start'}'>{escape(mark.label)}{more}</text></g>"
    )


def _share(at_s: float, seconds: float) -> float:
    return min(max(at_s, 0.0), seconds) / seconds


def _per_cent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _anchor(share: float) -> str:
    """Within the picture's edges."""
    return "start" if share == 0 else "end" if share == 1 else "middle"
