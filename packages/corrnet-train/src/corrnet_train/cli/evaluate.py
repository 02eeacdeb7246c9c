"""`corrnet eval` and `corrnet predict`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from corrnet_train.cli.common import (
    CHECKPOINT_HELP,
    EXIT_FAILED,
    Checkpoint,
    Device,
    checkpoint_file,
    err,
    escape,
    out,
    print_error,
    reports_errors,
)
from video_data import open_shards


@reports_errors
def evaluate_command(
    checkpoint: Checkpoint,
    shards: Annotated[Path, typer.Argument(help="Folder written by `corrnet pack`.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "val",
    num_clips: Annotated[int, typer.Option(help="Clips spaced uniformly over each video.", min=1)] = 10,
    num_crops: Annotated[
        int, typer.Option(help="1: the centre of the picture; 3: three places along its longer side.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(help="Videos a step.", min=1)] = 4,
    num_workers: Annotated[int, typer.Option(help="Decoding processes.", min=0)] = 1,
    device: Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write result.json, predictions.csv, classes.csv and report.html there."
        ),
    ] = None,
) -> None:
    """Measure accuracy over a split: of views, videos and classes, with calibration; each video is counted once.

    The paper averages over 10 clips of each video, and over 30 for its best figures.

    [bold]Examples[/]

    corrnet eval runs/demo/corrnet_tiny runs/demo/data/shards --split test

    corrnet eval runs/first data/shards --num-clips 10 --num-crops 3 --output runs/first/eval
    """
    from corrnet_train.evaluate import evaluate
    from corrnet_train.inference import ClipClassifier
    from corrnet_train.progress import progress_bar

    shard_set = open_shards(shards)
    classifier = ClipClassifier.from_checkpoint(checkpoint_file(checkpoint), device=device)
    with progress_bar(err) as bar:
        task = bar.add_task(f"eval {split}", total=shard_set.num_samples(split))
        result = evaluate(
            classifier,
            shard_set,
            split,
            num_clips=num_clips,
            num_crops=num_crops,
            batch_size=batch_size,
            num_workers=num_workers,
            on_batch=lambda n: bar.advance(task, n),
        )
    table = Table("", "top-1", "top-5")
    table.add_row("clip", f"{result.clip_top1:.4f}", f"{result.clip_top5:.4f}")
    table.add_row("video", f"{result.video_top1:.4f}", f"{result.video_top5:.4f}")
    table.add_row("mean over classes", f"{result.video.mean_class:.4f}", "")
    out.print(table)
    out.print(f"expected calibration error: {result.video.calibration.expected_error:.4f}", highlight=False)
    for name, value in result.fingerprint.items():
        out.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    if output is not None:
        from corrnet_train.report.evaluation import write_evaluation

        write_evaluation(result, classifier.classes, output, title=f"{checkpoint} on {split}")
        out.print(f"report: {output / 'report.html'}", highlight=False, soft_wrap=True)


@reports_errors
def predict(
    videos: Annotated[list[Path], typer.Argument(help="Video files.")],
    checkpoint: Annotated[Path, typer.Option(help=CHECKPOINT_HELP)] = Path("runs/demo/corrnet_tiny"),
    num_clips: Annotated[int, typer.Option(help="Clips spaced uniformly over the video.", min=1)] = 10,
    top: Annotated[int, typer.Option(help="Classes to show.", min=1)] = 5,
    device: Device = "auto",
) -> None:
    """Classify videos and show the most probable classes.

    [bold]Example[/]

    corrnet predict my.mp4 --checkpoint runs/first
    """
    from corrnet_train.inference import ClipClassifier

    classifier = ClipClassifier.from_checkpoint(checkpoint_file(checkpoint), device=device)
    unreadable = 0
    for video in videos:
        try:
            prediction = classifier.predict(video, num_clips=num_clips)
        except (ValueError, OSError) as error:
            print_error(error)
            unreadable += 1
            continue
        out.print(f"[bold]{escape(str(video))}[/]", highlight=False, soft_wrap=True)
        out.print(_bars(prediction.classes[:top], prediction.probabilities[:top]))
    if unreadable:
        raise typer.Exit(EXIT_FAILED)


def _bars(classes: list[str], probabilities: list[float], width: int = 40) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, probability in zip(classes, probabilities, strict=True):
        table.add_row(
            escape(name), f"{probability:6.1%}", "[cyan]" + "█" * round(probability * width) + "[/]"
        )
    return table
