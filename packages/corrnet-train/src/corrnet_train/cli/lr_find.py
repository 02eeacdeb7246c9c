"""`corrnet lr-find`."""

import math
import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from corrnet_train.cli.common import (
    EXIT_INTERRUPTED,
    Overwrite,
    err,
    escape,
    out,
    reports_errors,
    say,
    with_environment,
)
from corrnet_train.cli.complete import recipe_names
from corrnet_train.cli.encoding import has_character
from corrnet_train.cli.recipe import RECIPE_HELP, Overrides
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_output

if TYPE_CHECKING:
    from corrnet_train.training.lr_finder import RateTrial

_MOST_ROWS = 20
_FILES = ("rates.csv", "rates.svg")


@reports_errors
def lr_find(
    recipe: Annotated[str, typer.Argument(help=RECIPE_HELP, autocompletion=recipe_names)],
    overrides: Overrides = None,
    lowest: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="The last one.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Steps from the one to the other.")] = 100,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write rates.csv and rates.svg there.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find a learning rate: train a hundred steps at rates that grow, and show the loss at each (Smith, 2017).

    The suggestion is a tenth of the rate at which the smoothed loss is smallest, or where it never falls of the one at
    which it begins to rise, for optim.lr as the recipe has it. It is a start for trials, and no more: how a long
    training ends is not seen in a hundred steps. Model, augmentation, batches and optimizer are those of the recipe; no
    run is begun or changed. Ctrl-C shows what there is so far.

    [bold]Examples[/]

    corrnet lr-find motionbench

    corrnet lr-find my.yaml optim.batch_size=64 --output rates

    corrnet lr-find runs/first/config.yaml
    """
    from corrnet_train.cli.own import is_own
    from corrnet_train.config.load import load_config
    from corrnet_train.training.lr_finder import suggest_rate, try_rates
    from corrnet_train.training.run_folder import check_shards
    from corrnet_train.training.trainer import Trainer
    from corrnet_train.utils.progress import training_bar

    if "RANK" in os.environ:
        raise InputError(
            "corrnet lr-find is for one process, and torchrun started this one: start it without"
        )
    if is_own(recipe):
        raise InputError(
            f"{recipe} holds videos, and corrnet lr-find takes a recipe: corrnet train {shlex.quote(recipe)} chooses "
            "one and writes it to config.yaml in the folder of its run, which corrnet lr-find takes"
        )
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=[], files=_FILES)
    settings = with_environment(overrides or [])
    config = load_config(recipe, settings)
    check_shards(config)
    scale = config.optim.peak_lr / config.optim.lr  # from optim.lr to the rate of a step
    trials: list[RateTrial] = []
    interrupted = False
    with tempfile.TemporaryDirectory() as nowhere:
        run = config.run.model_copy(update={"dir": Path(nowhere) / "run", "wandb": None})
        trainer = Trainer(config.model_copy(update={"run": run}), console=err)
        try:
            with training_bar(err) as bar:
                task = bar.add_task(f"rates for {config.model.name}", total=steps)
                for trial in try_rates(
                    trainer, lowest=lowest * scale, highest=highest * scale, num_steps=steps
                ):
                    trials.append(trial)
                    bar.update(task, advance=1, loss=trial.smoothed)
        except KeyboardInterrupt:
            interrupted = True
    rates = [trial.rate / scale for trial in trials]
    suggested = suggest_rate(trials)
    if trials:
        out.print(_table(trials, rates))
    rate = None if suggested is None else float(f"{suggested.rate / scale:.2g}")
    if suggested is None and interrupted:
        say(f"stopped after {len(trials)} of {steps} steps, from which no rate can be suggested")
    elif suggested is None and not math.isfinite(trials[-1].loss):
        say(f"the loss is no finite number in step {len(trials)}: begin with a lower rate (--lowest)")
    elif suggested is None:
        say(
            "the loss neither falls nor rises: go on to a higher rate (--highest) or take more steps (--steps)"
        )
    else:
        command = ["corrnet", "train", recipe, *(overrides or []), f"optim.lr={rate:g}"]
        of_step = (
            "" if scale == 1 else f" ({suggested.rate:.2g} in a step of {config.optim.batch_size} clips)"
        )
        out.print(escape(f"suggested: optim.lr={rate:g}{of_step}: {suggested.reason}"), soft_wrap=True)
        out.print(f"the recipe has optim.lr={config.optim.lr:g}", highlight=False)
        say(f"try it: {shlex.join(command)}")
    if output is not None and any(math.isfinite(trial.loss) for trial in trials):
        _write(output, trials, rates, rate)
        say(f"written: {output / _FILES[0]}, {output / _FILES[1]}")
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _table(trials: "list[RateTrial]", rates: list[float]) -> Table:
    """Show some of the steps with bars of their smoothed loss."""
    table = Table("optim.lr", "loss", "", box=None, pad_edge=False, header_style="bold")
    every = math.ceil(len(trials) / _MOST_ROWS)
    largest = max(trial.smoothed for trial in trials[: max(1, len(trials) // 2)])
    block = "█" if has_character(out.file, "█") else "#"
    for trial, rate in list(zip(trials, rates, strict=True))[every - 1 :: every]:
        share = min(1.5, trial.smoothed / largest) if math.isfinite(trial.smoothed) else 1.5
        table.add_row(f"{rate:.3g}", f"{trial.smoothed:.4g}", "[cyan]" + block * round(30 * share) + "[/]")
    return table


def _write(folder: Path, trials: "list[RateTrial]", rates: list[float], suggested: float | None) -> None:
    from corrnet_train.evaluation.accuracy import csv_text
    from corrnet_train.report.figures.rates import rates_figure
    from corrnet_train.utils.files import write_text

    rows = [
        [f"{rate:.6g}", f"{trial.loss:.6g}", f"{trial.smoothed:.6g}"]
        for rate, trial in zip(rates, trials, strict=True)
    ]
    finite = [(rate, trial) for rate, trial in zip(rates, trials, strict=True) if math.isfinite(trial.loss)]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _FILES[0], csv_text(["optim.lr", "loss", "smoothed"], rows))
    drawn = rates_figure(
        [rate for rate, _ in finite],
        [trial.loss for _, trial in finite],
        [trial.smoothed for _, trial in finite],
        suggested,
    )
    write_text(folder / _FILES[1], drawn.decode())
