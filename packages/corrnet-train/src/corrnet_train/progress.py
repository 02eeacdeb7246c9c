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


class FieldColumn(ProgressColumn):
    """Shows one field of a task, when it has been set."""

    def __init__(self, field: str, template: str) -> None:
        self._field = field
        self._template = template
        super().__init__()

    def render(self, task: Task) -> Text:
        """The formatted field, or nothing before its first value."""
        value = task.fields.get(self._field)
        return Text("" if value is None else self._template.format(value), style="cyan")


def progress_bar(console: Console, columns: Iterable[ProgressColumn] = ()) -> Progress:
    """A bar with count, elapsed time and ETA, then the given columns."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        *columns,
        console=console,
        disable=not console.is_terminal,
    )


def training_bar(console: Console) -> Progress:
    """A bar that also shows loss, clips/s, the share of time spent waiting for data, and MFU."""
    return progress_bar(
        console,
        [
            FieldColumn("loss", "loss {:.3f}"),
            FieldColumn("clips_per_second", "{:.0f} clips/s"),
            FieldColumn("data_wait", "data wait {:.0%}"),
            FieldColumn("mfu", "MFU {:.0%}"),
        ],
    )
