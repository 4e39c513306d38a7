"""How far long work is, on standard error: a bar in a terminal, a line now and then elsewhere."""

import sys
from time import monotonic
from types import TracebackType
from typing import Any, Self

from veltrix.commands.terminal import print_error

_LINE_S = 2.0


class Progress:
    """Shows how much of `total` (None: not known) is done, inside `with`."""

    def __init__(self, verb: str, total: int | None) -> None:
        self._verb, self._total, self._bar, self._task = verb, total, None, None
        self._began = self._line_at = monotonic()

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print_error(line)

    def show(self, done: int, share: int | None = None) -> None:
        """So many are done; `share` is what the bar shows if it counts something else."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done if share is None else share, done=done)
            return
        now = monotonic()
        if now >= self._line_at + _LINE_S:
            self._line_at = now
            rate = done / (now - self._began)
            self.say(f"{done:,} {self._verb}  {rate:,.0f}/s")

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns: list[Any] = [TextColumn("{task.fields[done]:,} {task.description}"), BarColumn()]
        columns += [TimeElapsedColumn(), TimeRemainingColumn()]
        bar: Any = Bar(*columns, console=Console(stderr=True))
        self._task = bar.add_task(self._verb, total=self._total, done=0)
        self._bar = bar
        bar.start()
