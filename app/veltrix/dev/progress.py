"""How far a run of events is: a live table in a terminal, a line now and then elsewhere."""

import os
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LINE_S = 5.0
_RATE_S = 5.0
_BAR_CHARS_MAX = 40
_NOT_SET = {"", "0", "false"}


class DemoProgress:
    """Shows accepted, settled and open, at which rates, and what else happened.

    In a terminal as a table that is drawn again in place; where nobody watches (no terminal, CI) or
    the terminal is to be left plain (NO_COLOR, a dumb one), as lines.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._console = total, console
        self._is_live = _can_draw(console)
        self._began: float | None = None
        self._line_at = 0.0
        self._seen: list[tuple[float, int, int]] = []
        self._open = 0
        self._notes: dict[str, str] = {}
        self._live: Live | None = None

    def say(self, line: str) -> None:
        """A line of its own, above the table."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def note(self, name: str, text: str) -> None:
        """What happened, under a name: a row that stays in the table, or a line."""
        if not self._is_live:
            self.say(f"{name}: {text}")
        self._notes = {**self._notes, name: text}  # not changed in place: a thread draws it

    def show(self, accepted: int, settled: int, open_: int) -> None:
        """Where things are now."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        recent = [one for one in self._seen if now - one[0] <= _RATE_S] or self._seen[-1:]
        self._seen, self._open = [*recent, (now, accepted, settled)], open_
        if self._is_live:
            self._draw()
        elif now >= self._line_at or settled >= self._total:
            self._line_at = now + _LINE_S
            rates = [f"({rate:,.0f}/s)" for rate in self._rates()]
            self.say(
                f"{self._elapsed()}  accepted {accepted:,} of {self._total:,} {rates[0]}"
                f"  settled {settled:,} {rates[1]}  open {open_:,}"
            )

    def close(self) -> None:
        """The table stays as it was drawn last; the cursor is back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._table,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _rates(self) -> tuple[float, float]:
        """Accepted and settled a second, over the last seconds."""
        (first_at, *first), (last_at, *last) = self._seen[0], self._seen[-1]
        seconds = last_at - first_at
        accepted, settled = (
            (b - a) / seconds if seconds > 0 else 0.0 for a, b in zip(first, last, strict=True)
        )
        return accepted, settled

    def _elapsed(self) -> str:
        seconds = 0 if self._began is None else int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02}"

    def _table(self) -> Group:
        (_, accepted, settled), rates = self._seen[-1], self._rates()
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        width = max(5, min(_BAR_CHARS_MAX, self._console.width - 40))
        for name, count, rate, style in (
            ("accepted", accepted, rates[0], "blue"),
            ("settled", settled, rates[1], "green"),
        ):
            bar = ProgressBar(
                self._total, count, width=width, complete_style=style, finished_style=style
            )
            grid.add_row(name, bar, f"{count:,}", f"{rate:,.0f}/s")
        of = Text(f"of {self._total:,}, {self._elapsed()}", style="dim")
        grid.add_row("open", of, f"{self._open:,}", "")
        notes = Table.grid(padding=(0, 2))
        notes.add_column(style="bold", no_wrap=True, min_width=len("accepted"))
        notes.add_column()
        for name, text in self._notes.items():
            notes.add_row(name, Text(text))
        return Group(grid, notes)


def _can_draw(console: Console) -> bool:
    if not console.is_terminal or console.is_dumb_terminal or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("CI", "").lower() in _NOT_SET
