"""How far the demo is: a bar in a terminal, a line now and then elsewhere; and its table."""

import time
from collections.abc import Mapping

from rich import progress
from rich.console import Console
from rich.table import Column, Table

_LINE_S = 2.0
_RATE_S = 5.0


class Progress:
    """Shows accepted, settled and open runs, and the rate at which they settle."""

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._console = total, console
        self._line_at = 0.0
        self._seen: list[tuple[float, int]] = []
        self._bar: progress.Progress | None = None
        self._task: progress.TaskID | None = None

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, accepted: int, settled: int, open_: int) -> None:
        """Where things are now."""
        now = time.monotonic()
        self._seen = [(at, n) for at, n in self._seen if now - at <= _RATE_S] + [(now, settled)]
        first_at, first = self._seen[0]
        rate = (settled - first) / (now - first_at) if now > first_at else 0.0
        if self._console.is_terminal:
            self._draw(settled, open_, rate)
        elif now >= self._line_at or settled >= self._total:
            self._line_at = now + _LINE_S
            self.say(
                f"accepted {accepted:,} of {self._total:,}  settled {settled:,}  open {open_:,}"
                f"  {rate:,.0f}/s"
            )

    def close(self) -> None:
        """No more bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, settled: int, open_: int, rate: float) -> None:
        if self._bar is None:
            self._bar = progress.Progress(
                progress.BarColumn(bar_width=None),
                progress.TextColumn("{task.fields[shown]}", table_column=Column(no_wrap=True)),
                progress.TimeElapsedColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("flights", total=self._total, shown="")
            self._bar.start()
        assert self._task is not None
        shown = f"{settled:,} of {self._total:,} settled  {open_:,} open  {rate:,.0f}/s"
        self._bar.update(self._task, completed=settled, shown=shown)


def print_table(values: Mapping[str, object], console: Console) -> None:
    """Names and values, one a row."""
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        table.add_row(name.replace("_", " "), str(shown))
    console.print(table)
