"""Lines and tables that fit the terminal: words stay whole, and what has no place is left out."""

import textwrap
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from corrnet_train.cli.common import escape


def print_entry(console: Console, label: str, text: str, *, indent: int, style: str = "") -> None:
    """Print a label and its text beside it, broken between words on a terminal and one line elsewhere.

    Args:
        console: Where.
        label: At most `indent` - 1 characters.
        text: A longer word than there is place beside the label begins on a line of its own.
        indent: Column at which the text begins.
        style: Of the label.
    """
    lines = [text]
    if console.is_terminal:
        lines = _wrap(text, console.width - indent)
        if max(map(len, lines)) > console.width - indent:
            lines, indent = ["", *_wrap(text, console.width - 2)], 2
    head = f"[{style}]{escape(label)}[/]" if style else escape(label)
    for number, line in enumerate(lines):
        start = " " * indent if number else head + " " * (indent - len(label))
        console.print(f"{start}{escape(line)}".rstrip(), highlight=False, soft_wrap=True)


def fitting_table(
    console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]], *, droppable: Collection[str] = ()
) -> Table:
    """Return a table without borders, and without the columns that have no place.

    Args:
        console: Where it is to be shown.
        titles: Of the columns.
        rows: Cells, as many as titles or fewer; markup is read.
        droppable: Titles of columns that may be left out, the first ones first.
    """
    left_out: list[str] = []
    while True:
        kept = [number for number, title in enumerate(titles) if title not in left_out]
        table = Table(*(titles[number] for number in kept), box=None)
        for row in rows:
            table.add_row(*(row[number] for number in kept if number < len(row)))
        needed = Measurement.get(console, console.options.update(width=1000), table).maximum
        if needed <= console.width or len(left_out) == len(droppable):
            return table
        left_out = [*droppable][: len(left_out) + 1]


def _wrap(text: str, width: int) -> list[str]:
    lines = (
        textwrap.wrap(line, max(width, 20), break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
    return [piece for pieces in lines for piece in pieces] or [""]
