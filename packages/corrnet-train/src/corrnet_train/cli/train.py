"""`corrnet train`."""

import shlex
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from corrnet_train.cli.common import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    err,
    escape,
    out,
    reports_errors,
    say,
    with_environment,
)
from corrnet_train.cli.complete import recipe_names
from corrnet_train.utils.errors import InputError, WorkError, message_of

if TYPE_CHECKING:
    from corrnet_train.config.schema import RunConfig
    from corrnet_train.training.trainer import Trainer

_WAYS_IN = {
    "corrnet train my-videos": "videos of your own: a folder for each class, or train and val with such folders in "
    "them",
    "corrnet train my-videos.csv": "a list of them, with the columns path and label, and split, start and end where "
    "they are wanted",
    "corrnet train data/shards": "what corrnet pack wrote",
    "corrnet train motionbench": "what a recipe says: one of corrnet recipe list, or a YAML file",
    "corrnet resume runs/first": "go on with a run that was stopped",
    "corrnet demo": "no videos at hand: three small models learn from generated ones",
}


@reports_errors
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEOS|RECIPE",
            help="A folder of videos, CLASS/VIDEO or SPLIT/CLASS/VIDEO, or a csv with the header "
            "path,label[,split][,start,end]; a folder that corrnet pack wrote; a recipe, which is a YAML file or a "
            "name of `corrnet recipe list`.",
            autocompletion=recipe_names,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the settings: section.key=value ...", metavar="KEY=VALUE"),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="For a csv: the folder that its paths refer to; default: its own.")
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            "--val-fraction",
            help="For videos: share of each class that is kept back to measure accuracy on, where there is no split "
            "val.",
            min=0.001,
            max=0.999,
            show_default="0.2",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="PATTERN|COLUMN",
            help="For videos: what names their recording, so that its videos stay on one side; as of corrnet pack.",
        ),
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
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything and show size, memory, steps and time; nothing is written."
        ),
    ] = False,
) -> None:
    r"""Train a model on videos of your own, or as a recipe says.

    Videos are packed first, into the folder shards beside that of the run, and the model and its settings are chosen
    for them and for this machine: each is shown with its reason. Afterwards accuracy is measured, with a page of
    what was taken for what.

    Several processes are started by torchrun, one for each GPU; optim.batch_size is shared among them. When torchrun
    starts them again they continue from the last checkpoint.

    Lines of figures are means over the last steps, of top-1 on training clips as they are augmented. Data wait is the
    share of the time in which the model waited for clips, gradient the norm of the last one.

    Ctrl-C finishes the step, saves and says how to continue; a second one stops at once.

    Settings may stand in the environment, as CORRNET_OPTIM__LR=0.05 for optim.lr=0.05; the command line wins.

    [bold]Examples[/]

    corrnet train my-videos

    corrnet train my-videos.csv --group-by recording run.dir=runs/second

    corrnet train motionbench

    corrnet train my.yaml model.name=corrnet50 optim.lr=0.05 run.dir=runs/first

    corrnet train kinetics400+corrnet50+l16 data.shards=data/shards --dry-run

    corrnet resume runs/first

    torchrun --nproc-per-node 8 -m corrnet_train.cli train my.yaml \
      train.batch_norm=sync
    """
    if recipe is None:
        _show_ways_in()
        raise typer.Exit(EXIT_BAD_INPUT)
    from corrnet_train.cli.next_steps import tell_result
    from corrnet_train.cli.own import check_source, is_own, settings_for
    from corrnet_train.config.load import load_config
    from corrnet_train.distributed.ranks import on_every_rank
    from corrnet_train.training.run_folder import check_shards

    own = is_own(recipe)
    if not own and Path(recipe).is_dir():
        say(f"{recipe} is a recipe; the folder of that name is {shlex.quote(f'./{recipe}')}")
    try:
        check_source(recipe)
        overrides = with_environment(overrides or [])
        if own:
            if resume or requeue:
                raise InputError("a run that began with videos goes on with: corrnet resume RUN")
            config = settings_for(
                recipe,
                overrides,
                root=root,
                val_fraction=val_fraction,
                group_by=group_by,
                dry_run=dry_run,
            )
        elif any(option is not None for option in (root, val_fraction, group_by)):
            raise InputError(
                f"--root, --val-fraction and --group-by are for videos, and {recipe} is a recipe"
            )
        else:
            config = load_config(recipe, overrides)
            check_shards(config)
    except InputError as error:
        raise on_every_rank(error) from None
    if config is None:
        return
    run_training(config, resume=resume, requeue=requeue, dry_run=dry_run)
    if not dry_run:
        tell_result(config)


