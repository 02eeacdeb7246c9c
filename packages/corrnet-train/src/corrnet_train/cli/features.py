"""`corrnet features`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from corrnet_train.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_VIDEOS_LEFT_OUT,
    CheckpointOption,
    CheckpointOrVideo,
    DecodingWorkers,
    Device,
    Like,
    NumClips,
    Overwrite,
    check_checkpoint,
    checkpoint_and_videos,
    decoding_workers,
    err,
    escape,
    out,
    read_of_checkpoint,
    reports_errors,
    show_passed_over,
)
from corrnet_train.utils.errors import InputError

if TYPE_CHECKING:  # imported where it is used: it takes a second
    from corrnet_train.inference.feature_file import VideoRecord


@reports_errors
def features(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A file .npz or .safetensors; its index has the same name with .csv."
        ),
    ],
    checkpoint: CheckpointOrVideo = None,
    videos: Annotated[
        list[str] | None, typer.Argument(help="Videos: files, folders, folders of frames, URLs.")
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Take a split of what `corrnet pack` wrote, there or behind a URL."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="With --shards: which split.")] = "val",
    num_clips: NumClips = None,
    per_clip: Annotated[
        bool,
        typer.Option("--per-clip", help="A row for each clip, in place of the mean over a video's clips."),
    ] = False,
    stage: Annotated[
        Literal["res2", "res3", "res4", "res5"],
        typer.Option(help="Stage whose output is averaged over time and space."),
    ] = "res5",
    num_workers: DecodingWorkers = None,
    device: Device = "auto",
    like: Like = None,
    overwrite: Overwrite = False,
    checkpoint_option: CheckpointOption = None,
) -> None:
    """Write the features of videos to a file: what the model gives its classifier, 2048 values for CorrNet-26.

    The file holds the array `features`, float32, a row for each video or clip. Its index, a csv, has a line for each
    row with the video, its class, and the clip's first frame and time. Stopped or killed, the same command goes on
    where it was. Videos that cannot be read are named in the index and on the terminal; then the exit code is 3, and 1
    when none could be read.

    [bold]Examples[/]

    corrnet features runs/first my.mp4 my-folder -o features.npz

    corrnet features runs/first --shards data/shards --split val -o val.npz

    corrnet features runs/first my-folder --per-clip --stage res4 -o clips.npz
    """
    checkpoint, names = checkpoint_and_videos(checkpoint, videos, checkpoint_option)
    if bool(names) == (shards is not None):
        raise InputError("give videos, or --shards FOLDER with --split")
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.inference.feature_file import check_path
    from corrnet_train.inference.features import PackedSplit, extract_features, num_videos
    from corrnet_train.inference.inputs import find_videos
    from corrnet_train.utils.progress import progress_bar
    from video_data import open_shards
    from video_data.datasets.finder import Tally

    check_checkpoint(checkpoint, like)
    check_path(
        output, overwrite=overwrite, inputs=[*read_of_checkpoint(checkpoint, like), *names, shards or ""]
    )
    tally = Tally()
    found = find_videos(names, tally) if names else PackedSplit(open_shards(shards or ""), split)
    show_passed_over(tally.found(), err)
    total = num_videos(found)
    classifier = VideoClassifier.from_checkpoint(checkpoint, device=device, like=like)
    with progress_bar(err) as bar:
        task = bar.add_task("features", total=total)

        def on_video(num_done: int, record: "VideoRecord | None") -> None:
            bar.update(task, completed=num_done)
            if record is None and num_done:
                err.print(f"{num_done} of {total} videos are there already", highlight=False)
            if record is not None and record.error:
                _print_unreadable(record)

        try:
            result = extract_features(
                classifier,
                found,
                output,
                num_clips=num_clips,
                per_clip=per_clip,
                stage=stage,
                num_workers=decoding_workers(num_workers),
                overwrite=overwrite,
                on_video=on_video,
            )
        except KeyboardInterrupt:
            err.print("interrupted; the same command goes on where it was")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    for path, what in (
        (result.path, f"{result.num_rows} x {result.num_features}"),
        (result.index_path, "index"),
    ):
        out.print(escape(f"{what}: {path}"), highlight=False, soft_wrap=True)
    if result.unreadable:
        err.print(
            f"{len(result.unreadable)} of {total} videos cannot be read; the index names them",
            highlight=False,
        )
        raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)


def _print_unreadable(record: "VideoRecord") -> None:
    error = record.error if record.video in record.error else f"{record.video}: {record.error}"
    err.print(f"[bold red]unreadable:[/] {escape(error)}", highlight=False, soft_wrap=True)
