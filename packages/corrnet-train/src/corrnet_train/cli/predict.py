"""`corrnet predict`."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from corrnet_train.cli.common import (
    EXIT_FAILED,
    EXIT_VIDEOS_LEFT_OUT,
    CheckpointOption,
    CheckpointOrVideo,
    Device,
    Like,
    NumClips,
    Overwrite,
    check_checkpoint,
    checkpoint_and_videos,
    err,
    escape,
    out,
    print_error,
    read_of_checkpoint,
    reports_errors,
    show_passed_over,
)
from corrnet_train.cli.encoding import has_character
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_output
from video_data.utils.messages import hide_secrets

if TYPE_CHECKING:  # imported where it is used: it takes a second
    from corrnet_train.inference.classifier import Prediction, VideoClassifier


@reports_errors
def predict(
    checkpoint: CheckpointOrVideo = None,
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            help="Videos: files, folders, URLs; with --hop also a stream or a camera, as camera:0 for the first (on "
            "Windows camera:NAME)."
        ),
    ] = None,
    num_clips: NumClips = None,
    top: Annotated[int, typer.Option(help="Classes to show.", min=1)] = 5,
    hop: Annotated[
        int | None,
        typer.Option(help="Slide a window over one video and predict every so many frames.", min=1),
    ] = None,
    smoothing: Annotated[
        float, typer.Option(help="With --hop: weight of the windows before, 0 to below 1.", min=0, max=0.999)
    ] = 0.0,
    annotate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --hop: write an mp4 with the classes drawn onto it."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all probabilities as JSON.")
    ] = None,
    device: Device = "auto",
    like: Like = None,
    overwrite: Overwrite = False,
    checkpoint_option: CheckpointOption = None,
) -> None:
    """Classify videos and show the most probable classes.

    The exit code is 3 when some videos could not be read, and 1 when none could. With --hop a window slides over one
    video, camera or stream, until it ends or Ctrl-C; without it a camera or a stream is refused.

    [bold]Examples[/]

    corrnet predict runs/first my.mp4 my-folder https://example.org/video.mp4

    corrnet predict runs/first camera:0 --hop 8 --smoothing 0.7

    corrnet predict runs/demo/corrnet_tiny my.mp4 --hop 4 --annotate out.mp4
    """
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.inference.inputs import check_window_source

    checkpoint, names = checkpoint_and_videos(checkpoint, videos, checkpoint_option)
    check_checkpoint(checkpoint, like)
    if not names:
        raise InputError(f"no videos are given beside {checkpoint}: corrnet predict CHECKPOINT VIDEO ...")
    if hop is None and annotate is not None:
        raise InputError("--annotate draws the classes of a sliding window: give --hop too")
    if hop is None and smoothing:
        raise InputError(f"--smoothing {smoothing:g} is for a sliding window: give --hop too")
    if hop is not None and num_clips is not None:
        raise InputError("--num-clips is for whole videos, --hop slides a window: give one of them")
    if hop is not None and len(names) != 1:
        raise InputError(f"--hop slides over one video, got {len(names)}")
    if hop is not None:
        check_window_source(names[0])
    inputs: list[str | Path] = [*read_of_checkpoint(checkpoint, like), *names]
    if annotate is not None:
        check_output(annotate, overwrite=overwrite, inputs=inputs, endings=(".mp4",))
    if json_file is not None:
        check_output(json_file, overwrite=overwrite, inputs=inputs)
    classifier = VideoClassifier.from_checkpoint(checkpoint, device=device, like=like)
    if hop is None:
        _predict_videos(classifier, names, num_clips, top, json_file)
    else:
        _predict_windows(classifier, names[0], hop, smoothing, annotate, top, json_file)


def _predict_videos(
    classifier: "VideoClassifier", names: list[str], num_clips: int | None, top: int, json_file: Path | None
) -> None:
    from corrnet_train.inference.inputs import find_videos
    from corrnet_train.utils.files import write_json
    from corrnet_train.utils.progress import progress_bar
    from video_data.datasets.finder import Tally

    tally = Tally()
    found = find_videos(names, tally)
    show_passed_over(tally.found(), err)
    unreadable = 0
    records: list[dict[str, Any]] = []
    with progress_bar(err) as bar:
        task = bar.add_task("predict", total=len(found), visible=len(found) > 1)
        for video in found:
            try:
                prediction = classifier.predict(video.name, num_clips=num_clips)
            except (InputError, OSError) as error:
                print_error(error)
                unreadable += 1
                records.append({"video": video.shown, "error": hide_secrets(error)})
            else:
                out.print(f"[bold]{escape(video.shown)}[/]", highlight=False, soft_wrap=True)
                out.print(_bars(prediction, top))
                records.append({"video": video.shown, **_record(prediction)})
            bar.advance(task)
    if json_file is not None:
        write_json(json_file, records)
    if unreadable:
        raise typer.Exit(EXIT_FAILED if unreadable == len(found) else EXIT_VIDEOS_LEFT_OUT)


def _predict_windows(
    classifier: "VideoClassifier",
    source: str,
    hop: int,
    smoothing: float,
    annotate: Path | None,
    top: int,
    json_file: Path | None,
) -> None:
    from corrnet_train.inference.stream import classify_stream
    from corrnet_train.report.figures.video import AnnotatedVideo
    from corrnet_train.utils.files import write_json

    records = []
    interrupted = False
    with nullcontext() if annotate is None else AnnotatedVideo(annotate, top=min(top, 3)) as video:
        on_frame = None if video is None else video.add_frame
        windows = classify_stream(classifier, source, hop=hop, smoothing=smoothing, on_frame=on_frame)
        try:
            for window in windows:
                pairs = list(zip(window.prediction.classes, window.prediction.texts, strict=True))[:top]
                ranked = "  ".join(f"{name} {text}" for name, text in pairs)
                moment = f"frame {window.frame}" if window.seconds is None else f"{window.seconds:8.2f} s"
                line = f"{moment}  {ranked}  ({1000 * window.latency:.0f} ms)"
                out.print(escape(line), highlight=False, soft_wrap=True)
                records.append(
                    {"frame": window.frame, "seconds": window.seconds, **_record(window.prediction)}
                )
        except KeyboardInterrupt:  # the way to end a camera
            interrupted = True
            windows.close()
    if json_file is not None:
        write_json(json_file, records)
    if not records and not interrupted:
        raise InputError(
            f"{hide_secrets(source)} is shorter than a clip, which takes {classifier.clip.length}; leave --hop out"
        )


def _record(prediction: "Prediction") -> dict[str, Any]:
    """Return a prediction as JSON has it."""
    if prediction.task == "regression":
        return dict(zip(prediction.classes, prediction.scores, strict=True))
    return {"probabilities": dict(zip(prediction.classes, prediction.scores, strict=True))}


def _bars(prediction: "Prediction", top: int) -> Table:
    classes = prediction.classes[:top]
    table = Table(box=None, show_header=False, padding=(0, 1))
    width = max(10, min(40, out.width - max(map(len, classes)) - 12))
    block = "█" if has_character(out.file, "█") else "#"
    for name, score in zip(classes, prediction.scores, strict=False):
        if prediction.task == "regression":
            table.add_row(escape(name), *prediction.texts)
        else:
            table.add_row(escape(name), f"{score:6.1%}", "[cyan]" + block * round(score * width) + "[/]")
    return table
