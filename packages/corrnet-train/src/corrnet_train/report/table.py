"""The table that compares models: its columns, and its form in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from corrnet_train.report.results import ModelResult, Results
from corrnet_train.report.stats import wilson_interval


def format_count(value: int) -> str:
    """Return a count with three significant digits and its unit, for instance 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # 999.5 of a unit would print as 1,000 of it.
        if value >= 0.9995 * size:
            return f"{format_number(value / size)} {unit}"
    return str(value)


def format_number(value: float) -> str:
    """Return a non-negative number with about three significant digits and no exponent."""
    for floor, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if value >= floor:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def format_percent(fraction: float) -> str:
    """Return a fraction as a percentage with one digit."""
    return f"{100 * fraction:.1f} %"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, for instance 2 min 05 s."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def video_interval(model: ModelResult) -> tuple[float, float]:
    """95 % Wilson interval of the model's video top-1 accuracy, fractions in 0..1."""
    return wilson_interval(round(model.video_top1 * model.num_videos), model.num_videos)


def _format_interval(model: ModelResult) -> str:
    low, high = video_interval(model)
    return f"{100 * low:.1f} to {100 * high:.1f}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table.

    Attributes:
        title: Heading.
        value: The number that decides which model is best.
        text: What is shown for that number.
        better: Whether a high or a low number is better.
        note: A second, quieter text in the same cell.
    """

    title: str
    value: Callable[[ModelResult], float]
    text: Callable[[ModelResult], str]
    better: Literal["high", "low"]
    note: Callable[[ModelResult], str] | None = None


COLUMNS = (
    Column(title="params", value=lambda m: m.params, text=lambda m: format_count(m.params), better="low"),
    Column(
        title="GMACs / clip", value=lambda m: m.gmacs, text=lambda m: format_number(m.gmacs), better="low"
    ),
    Column(
        title="clip top-1",
        value=lambda m: m.clip_top1,
        text=lambda m: format_percent(m.clip_top1),
        better="high",
    ),
    Column(
        title="video top-1",
        value=lambda m: m.video_top1,
        text=lambda m: format_percent(m.video_top1),
        better="high",
        note=_format_interval,
    ),
    Column(
        title="clips / s",
        value=lambda m: m.clips_per_second,
        text=lambda m: format_number(m.clips_per_second),
        better="high",
    ),
    Column(
        title="train time",
        value=lambda m: m.train_seconds,
        text=lambda m: format_duration(m.train_seconds),
        better="low",
    ),
)


_HEADING = 7  # columns of a heading's line


def best_models(results: Results, column: Column) -> frozenset[str]:
    """Names of the models that share the best value of a column; empty when all are equal."""
    values = {model.name: column.value(model) for model in results.models}
    if len(set(values.values())) == 1:
        return frozenset()
    best = max(values.values()) if column.better == "high" else min(values.values())
    return frozenset(name for name, value in values.items() if value == best)


def results_table(results: Results) -> Table:
    """Return the comparison as a table for the terminal.

    Args:
        results: The comparison.

    Returns:
        One row per model in the order given; the best value of each column is bold and green.
    """
    interval = "in brackets: 95 % Wilson interval of video top-1"
    # Titles and names are Text objects, so that brackets in them are not read as markup.
    table = Table(
        title=Text(results.title),
        caption=Text(interval),
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("model", no_wrap=True)
    for column in COLUMNS:
        notes = [column.note(model) for model in results.models] if column.note else []
        least = max((len(note) + 2 for note in notes), default=None)  # in brackets, in one piece
        words = [*column.title.split(), *(column.text(model) for model in results.models)]
        most = None if notes else max(_HEADING, *map(len, words))  # headings break between words
        table.add_column(column.title, justify="right", min_width=least, max_width=most)
    best = [best_models(results, column) for column in COLUMNS]
    for model in results.models:
        cells: list[Text | _Noted] = [Text(model.name)]
        for column, winners in zip(COLUMNS, best, strict=True):
            number = Text(column.text(model), style="bold green" if model.name in winners else "")
            if column.note:
                note = Text(f"[{column.note(model)}]", style="not bold dim default")
                cells.append(_Noted(number, note))
            else:
                cells.append(number)
        table.add_row(*cells)
    return table


@dataclass(frozen=True)
class _Noted:
    """A number with its note beside it, or below it where there is no place; both stay in one piece."""

    number: Text
    note: Text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        lengths = self.number.cell_len, self.note.cell_len
        return Measurement(max(lengths), sum(lengths) + 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        beside = self.number.cell_len + self.note.cell_len < options.max_width
        yield Text(" " if beside else "\n", justify=options.justify).join([self.number, self.note])