def _show_ways_in() -> None:
    """Say what can be trained, where nothing was given."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for command, what in _WAYS_IN.items():
        table.add_row(command, what)
    err.print("What is to be trained?", table, "corrnet train --help tells more.", sep="\n")


def run_training(
    config: "RunConfig",
    *,
    resume: bool = False,
    requeue: bool = False,
    extend: bool = False,
    dry_run: bool = False,
) -> None:
    """Train, and say how it ended and how it goes on."""
    import torch

    from corrnet_train.checkpoint.folders import resume_command
    from corrnet_train.distributed.ranks import joined_ranks, on_every_rank, readable_errors
    from corrnet_train.training.trainer import Trainer
    from corrnet_train.utils.kernels import prepare_deterministic

    try:
        if config.run.deterministic and config.run.device != "cpu":
            prepare_deterministic()
    except InputError as error:
        raise on_every_rank(error) from None
    with joined_ranks(config.run.device, timeout=config.train.timeout) as ranks:
        requeue = requeue or ranks.was_restarted
        try:
            with readable_errors(ranks, computes=True):
                trainer = Trainer(
                    config, resume=resume, requeue=requeue, extend=extend, console=err, ranks=ranks
                )
            if dry_run:
                _print_plan(trainer)
                return
            result = trainer.run()
        except KeyboardInterrupt:
            if dry_run or not _has_begun(config):
                raise
            if ranks.is_first:
                say(f"interrupted; continue with: {resume_command(config.run.dir)}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except OSError as error:  # a full disk, for one
            if dry_run or not _has_begun(config):
                raise
            way_on = WorkError(f"{message_of(error)}; then go on with: {resume_command(config.run.dir)}")
            raise (on_every_rank(way_on) if getattr(error, "on_every_rank", False) else way_on) from error
        except torch.OutOfMemoryError as error:
            raise WorkError(
                f"{str(error).partition('.')[0]}. Take fewer clips at once (train.micro_batch), or set "
                "train.grad_checkpointing=true or run.precision=bf16"
            ) from error
    if not ranks.is_first:
        raise typer.Exit(0 if result.finished else EXIT_INTERRUPTED)
    if not result.finished:
        say(f"stopped after step {result.step}; continue with: {resume_command(config.run.dir)}")
        raise typer.Exit(EXIT_INTERRUPTED)
    say(f"done: {result.checkpoint}")


def _has_begun(config: "RunConfig") -> bool:
    """Whether an interrupted run has left anything; else the same command begins it."""
    from corrnet_train.checkpoint.folders import checkpoint_names
    from corrnet_train.training.trainer import last_checkpoint

    has_settings = (config.run.dir / "config.yaml").exists()
    return has_settings or bool(checkpoint_names(last_checkpoint(config).parent))


def _print_plan(trainer: "Trainer") -> None:
    """Print what the run would be."""
    from corrnet_train.config.load import recipe_text
    from corrnet_train.training.dry_run import make_plan

    plan = make_plan(trainer)
    if not trainer.ranks.is_first:
        return
    config, memory = trainer.config, plan.memory
    typer.echo(recipe_text(config))
    batch = f"{plan.micro_batch} clips x {plan.num_micro_batches} accumulated x {plan.world_size} processes"
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "model": f"{config.model.name}, {plan.num_parameters / 1e6:.2f} M parameters, {plan.gmacs:.4g} GMACs a clip",
        "clip": f"{' x '.join(map(str, plan.clip_shape))} (channels, frames, height, width)",
        "videos": f"{plan.num_train} to learn from, {plan.num_eval or 'none'} to evaluate",
        "batch": f"{batch} = {config.optim.batch_size}",
        "steps": f"{plan.num_steps}, {plan.num_warmup_steps} of them warm-up to a learning rate of {plan.peak_lr:g}",
        "memory": f"about {_gib(memory.total)} on each device ({trainer.device}): activations "
        f"{_gib(memory.activations)}, weights {_gib(memory.weights)}, gradients {_gib(memory.gradients)}, "
        f"optimizer {_gib(memory.optimizer)}",
        "speed": f"{1 / plan.clip_seconds:.3g} clips/s computed, {1 / plan.loader_seconds:.3g} clips/s loaded by "
        f"{config.data.num_workers} workers, on each of {plan.world_size} devices",
        "time": f"about {timedelta(seconds=round(plan.seconds))}, without evaluation"
        + ("" if plan.loader_seconds < plan.clip_seconds else ": it waits for data, raise data.num_workers"),
    }
    for name, text in rows.items():
        table.add_row(name, escape(text))
    out.print(table)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
