"""What is measured and said after a run: how good it is, how it is used, and how it goes on."""

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from corrnet_train.cli.common import EXIT_VIDEOS_LEFT_OUT, say
from corrnet_train.cli.own import REPORT

if TYPE_CHECKING:
    from corrnet_train.config.schema import RunConfig
    from corrnet_train.evaluation.evaluate import EvalResult


def tell_result(config: "RunConfig") -> None:
    """Measure a model that is trained and say how it is used, where that is asked for; else say how it is measured."""
    is_alone = "RANK" not in os.environ
    if config.eval.after_training and is_alone:
        _measure_and_advise(config)
    elif config.data.eval_split is not None and os.environ.get("RANK", "0") == "0":
        say(f"measure it: {_allowing(config)}{shlex.join(['corrnet', 'eval', str(config.run.dir)])}")


def _allowing(config: "RunConfig") -> str:
    """Return what stands before a command with a network that is allowed to be imported; mostly nothing."""
    from corrnet_train.networks.by_name import ALLOWED_MODULES, needs_leave

    module = needs_leave(config.model.name)
    return "" if module is None else f"{ALLOWED_MODULES}={module} "


def _measure_and_advise(config: "RunConfig") -> None:
    """Measure accuracy on the validation split, write a page of it, and say what can be done next."""
    from corrnet_train.cli.evaluate import measure

    run, result = config.run.dir, None
    if config.data.eval_split is None:
        say("accuracy was not measured: no video was kept back for it")
    else:
        with ExitStack() as stack:
            result = measure(
                stack.enter_context,
                run,
                str(config.data.shards),
                config.data.eval_split,
                device=config.run.device,
                output=run / REPORT,
                overwrite=True,
                show_fingerprint=False,
            )
    is_chance = result is not None and result.chance is not None
    if not _is_perfect(result):
        _say_how_long(config, is_chance=is_chance)
    leave = _allowing(config)
    all_the_same = " all the same" if is_chance else ""
    say(f"use it{all_the_same}: {leave}{shlex.join(['corrnet', 'predict', str(run), 'VIDEO'])}")
    if not is_chance and (better := _better_before(run)):
        told, best = better
        command = shlex.join(["corrnet", "predict", str(best), "VIDEO"])
        say(f"it was better on the way, {told}: {leave}{command}")
    say(f"use it elsewhere: {leave}{shlex.join(['corrnet', 'export', str(run), f'{run.name}-model'])}")
    if result is not None and result.unreadable:
        raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)


def _is_perfect(result: "EvalResult | None") -> bool:
    """Whether no video was taken for another class."""
    return getattr(result, "video_top1", None) == 1.0


def _say_how_long(config: "RunConfig", *, is_chance: bool) -> None:
    """Say how a run is trained longer, and where it is no better than chance whether it was short."""
    from corrnet_train.checkpoint.folders import resume_command
    from corrnet_train.config.own import evaluation_period, usual_epochs
    from corrnet_train.distributed.ranks import resolve_device
    from video_data import open_shards

    num_train = open_shards(config.data.shards).num_samples(config.data.train_split)
    optim, has_gpu = config.optim, resolve_device(config.run.device).type != "cpu"
    usual = usual_epochs(optim.epoch_samples(num_train), has_gpu=has_gpu)
    epochs = max(usual, 2 * optim.epochs)
    command = f"{resume_command(config.run.dir)} optim.epochs={epochs:g}"
    evaluates = config.data.eval_split is not None
    if (
        evaluates
        and epochs > 2 * optim.epochs
        and 0 < config.eval.every_epochs < (period := evaluation_period(epochs))
    ):
        command += f" eval.every_epochs={period}"
    steps = optim.num_steps(num_train)
    if not is_chance:
        say(f"train it longer: {command}")
    elif optim.epochs < usual:
        usual_steps = optim.model_copy(update={"epochs": usual}).num_steps(num_train)
        clips, usual_clips = steps * optim.batch_size, usual_steps * optim.batch_size
        say(
            f"{steps:,} steps ({clips:,} clips) are few, usual for this recipe are {usual_steps:,} ({usual_clips:,} "
            f"clips); go on with training: {command}"
        )
    else:
        say(
            f"{steps:,} steps are as many as usual for this recipe: more videos help, or weights to start from "
            f"(model.init_from); train it longer: {command}"
        )


def _better_before(run: Path) -> tuple[str, Path] | None:
    """Tell of the best evaluation, where the last one was not as good, and return its checkpoint.

    The last weights are what a run gives all the same, see docs/decisions/last-or-best.md.
    """
    from corrnet_train.checkpoint.folders import BEST
    from corrnet_train.report.results import Curves
    from corrnet_train.training.metrics_log import read_metrics

    lines = read_metrics(run)
    curves = Curves.from_metrics(lines)
    checkpoint = run / "checkpoints" / BEST
    if not curves.evals or not checkpoint.exists():
        return None
    pick = min if curves.score_name == "MAE" else max
    best, last = pick(curves.evals, key=lambda point: point.score), curves.evals[-1]
    if best.score == last.score:
        return None
    told = f"{curves.score_name} {best.score:.4g} after step {best.step}"
    num_videos = next((line["num_videos"] for line in lines if line.get("num_videos")), 0)
    if curves.score_name == "top-1" and num_videos:
        told += f", {round((best.score - last.score) * num_videos)} of {num_videos} videos more, which may be chance"
    return told, checkpoint
