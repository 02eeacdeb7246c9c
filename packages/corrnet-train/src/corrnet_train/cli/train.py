"""`corrnet train`."""

from typing import Annotated

import typer

from corrnet_train.cli.common import EXIT_INTERRUPTED, err, escape, reports_errors


@reports_errors
def train(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a recipe that ships with corrnet.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the recipe: section.key=value ...", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in run.dir, to the bit.")
    ] = False,
) -> None:
    """Train a model as a recipe says.

    Ctrl-C finishes the step, saves and says how to continue; a second one stops at once.

    [bold]Examples[/]

    corrnet train motionbench

    corrnet train my.yaml model.name=corrnet50 optim.lr=0.05 run.dir=runs/first

    corrnet train my.yaml run.dir=runs/first --resume
    """
    from corrnet_train.config import load_config
    from corrnet_train.trainer import Trainer

    config = load_config(recipe, overrides)
    result = Trainer(config, resume=resume, console=err).run()
    if not result.finished:
        command = " ".join(["corrnet train", recipe, *(overrides or []), "--resume"])
        err.print(
            f"stopped after step {result.step}; continue with: {escape(command)}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    err.print(f"done: {result.checkpoint}", highlight=False, soft_wrap=True)
