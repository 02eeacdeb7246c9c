"""The `corrnet` command."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from corrnet_train.malloc import keep_freed_memory
from video_data import (
    MotionBenchConfig,
    PackOptions,
    PackReport,
    generate_motionbench,
    open_shards,
    pack_csv,
    pack_folder,
)

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_VIDEOS_LEFT_OUT = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Learn motion in video by correlation: pack videos, train CorrNet, evaluate and use it.\n\n"
    "Exit codes: 0 done, 1 failed while working, 2 bad input, 3 packed but some videos were left out, "
    "130 interrupted.",
)
pack_app = typer.Typer(no_args_is_help=True, help="Pack videos into shards for training.")
app.add_typer(pack_app, name="pack")

out = Console()
err = Console(stderr=True)
_BENCH = MotionBenchConfig()
F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Runs the command line."""
    keep_freed_memory()
    app()


def _reports_errors(command: F) -> F:
    """Turns what users can cause into one message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            _print_error(error)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except (OSError, RuntimeError) as error:
            # typer.Exit is a RuntimeError of click.
            if isinstance(error, typer.Exit):
                raise
            _print_error(error)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            err.print("interrupted; the same command starts again")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped  # type: ignore[return-value]


def _print_error(error: Exception) -> None:
    err.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run (its last.pt).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Mode = Annotated[
    Literal["reencode", "copy"],
    typer.Option(help="reencode: H.264 made for fast random access; copy: keep the original bytes."),
]
ShortSide = Annotated[int, typer.Option(help="Longest allowed shorter side when re-encoding, in pixels.")]
ShardSize = Annotated[int, typer.Option(help="Most videos in a shard.")]
Workers = Annotated[int, typer.Option(help="Processes; 0 means one for each core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the shards in DEST.")]


@app.command()
@_reports_errors
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
            f"stopped after step {result.step}; continue with: {_escape(command)}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    err.print(f"done: {result.checkpoint}", highlight=False, soft_wrap=True)


@app.command("eval")
@_reports_errors
def evaluate_command(
    checkpoint: Checkpoint,
    shards: Annotated[Path, typer.Argument(help="Folder written by `corrnet pack`.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "val",
    num_clips: Annotated[int, typer.Option(help="Clips spaced uniformly over each video.", min=1)] = 10,
    batch_size: Annotated[int, typer.Option(help="Videos a step.", min=1)] = 4,
    num_workers: Annotated[int, typer.Option(help="Decoding processes.", min=0)] = 1,
    device: Device = "auto",
    output: Annotated[
        Path | None, typer.Option(help="Write the result with the confusion matrix as JSON.")
    ] = None,
) -> None:
    """Measure accuracy over a split: clip and video top-1 and top-5, each video counted once.

    [bold]Example[/]

    corrnet eval runs/demo/corrnet_tiny runs/demo/data/shards --split test
    """
    from corrnet_train.evaluate import evaluate
    from corrnet_train.files import write_json
    from corrnet_train.inference import ClipClassifier
    from corrnet_train.progress import progress_bar

    shard_set = open_shards(shards)
    classifier = ClipClassifier.from_checkpoint(_checkpoint_file(checkpoint), device=device)
    with progress_bar(err) as bar:
        task = bar.add_task(f"eval {split}", total=shard_set.num_samples(split))
        result = evaluate(
            classifier,
            shard_set,
            split,
            num_clips=num_clips,
            batch_size=batch_size,
            num_workers=num_workers,
            on_batch=lambda n: bar.advance(task, n),
        )
    table = Table("", "top-1", "top-5")
    table.add_row("clip", f"{result.clip_top1:.4f}", f"{result.clip_top5:.4f}")
    table.add_row("video", f"{result.video_top1:.4f}", f"{result.video_top5:.4f}")
    out.print(table)
    for name, value in result.fingerprint.items():
        out.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    if output is not None:
        names = ("num_videos", "num_clips", "clip_top1", "clip_top5", "video_top1", "video_top5", "confusion")
        write_json(
            output, {name: getattr(result, name) for name in names} | {"fingerprint": result.fingerprint}
        )


@app.command()
@_reports_errors
def predict(
    videos: Annotated[list[Path], typer.Argument(help="Video files.")],
    checkpoint: Annotated[
        Path, typer.Option(help="A checkpoint, or the folder of a run (its last.pt).")
    ] = Path("runs/demo/corrnet_tiny"),
    num_clips: Annotated[int, typer.Option(help="Clips spaced uniformly over the video.", min=1)] = 10,
    top: Annotated[int, typer.Option(help="Classes to show.", min=1)] = 5,
    device: Device = "auto",
) -> None:
    """Classify videos and show the most probable classes.

    [bold]Example[/]

    corrnet predict my.mp4 --checkpoint runs/first
    """
    from corrnet_train.inference import ClipClassifier

    classifier = ClipClassifier.from_checkpoint(_checkpoint_file(checkpoint), device=device)
    unreadable = 0
    for video in videos:
        try:
            prediction = classifier.predict(video, num_clips=num_clips)
        except (ValueError, OSError) as error:
            _print_error(error)
            unreadable += 1
            continue
        out.print(f"[bold]{_escape(str(video))}[/]", highlight=False, soft_wrap=True)
        out.print(_bars(prediction.classes[:top], prediction.probabilities[:top]))
    if unreadable:
        raise typer.Exit(EXIT_FAILED)


@app.command()
@_reports_errors
def models(
    names: Annotated[list[str] | None, typer.Argument(help="Names or patterns; none shows all.")] = None,
    num_frames: Annotated[
        list[int] | None, typer.Option(help="Clip lengths to count; may be given more than once.")
    ] = None,
) -> None:
    """Show the models: parameters and GMACs of a clip beside the paper's figure.

    GMACs (multiply-accumulates / 1e9) are counted by torch's FlopCounterMode and by fvcore; without
    --num-frames at the clip lengths for which the paper prints a figure, else at the model's own.

    [bold]Examples[/]

    corrnet models

    corrnet models 'corrnet*' --num-frames 32
    """
    from corrnet_models import complexity_table, list_models, model_info

    chosen: list[str] = []
    for pattern in names or ["*"]:
        found = list_models(pattern)
        if not found:
            raise ValueError(f"no model matches {pattern!r}; there are {', '.join(list_models())}")
        chosen += found
    table = Table("model", "frames", "size", "params (M)", "GMACs", "fvcore", "paper", "difference")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in chosen:
        info = model_info(name)
        lengths = num_frames or sorted(info.paper_gmacs) or [info.config.num_frames]
        for row in complexity_table([name], num_frames=lengths):
            digits = 2 if row.gmacs >= 1 else 4
            table.add_row(
                row.name,
                str(row.num_frames),
                f"{row.resolution}",
                f"{row.num_parameters / 1e6:.2f}",
                f"{row.gmacs:.{digits}f}",
                "" if row.gmacs_fvcore is None else f"{row.gmacs_fvcore:.{digits}f}",
                "" if row.paper_gmacs is None else f"{row.paper_gmacs:g}",
                "" if row.difference is None else f"{row.difference:+.2f}",
            )
    out.print(table)


@app.command()
@_reports_errors
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path("runs/demo"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Few videos and steps: shows that it works, accuracies mean nothing."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
) -> None:
    """Train R2D, R(2+1)D and CorrNet on generated videos and compare them.

    Generates MotionBench (videos whose class is only the motion), packs it, trains three tiny models with the
    same budget, tests them on held-out videos and writes results.json and report.html. Run again after an
    interrupt, it goes on where it stopped.
    """
    from corrnet_train.demo import run_demo

    outcome = run_demo(folder, quick=quick, seed=seed, console=err)
    if outcome.results is None:
        err.print("stopped; the same command continues")
        raise typer.Exit(EXIT_INTERRUPTED)
    err.print(
        f"results: {folder / 'results.json'}\nreport:  {outcome.report}", highlight=False, soft_wrap=True
    )
    err.print(
        f"$ corrnet predict {outcome.example} --checkpoint {outcome.checkpoint}",
        highlight=False,
        soft_wrap=True,
    )
    predict([outcome.example], checkpoint=outcome.checkpoint)


@app.command()
@_reports_errors
def motionbench(
    dest: Annotated[Path, typer.Argument(help="Folder for the videos and their lists.")],
    num_train: Annotated[int, typer.Option(help="Training videos.")] = _BENCH.num_train,
    num_val: Annotated[int, typer.Option(help="Validation videos.")] = _BENCH.num_val,
    num_test: Annotated[int, typer.Option(help="Test videos.")] = _BENCH.num_test,
    size: Annotated[int, typer.Option(help="Side of the picture in pixels.")] = _BENCH.size,
    num_frames: Annotated[int, typer.Option(help="Frames of a video.")] = _BENCH.num_frames,
    seed: Annotated[int, typer.Option(help="Seed of all appearances.")] = 0,
    num_workers: Workers = 0,
) -> None:
    """Generate MotionBench: H.264 videos whose class is only the direction of motion.

    [bold]Example[/]

    corrnet motionbench data/motionbench && corrnet pack csv data/motionbench/motionbench.csv data/shards
    """
    config = MotionBenchConfig(
        num_train=num_train, num_val=num_val, num_test=num_test, size=size, num_frames=num_frames, seed=seed
    )
    out.print(str(generate_motionbench(dest, config, num_workers=_workers(num_workers))), soft_wrap=True)


@pack_app.command("folder")
@_reports_errors
def pack_folder_command(
    src: Annotated[Path, typer.Argument(help="Folder of SPLIT/CLASS/VIDEO or CLASS/VIDEO.")],
    dest: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    mode: Mode = "reencode",
    short_side: ShortSide = 256,
    shard_size: ShardSize = 256,
    num_workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Pack a folder with one subfolder a class.

    Videos that cannot be read are listed in manifest.json with the reason; then the exit code is 3.

    [bold]Example[/]

    corrnet pack folder my-videos data/shards
    """
    options = _pack_options(mode, short_side, shard_size, num_workers, overwrite)
    _summarise(pack_folder(src, dest, options=options))


