"""Progress bars of the command line, with the figures people watch while a model trains."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from video_data.utils.progress import ProgressDisplay


class FieldColumn(ProgressColumn):
    """Shows one field of a task, when it has been set."""

    def __init__(self, field: str, template: str) -> None:
        self._field = field
        self._template = template
        super().__init__()

    def render(self, task: Task) -> Text:
        """Return the formatted field, or nothing before its first value."""
        value = task.fields.get(self._field)
        return Text("" if value is None else self._template.format(value), style="cyan")


def progress_bar(console: Console, columns: Iterable[ProgressColumn] = (), *, lines: bool = True) -> Progress:
    """Return a bar with count, elapsed time and ETA, then the given columns.

    Where `console` is no terminal there is a line every 30 seconds instead, unless `lines` is False.
    """
    return ProgressDisplay(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        *columns,
        console=console,
        lines=lines,
    )


def training_bar(console: Console) -> Progress:
    """Return a bar that also shows loss, clips/s, the share of time spent waiting for data, and MFU."""
    return progress_bar(
        console,
        [
            FieldColumn("loss", "loss {:.3f}"),
            FieldColumn("clips_per_second", "{:.0f} clips/s"),
            FieldColumn("data_wait", "data wait {:.0%}"),
            FieldColumn("mfu", "MFU {:.0%}"),
        ],
        lines=False,  # the trainer writes its own
    )
