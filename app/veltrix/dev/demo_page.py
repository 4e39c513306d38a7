"""The page of a demo: what it has shown, and its course as a picture."""

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from html import escape

import msgspec

from veltrix.dev.demo_result import Demonstration, Kill, in_words
from veltrix.dev.picture import Curve, Mark, Panel, Point, page, picture, rates, table

_RATE_S = 3.0  # over which rates are taken
_READING = (
    "The demo keeps the last quarter of the flights for the time after the kill, so that new events"
    " arrive while the platform recovers. A run is open from the moment its event is accepted until"
    " its outcome is committed."
)


def page_of(shown: Demonstration, *, made: str) -> str:
    """The page, complete: it asks no other host for anything. `made`: by what, when and where."""
    result = shown.result
    what, verdict, found = f"{result.accepted:,} flights", "broken", "not shown"
    if result.is_ok:
        what, verdict, found = f"{what}, a worker killed midway", "held", "nothing lost"
    parts = [
        f"<h1>{what}: <span class='{verdict}'>{found}</span></h1>",
        f"<p class='lead'>{escape(shown.sentence())}</p>",
        f"<p class='lead broken'>{escape(shown.trouble)}</p>" if shown.trouble else "",
        "<h2>What happened when</h2>",
        _picture(shown),
        f"<p class='soft'>{_READING}</p>",
        "<h2>The kill and the recovery</h2>",
        _kills(shown.kills),
        "<h2>Counts</h2>",
        table(
            ["", ""],
            (
                [name.replace("_", " "), in_words(value)]
                for name, value in msgspec.structs.asdict(result).items()
            ),
            {1},
        ),
        f"<p class='soft'>{escape(made)}</p>",
    ]
    return page("Veltrix demo", filter(None, parts))


def made_here() -> str:
    """By which command this page was made, when, and on what machine."""
    now = datetime.now().astimezone()
    return (
        f"Made by veltrix demo on {now:%Y-%m-%d at %H:%M %Z}: {os.cpu_count()} processors,"
        f" {platform.system()}, Python {platform.python_version()}; database, broker, sender and"
        " all processes on this one machine."
    )


def _picture(shown: Demonstration) -> str:
    accepted, settled, open_ = (
        [(one.at_s, float(getattr(one, name))) for one in shown.moments]
        for name in ("accepted", "settled", "open")
    )
    panels = [
        Panel([Curve("accepted", "accepted", accepted), Curve("settled", "settled", settled)], 220),
        Panel([Curve("open", "open", open_)]),
        Panel([Curve("settled per second", "settled", _rates(settled))]),
    ]
    marks = [mark for kill in shown.kills for mark in _marks(kill)]
    lasted = max([shown.result.seconds, *(one.at_s for one in shown.moments)])
    label = "Accepted, settled and open flights over time, with the kill and the recovery marked"
    return picture(panels, marks, seconds=lasted, label=label, rows=max(2, min(4, len(marks))))


def _rates(points: list[Point]) -> list[Point]:
    return rates(points, _RATE_S)


def _marks(kill: Kill) -> list[Mark]:
    healed_s = None if kill.recovery_s is None else kill.at_s + kill.recovery_s
    struck = Mark(kill.at_s, f"{kill.worker} killed", f"with {kill.caught}", until_s=healed_s)
    if healed_s is None:
        return [struck]
    more = f"{kill.recovery_s:.1f} s after the kill"
    return [struck, Mark(healed_s, f"its {kill.runs} settled", more, is_good=True)]


def _kills(kills: Sequence[Kill]) -> str:
    if not kills:
        return "<p>No worker was killed.</p>"
    rows = (
        [
            kill.worker,
            f"{kill.at_s:.1f}",
            f"{kill.in_hand:,}",
            "-" if kill.recovery_s is None else f"{kill.recovery_s:.1f}",
        ]
        for kill in kills
    )
    return table(["worker", "killed at s", "runs in its hands", "settled after s"], rows, {1, 2, 3})