@pack_app.command("csv")
@_reports_errors
def pack_csv_command(
    src: Annotated[Path, typer.Argument(help="A csv with the header path,label[,split].")],
    dest: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths refer to; default: that of the csv.")
    ] = None,
    mode: Mode = "reencode",
    short_side: ShortSide = 256,
    shard_size: ShardSize = 256,
    num_workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Pack the videos that a csv lists.

    Videos that cannot be read are listed in manifest.json with the reason; then the exit code is 3.

    [bold]Example[/]

    corrnet pack csv videos.csv data/shards --root /data/videos
    """
    options = _pack_options(mode, short_side, shard_size, num_workers, overwrite)
    _summarise(pack_csv(src, dest, root=root, options=options))


def _pack_options(
    mode: Literal["reencode", "copy"], short_side: int, shard_size: int, num_workers: int, overwrite: bool
) -> PackOptions:
    return PackOptions(
        mode=mode,
        short_side=short_side,
        shard_size=shard_size,
        num_workers=_workers(num_workers),
        overwrite=overwrite,
    )


def _workers(num_workers: int) -> int:
    return num_workers or os.cpu_count() or 1


def _summarise(report: PackReport) -> None:
    out.print(f"packed {report.num_packed} videos: {report.manifest}", highlight=False, soft_wrap=True)
    if not report.dropped:
        return
    err.print(f"left out {len(report.dropped)} videos (all are listed in the manifest):", highlight=False)
    for source, reason in report.dropped[:10]:
        err.print(f"  {_escape(source)}: {_escape(reason)}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)


def _checkpoint_file(path: Path) -> Path:
    return path / "checkpoints" / "last.pt" if path.is_dir() else path


def _bars(classes: list[str], probabilities: list[float], width: int = 40) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, probability in zip(classes, probabilities, strict=True):
        table.add_row(
            _escape(name), f"{probability:6.1%}", "[cyan]" + "█" * round(probability * width) + "[/]"
        )
    return table


if __name__ == "__main__":
    main()
