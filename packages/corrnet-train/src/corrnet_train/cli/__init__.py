"""The `corrnet` command: one module for each group of commands, put together here."""

from typing import Annotated

import typer

from corrnet_train.cli.common import set_debug
from corrnet_train.cli.demo import demo, motionbench
from corrnet_train.cli.doctor import doctor
from corrnet_train.cli.evaluate import evaluate_command, predict
from corrnet_train.cli.export import export
from corrnet_train.cli.features import features
from corrnet_train.cli.inspect import inspect
from corrnet_train.cli.models import models
from corrnet_train.cli.pack import pack_app, pack_merge
from corrnet_train.cli.recipe import recipe_app
from corrnet_train.cli.train import train
from corrnet_train.cli.verify import verify
from corrnet_train.cli.visualize import visualize_app
from corrnet_train.utils.malloc import keep_freed_memory

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Learn motion in video by correlation: pack videos, train CorrNet, evaluate and use it.\n\n"
    "Exit codes: 0 done, 1 failed while working or found problems, 2 bad input, "
    "3 done but some videos were left out, 70 a bug, 130 interrupted.",
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error, not of bugs alone.")
    ] = False,
) -> None:
    set_debug(debug)


app.add_typer(pack_app, name="pack")
app.command()(pack_merge)
app.command()(train)
app.add_typer(recipe_app, name="recipe")
app.command("eval")(evaluate_command)
app.command()(predict)
app.command()(features)
app.add_typer(visualize_app, name="visualize")
app.command()(export)
app.command()(inspect)
app.command()(verify)
app.command()(models)
app.command()(doctor)
app.command()(demo)
app.command()(motionbench)


def main() -> None:
    """Runs the command line."""
    keep_freed_memory()
    app()
