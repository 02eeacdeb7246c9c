"""The progress of long work: a bar on a terminal, lines in a log."""

import threading
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task

SECONDS_BETWEEN_LINES = 30.0


class ProgressDisplay(Progress):
    """A bar where `console` is a terminal; elsewhere, as in the log of a cluster job, a line every 30 seconds.

    The lines come at their time whether or not anything was finished since the last one. Work that takes less shows
    none.

    Args:
        *columns: of the bar.
        console: where it is shown.
        lines: whether to write lines where there is no terminal.
        disable: show nothing at all.
        **options: of `rich.progress.Progress`.
    """

    def __init__(
        self,
        *columns: ProgressColumn,
        console: Console,
        lines: bool = True,
        disable: bool = False,
        **options: Any,
    ) -> None:
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

    def write_lines(self) -> None:
        """Write a line for each task that is not finished: what is done, how fast, and the time left."""
        for task in self.tasks:
            if task.visible and not task.finished:
                self.console.print(_line(task), highlight=False, markup=False, soft_wrap=True)

    def _write(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_LINES):
            self.write_lines()


def _line(task: Task) -> str:
    parts = [f"{task.description}: {task.completed:.0f}/{task.total or 0:.0f}"]
    if task.speed:
        parts.append(f"{task.speed:.1f}/s" if task.speed >= 1 else f"{60 * task.speed:.1f}/min")
    if task.time_remaining is not None:
        parts.append(f"{timedelta(seconds=round(task.time_remaining))} left")
    return ", ".join(parts)
