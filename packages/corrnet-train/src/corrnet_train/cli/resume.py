"""`corrnet resume`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from corrnet_train.cli.common import reports_errors, say, with_environment
from corrnet_train.cli.train import run_training
from corrnet_train.utils.errors import InputError


@reports_errors
def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run, wherever it lies now.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings that may change: section.key=value ...", metavar="KEY=VALUE"),
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Where the shards are now; default: where they were.")
    ] = None,
) -> None:
    r"""Go on with a run, or train it longer.

    All settings are in the folder. Those that do not change what is learned may be given anew, and more optim.epochs:
    then the learning rate follows the cosine to the new end from the next step on. A run that was killed before its
    first checkpoint begins again. With eval.after_training accuracy is measured anew.

    Several processes are started by torchrun, as for corrnet train.

    [bold]Examples[/]

    corrnet resume runs/first

    corrnet resume runs/first optim.epochs=100

    corrnet resume /new/place/first --shards /new/place/shards

    torchrun --nproc-per-node 8 -m corrnet_train.cli resume runs/first
    """
    from corrnet_train.cli.next_steps import tell_result
    from corrnet_train.config.recipes import keep_path
    from corrnet_train.distributed.ranks import on_every_rank
    from corrnet_train.networks.by_name import check_allowed
    from corrnet_train.training.run_folder import settings_of_run

    try:
        where = [] if shards is None else [f"data.shards={keep_path(str(shards))}"]
        given = with_environment([*(overrides or []), *where])
        config = settings_of_run(run, given)
        if f"model.name={config.model.name}" not in given:
            check_allowed(config.model.name)
    except InputError as error:
        raise on_every_rank(error) from None
    if os.environ.get("RANK", "0") == "0":
        say(
            f"on the videos as they were packed into {config.data.shards}, whatever was added or changed since; "
            "corrnet train FOLDER with another run.dir packs them as they are"
        )
    run_training(config, requeue=True, extend=True)
    tell_result(config)
