"""The `corrnet` command: one module for each group of commands, put together here."""

from typing import Annotated

import typer

from corrnet_train.cli.common import set_debug
from corrnet_train.cli.encoding import escape_what_no_terminal_takes
from corrnet_train.cli.menu import Menu
from corrnet_train.cli.version import Version
from corrnet_train.utils.malloc import keep_freed_memory

app = typer.Typer(
    cls=Menu,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Learn motion in video by correlation: pack videos, train CorrNet, evaluate and use it.\n\n"
    "Begin with: corrnet train my-videos, a folder with a folder of videos for each class; then: "
    "corrnet predict runs/my-videos VIDEO. Without videos at hand: corrnet demo.\n\n"
    "Exit codes: 0 done, 1 failed while working or found problems, 2 bad input, "
    "3 done but some videos were left out, 70 a bug, 130 interrupted.",
)


@app.callback()
def _options(
    version: Version = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error, not of bugs alone.")
    ] = False,
) -> None:
    set_debug(debug)


def main() -> None:
    """Run the command line."""
    escape_what_no_terminal_takes()
    keep_freed_memory()
    app()
