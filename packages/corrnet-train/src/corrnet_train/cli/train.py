"""`corrnet train`."""

from typing import Annotated

import typer

from corrnet_train.cli.common import EXIT_INTERRUPTED, err, escape, reports_errors
from corrnet_train.cli.complete import recipe_names


@reports_errors
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or the name of a recipe that ships with corrnet.", autocompletion=recipe_names
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the recipe: section.key=value ...", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in run.dir, to the bit.")
    ] = False,
    requeue: Annotated[
        bool,
        typer.Option(
            "--requeue", help="Continue where there is a checkpoint, else start: for job schedulers."
        ),
    ] = False,
) -> None:
    """Train a model as a recipe says.

    Several processes are started by torchrun, one for each GPU; optim.batch_size is shared among them. When torchrun
    starts them again they continue from the last checkpoint.

    Ctrl-C finishes the step, saves and says how to continue; a second one stops at once.

    [bold]Examples[/]

    corrnet train motionbench

    corrnet train my.yaml model.name=corrnet50 optim.lr=0.05 run.dir=runs/first

    corrnet train my.yaml run.dir=runs/first --resume

    torchrun --nproc-per-node 8 -m corrnet_train.cli train my.yaml train.batch_norm=sync
    """
    from corrnet_train.config import load_config
    from corrnet_train.distributed import joined_ranks
    from corrnet_train.trainer import Trainer, last_checkpoint

    config = load_config(recipe, overrides)
    with joined_ranks(config.run.device, timeout=config.train.timeout) as ranks:
        if (requeue or ranks.restarts) and last_checkpoint(config).exists():
            resume = True
        result = Trainer(config, resume=resume, console=err, ranks=ranks).run()
    if not ranks.is_first:
        raise typer.Exit(0 if result.finished else EXIT_INTERRUPTED)
    if not result.finished:
        launch = "torchrun ... -m corrnet_train.cli train" if ranks.launched else "corrnet train"
        command = " ".join([launch, recipe, *(overrides or []), "--resume"])
        err.print(
            f"stopped after step {result.step}; continue with: {escape(command)}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    err.print(f"done: {result.checkpoint}", highlight=False, soft_wrap=True)
