"""The progress of long work: a bar on a terminal, lines in a log."""

import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

SECONDS_BETWEEN_LINES = 30.0
_SHORT_BAR = 8  # columns


class ProgressDisplay(Progress):
    """A bar where `console` is a terminal; elsewhere, as in the log of a cluster job, a line every 30 seconds.

    The lines come at their time whether or not anything was finished since the last one. Work that takes less shows
    none. On a narrow terminal the bar is shorter, and columns that have no place are left out.

    Args:
        *columns: Of the bar.
        console: Where it is shown.
        lines: Whether to write lines where there is no terminal.
        disable: Show nothing at all.
        **options: Of `rich.progress.Progress`.
    """

    def __init__(
        self,
        *columns: ProgressColumn,
        console: Console,
        lines: bool = True,
        disable: bool = False,
        **options: Any,
    ) -> None:
        self._shown_on = console  # the parent draws before it knows its console
        super().__init__(*columns, console=console, disable=disable or not console.is_terminal, **options)
        self._stopped = threading.Event()
        self._writer: threading.Thread | None = None
        if lines and not (disable or console.is_terminal or console.quiet):
            self._writer = threading.Thread(target=self._write, name="progress", daemon=True)

    def start(self) -> None:
        """Begin to show progress; `with` does it."""
        super().start()
        if self._writer is not None:
            self._writer.start()

    def stop(self) -> None:
        """Stop showing progress; the end of `with` does it."""
        self._stopped.set()
        if self._writer is not None:
            self._writer.join()
        super().stop()

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Return the bars of the tasks with as many columns as have a place."""
        tasks, all_columns = list(tasks), self.columns
        try:
            for columns in _narrower(all_columns):
                self.columns = columns
                table = super().make_tasks_table(tasks)
                options = self._shown_on.options.update(width=1000)
                if Measurement.get(self._shown_on, options, table).maximum <= self._shown_on.width:
                    break
        finally:
            self.columns = all_columns
        return table

    def write_lines(self) -> None:
        """Write a line for each task that is not finished: what is done, how fast, and the time left."""
        for task in self.tasks:
            if task.visible and not task.finished:
                self.console.print(_line(task), highlight=False, markup=False, soft_wrap=True)

    def _write(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_LINES):
            self.write_lines()


def _narrower(columns: tuple[str | ProgressColumn, ...]) -> Iterator[tuple[str | ProgressColumn, ...]]:
    """Yield all columns, then fewer: with a short bar, without the elapsed time, without the last, and so on."""
    yield columns
    columns = tuple(BarColumn(_SHORT_BAR) if isinstance(column, BarColumn) else column for column in columns)
    yield columns
    columns = tuple(column for column in columns if not isinstance(column, TimeElapsedColumn))
    yield columns
    while not isinstance(columns[-1], TimeRemainingColumn) and len(columns) > 1:
        columns = columns[:-1]
        yield columns


def _line(task: Task) -> str:
    parts = [f"{task.description}: {task.completed:.0f}/{task.total or 0:.0f}"]
    if task.speed:
        parts.append(f"{task.speed:.1f}/s" if task.speed >= 1 else f"{60 * task.speed:.1f}/min")
    if task.time_remaining is not None:
        parts.append(f"{timedelta(seconds=round(task.time_remaining))} left")
    return ", ".join(parts)
