"""`corrnet eval`."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from corrnet_train.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_VIDEOS_LEFT_OUT,
    Checkpoint,
    DecodingWorkers,
    Device,
    Like,
    NumClips,
    Overwrite,
    check_checkpoint,
    decoding_workers,
    err,
    escape,
    out,
    read_of_checkpoint,
    reports_errors,
    say,
)
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_output

if TYPE_CHECKING:  # imported where it is used: it takes a second
    from corrnet_train.evaluation.evaluate import ClassificationResult, EvalResult
    from corrnet_train.report.results import Curves

_MOST_LINES = 100  # of videos that are not counted
_MOST_MISTAKES = 5
_MOST_IN_TABLE = 12  # classes
_MOST_APART = 3600  # seconds for which processes wait for the slowest one at the end


@reports_errors
def evaluate_command(
    context: typer.Context,
    checkpoint: Checkpoint,
    shards: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEOS",
            help="Folder written by `corrnet pack`, or its URL; or videos in folders of classes, or a csv of them, "
            "which are packed first.",
            show_default="those that the run kept back",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split.", show_default="val, or where there is none test")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="For a csv: the folder that its paths refer to; default: its own.")
    ] = None,
    num_clips: NumClips = None,
    num_crops: Annotated[
        int, typer.Option(help="1: the center of the picture; 3: three places along its longer side.")
    ] = 1,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Videos a step of each process.", min=1, show_default="that of eval.batch_size"),
    ] = None,
    num_workers: DecodingWorkers = None,
    device: Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write result.json, predictions.csv, unreadable.csv, classes.csv and report.html there; until it is "
            "done, what is needed to go on after a stop.",
        ),
    ] = None,
    like: Like = None,
    overwrite: Overwrite = False,
) -> None:
    r"""Measure accuracy over a split: of clips, videos and classes, with calibration; each video is counted once.

    Classes are matched by their names; the videos may be of some of those that the model knows. Videos in folders that
    name no split are all tested. They are packed once, into the folder shards beside that of the run.

    The paper averages over 10 clips of each video, and over 30 for its best figures. Videos that cannot be read are
    named and not counted; then the exit code is 3. With --output a stopped evaluation of one process goes on where it
    was. Several processes, one for each GPU, are started by torchrun and share the videos.

    [bold]Examples[/]

    corrnet eval runs/demo/corrnet_tiny runs/demo/data/shards --split test

    corrnet eval runs/first

    corrnet eval runs/first other-videos

    corrnet eval runs/first data/shards --num-crops 3 --output runs/first/eval

    torchrun --nproc-per-node 8 -m corrnet_train.cli eval \
      runs/first data/shards --output runs/first/eval
    """
    from corrnet_train.cli.packed import are_videos
    from corrnet_train.distributed.ranks import on_every_rank
    from corrnet_train.training.run_folder import settings_of_run

    try:
        check_checkpoint(checkpoint, like)
        if shards is None:
            data = settings_of_run(checkpoint).data
            if data.eval_split is None:
                raise InputError(f"{checkpoint} kept no video back to measure accuracy on: give other videos")
            shards, split = str(data.shards), split or data.eval_split
        elif are_videos(shards):
            shards, split = _pack_to_measure(Path(shards).expanduser(), split, root, checkpoint, like)
        elif root is not None:
            raise InputError(f"--root is for the paths in a csv of videos, and {shards} is none")
    except InputError as error:
        raise on_every_rank(error) from None
    result = measure(
        context.with_resource,
        checkpoint,
        shards,
        split,
        num_clips=num_clips,
        num_crops=num_crops,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        output=output,
        like=like,
        overwrite=overwrite,
    )
    if result is not None and result.unreadable:
        raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)


def _pack_to_measure(
    source: Path, split: str | None, root: Path | None, checkpoint: Path, like: Path | str | None
) -> tuple[str, str]:
    """Pack videos that a model is tested on, unless that is done, and return the folder of the shards and the split."""
    from corrnet_train.checkpoint.folders import run_of
    from corrnet_train.cli.pack import pack_and_summarize
    from corrnet_train.cli.packed import learned_videos, list_source, place_to_measure
    from corrnet_train.evaluation.evaluate import labels_by_name
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.training.run_folder import settings_of_run
    from video_data import PackOptions, open_shards
    from video_data.utils.workers import available_cores

    listing = list_source(source, root, to_learn=False)
    classifier = VideoClassifier.from_checkpoint(checkpoint, device="cpu", like=like)
    labels_by_name(classifier.classes, classifier.targets.task, listing.class_names, listing.task)
    run = run_of(checkpoint)
    runs = Path("runs") if run is None else run.parent
    try:
        trained = None if run is None else settings_of_run(run).data
    except InputError:  # its shards are gone
        trained = None
    own = None if trained is None else trained.shards
    place = place_to_measure(source, listing, own, runs / "shards")
    if not place.is_packed and "RANK" in os.environ:
        raise InputError(
            f"{source} is not packed yet: the same command does that in one process, without torchrun"
        )
    if not place.is_packed:
        for line in (place.passed_over, *listing.notes, f"packing into {place.shards}"):
            if line:
                say(line)
        pack_and_summarize(listing, place.shards, PackOptions(num_workers=available_cores()))
    packed = open_shards(place.shards)
    split = split or _split_to_measure(packed.splits, str(place.shards))
    if split in packed.splits and os.environ.get("RANK", "0") == "0":
        num_tested, num_packed = packed.num_samples(split), sum(map(packed.num_samples, packed.splits))
        if place.is_packed:
            say(
                f"packed already: {place.shards}; its split {split} has {num_tested} of the {num_packed} videos"
            )
        learned = 0 if trained is None else learned_videos(trained, packed, split)
        if learned:
            say(
                f"the model has learned from {learned} of these {num_tested} videos, or from other parts of their "
                "files: accuracy on them says nothing of others"
            )
    return str(place.shards), split


def _split_to_measure(splits: Sequence[str], shards: str) -> str:
    """Return the split that is meant where none is named."""
    usual = [name for name in ("val", "test") if name in splits]
    if not usual:
        raise InputError(
            f"no split val or test in {shards}; it has {', '.join(splits)}: give --split {splits[0]}"
        )
    return usual[0]


def measure(
    enter: Callable[[AbstractContextManager[Any]], object],
    checkpoint: Path,
    shards: str,
    split: str | None,
    *,
    num_clips: int | None = None,
    num_crops: int = 1,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str = "auto",
    output: Path | None = None,
    like: str | None = None,
    overwrite: bool = False,
    show_fingerprint: bool = True,
) -> "EvalResult | None":
    """Do what `corrnet eval` does, with its arguments and options; `enter` enters what ends with the command.

    What is written has the fingerprint, also where it is not shown.

    Returns:
        What was measured; None in the processes that leave it to the first one to say so.
    """
    from rich.console import Console

    from corrnet_train.checkpoint.state import weights_hash
    from corrnet_train.config.schema import EvalConfig
    from corrnet_train.distributed.ranks import joined_ranks
    from corrnet_train.evaluation.evaluate import EVALUATION_FILES, JOURNAL, evaluate
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.utils.lock import only_user
    from corrnet_train.utils.progress import progress_bar
    from video_data import open_shards

    with joined_ranks(device, timeout=_MOST_APART) as ranks:

        def check(output: Path) -> None:
            goes_on = (output / JOURNAL).exists()  # perhaps stopped while it wrote these files
            inputs: list[str | Path] = [*read_of_checkpoint(checkpoint, like), shards]
            check_output(output, overwrite=overwrite or goes_on, inputs=inputs, files=EVALUATION_FILES)

        with ranks.together():
            check_checkpoint(checkpoint, like)
            if output is not None and ranks.is_first:
                check(output)
                output.mkdir(parents=True, exist_ok=True)
                enter(only_user(output, "evaluates in", instead="--output"))
                check(output)  # the last owner may have ended meanwhile
            shard_set = open_shards(shards)
            split = split or _split_to_measure(shard_set.splits, shards)
            if split not in shard_set.splits:
                has = ", ".join(shard_set.splits)
                raise InputError(
                    f"no split {split!r} in {shards}; it has {has}: give --split {shard_set.splits[0]}"
                )
            total = shard_set.num_samples(split)
            own_device = str(ranks.device(device))
            classifier = VideoClassifier.from_checkpoint(checkpoint, device=own_device, like=like)
        ranks.check_equal("the manifest of the shards", shard_set.manifest_hash)
        if ranks.world_size > 1:  # training may have moved last.pt on in between
            ranks.check_equal(f"the weights in {checkpoint}", weights_hash(classifier.model))
        journal = None if output is None or ranks.world_size > 1 else output / JOURNAL
        with progress_bar(err if ranks.is_first else Console(quiet=True)) as bar:
            task = bar.add_task(f"eval {split}", total=total)
            try:
                result = evaluate(
                    classifier,
                    shard_set,
                    split,
                    num_clips=num_clips,
                    num_crops=num_crops,
                    batch_size=batch_size or EvalConfig().batch_size,
                    num_workers=decoding_workers(num_workers),
                    on_batch=lambda n: bar.advance(task, n * ranks.world_size),
                    ranks=ranks,
                    journal=journal,
                )
            except KeyboardInterrupt:
                if journal is None:
                    raise
                err.print("interrupted; the same command goes on where it was")
                raise typer.Exit(EXIT_INTERRUPTED) from None
    if not ranks.is_first:
        return None
    if len(shard_set.classes) < len(classifier.classes):
        say(
            f"these videos are of {len(shard_set.classes)} of the {len(classifier.classes)} classes of the model"
        )
    print_figures(result, classifier.classes)
    for name, value in result.fingerprint.items() if show_fingerprint else ():
        out.print(escape(f"{name}: {value}"), highlight=False, soft_wrap=True)
    if output is not None:
        from corrnet_train.report.pages.evaluation import MOST_MISTAKES, write_evaluation
        from video_data.shards.thumbnails import read_thumbnails

        wrong = [(split, place) for place, _ in result.mistakes(MOST_MISTAKES)]
        write_evaluation(
            result,
            classifier.classes,
            output,
            title=f"{checkpoint} on {split}",
            mistakes=read_thumbnails(shard_set, wrong, progress=False),
            curves=_curves_of(checkpoint),
        )
        if journal is not None:
            journal.unlink(missing_ok=True)
        out.print(escape(f"report: {output / 'report.html'}"), highlight=False, soft_wrap=True)
    if result.unreadable:
        for entry in result.unreadable[:_MOST_LINES]:
            line = f"not counted: {entry.source or entry.key}: {entry.message}"
            err.print(escape(line), highlight=False, soft_wrap=True)
        hidden = len(result.unreadable) - _MOST_LINES
        if hidden > 0:
            where = "unreadable.csv names" if output is not None else "--output FOLDER writes"
            err.print(f"and {hidden:,} more; {where} all of them", highlight=False)
    return result


def print_figures(result: "EvalResult", classes: Sequence[str]) -> None:
    """Show the figures of merit."""
    from corrnet_train.evaluation.evaluate import ClassificationResult, MultilabelResult, RegressionResult

    if isinstance(result, ClassificationResult):
        rows = [
            ("clips", result.clip_top1, result.clip_top5),
            ("videos", result.video_top1, result.video_top5),
            ("mean over classes", result.video.mean_class, None),
            ("one guess for all", result.video.guess_top1, None),
        ]
        table = Table("", "top-1", *(["top-5"] if result.has_top5 else []))
        for name, *shares in rows:
            table.add_row(
                name, *("" if share is None else f"{share:.4f}" for share in shares[: len(table.columns) - 1])
            )
        out.print(table)
        _print_mistakes(result, classes)
        error = result.video.calibration.expected_error
        out.print(
            f"expected calibration error: {error:.4f} (how far probabilities are from the share that is right)",
            highlight=False,
        )
    elif isinstance(result, MultilabelResult):
        video = result.video
        table = Table("", "mAP", "F1 at 0.5", "Hit@1")
        table.add_row("videos", f"{video.mean_average_precision:.4f}", f"{video.f1:.4f}", f"{video.hit1:.4f}")
        table.add_row("one guess for all", f"{video.guess_map:.4f}", "", f"{video.guess_hit1:.4f}")
        out.print(table)
        known = [entry for entry in video.per_class if entry.average_precision is not None]
        weakest = sorted(known, key=lambda entry: (entry.average_precision, entry.name))[:_MOST_MISTAKES]
        for entry in weakest:
            line = f"{entry.name}: average precision {entry.average_precision:.4f} over {entry.num_videos} videos"
            out.print(escape(line), highlight=False, soft_wrap=True)
    elif isinstance(result, RegressionResult):
        errors = result.video
        table = Table("MAE", "RMSE", "R²", "MAE of one guess for all")
        r2 = "" if errors.r2 is None else f"{errors.r2:.4f}"
        table.add_row(f"{errors.mae:.4g}", f"{errors.rmse:.4g}", r2, f"{errors.guess_mae:.4g}")
        out.print(table)
    if result.chance is not None:
        out.print(f"[bold yellow]{escape(result.chance)}[/]", highlight=False)


def _print_mistakes(result: "ClassificationResult", classes: Sequence[str]) -> None:
    """Show which classes are taken for which, and where there are few of them all of the confusion matrix."""
    from corrnet_train.evaluation.accuracy import frequent_mistakes

    mistakes = frequent_mistakes(result.confusion)
    if not mistakes:
        return
    if len(classes) <= _MOST_IN_TABLE:
        # Rich drops the last columns where names leave no room for them.
        digits = max(len(str(count)) for row in result.confusion for count in row)
        room = max(8, out.width - len(classes) * (1 + max(2, digits)))
        table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim")
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=room)
        for number in range(1, 1 + len(classes)):
            table.add_column(str(number), justify="right", no_wrap=True)
        for number, (name, row) in enumerate(zip(classes, result.confusion, strict=True)):
            styles = ["bold" if place == number else "" if n else "dim" for place, n in enumerate(row)]
            cells = [Text(str(n), style) for n, style in zip(row, styles, strict=True)]
            table.add_row(escape(f"{number + 1} {name}"), *cells)
        out.print("videos by class (rows) and what they are taken for (columns):", table, sep="\n")
    for true, predicted, count in mistakes[:_MOST_MISTAKES]:
        line = (
            f"{classes[true]} taken for {classes[predicted]}: {count} of {sum(result.confusion[true])} videos"
        )
        out.print(escape(line), highlight=False, soft_wrap=True)


def _curves_of(checkpoint: Path) -> "Curves | None":
    """Return what the run of a checkpoint has logged; None where there is none of it."""
    from corrnet_train.checkpoint.folders import run_of
    from corrnet_train.report.results import Curves
    from corrnet_train.training.metrics_log import read_metrics

    run = run_of(checkpoint)
    if run is None:
        return None
    try:
        lines = read_metrics(run)
    except InputError as error:  # a damaged line: the evaluation counts all the same
        err.print(escape(f"without curves of the training: {error}"), highlight=False, soft_wrap=True)
        return None
    return Curves.from_metrics(lines) if lines else None
