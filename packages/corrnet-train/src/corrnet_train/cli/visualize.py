"""`corrnet visualize`: what a model has learned, and what it sees."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrnet_train.cli.common import (
    EXIT_INTERRUPTED,
    Checkpoint,
    Device,
    Layers,
    Like,
    Overwrite,
    check_checkpoint,
    err,
    escape,
    out,
    read_of_checkpoint,
    reports_errors,
)
from corrnet_train.utils.files import check_output
from video_data.utils.messages import hide_secrets

if TYPE_CHECKING:  # imported where it is used: it takes a second
    from corrnet_train.analysis.motion import MotionField

visualize_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Draw learned filters, or the motion that a model matches.",
)


@visualize_app.command()
@reports_errors
def filters(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file .html or .png.")] = Path(
        "filters.html"
    ),
    layers: Layers = None,
    max_frames: Annotated[int, typer.Option(help="Frames to show.", min=1)] = 8,
    max_channels: Annotated[int, typer.Option(help="Channels to show.", min=1)] = 8,
    like: Like = None,
    overwrite: Overwrite = False,
) -> None:
    r"""Draw the learned correlation filters, as in the paper's Figure 4.

    Each correlation layer is a grid: rows are frames, columns channels, and each tile the K x K weights of one filter
    with an arrow to the largest. Without --layer all are drawn.

    [bold]Examples[/]

    corrnet visualize filters runs/first -o filters.html

    corrnet visualize filters runs/first --layer res2.corr --max-frames 32 \
      --max-channels 64 -o res2.png
    """
    from corrnet_train.analysis.correlation_layers import chosen_layers
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.report.pages.filters import SUFFIXES, write_filters

    check_checkpoint(checkpoint, like)
    check_output(output, overwrite=overwrite, inputs=read_of_checkpoint(checkpoint, like), endings=SUFFIXES)
    classifier = VideoClassifier.from_checkpoint(checkpoint, device="cpu", like=like)
    shown = chosen_layers(classifier.video_model, layers or [])
    write_filters(
        shown, output, title=f"Filters of {checkpoint}", max_frames=max_frames, max_channels=max_channels
    )
    names = ", ".join(entry.name for entry in shown)
    out.print(escape(f"filters of {names}: {output}"), highlight=False, soft_wrap=True)


@visualize_app.command()
@reports_errors
def motion(
    checkpoint: Checkpoint,
    video: Annotated[
        str,
        typer.Argument(
            help="A video file, a folder of frames, a stream, or a camera, as camera:0 for the first (on Windows "
            "camera:NAME)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file .mp4, .png or .html.")] = Path(
        "motion.mp4"
    ),
    layers: Layers = None,
    max_frames: Annotated[int, typer.Option(help="Frames of the video to look at.", min=2)] = 300,
    device: Device = "auto",
    like: Like = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the motion that a correlation layer matches, as arrows and colors over the frames.

    The layer's features of each frame are compared with those of the frame before, as far as its window reaches; the
    best match at each position is drawn. Only one --layer is allowed; without it the first one is taken. A video shows
    every frame, a picture or a page eight of them. Ctrl-C ends it with the frames until then.

    [bold]Examples[/]

    corrnet visualize motion runs/first my.mp4 -o motion.mp4

    corrnet visualize motion runs/first my.mp4 --layer res3.corr -o motion.html
    """
    from corrnet_train.analysis.correlation_layers import chosen_layers
    from corrnet_train.analysis.motion import count_frames, motion_fields
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.inference.inputs import check_window_source
    from corrnet_train.report.pages.motion import SUFFIXES, write_motion
    from corrnet_train.utils.interrupt import interrupt_flag
    from corrnet_train.utils.progress import progress_bar

    if layers and len(layers) > 1:
        raise typer.BadParameter(f"motion is drawn of one --layer, got {', '.join(layers)}")
    check_checkpoint(checkpoint, like)
    check_window_source(video)
    check_output(
        output, overwrite=overwrite, inputs=[*read_of_checkpoint(checkpoint, like), video], endings=SUFFIXES
    )
    classifier = VideoClassifier.from_checkpoint(checkpoint, device=device, like=like)
    chosen = chosen_layers(classifier.video_model, layers or [])[0]
    with progress_bar(err) as bar, interrupt_flag() as flag:
        task = bar.add_task("frames", total=min(max_frames, count_frames(video) or max_frames))

        def until_interrupted() -> Iterator["MotionField"]:
            for field in motion_fields(classifier, video, chosen, max_frames=max_frames):
                yield field
                bar.update(task, completed=field.number + 1)
                if flag.is_set:
                    return

        write_motion(until_interrupted(), chosen, output, title=f"Motion in {Path(hide_secrets(video)).name}")
    out.print(escape(f"motion by {chosen.name}: {output}"), highlight=False, soft_wrap=True)
    if flag.is_set:
        err.print("interrupted; the file has the frames until then")
        raise typer.Exit(EXIT_INTERRUPTED)
