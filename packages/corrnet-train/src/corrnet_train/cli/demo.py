"""`corrnet demo` and `corrnet motionbench`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from corrnet_train.cli.common import EXIT_INTERRUPTED, Workers, err, escape, out, reports_errors, workers
from corrnet_train.cli.options import takes_model
from corrnet_train.cli.predict import predict
from video_data.datasets.motionbench_config import MotionBenchConfig

_VIDEOS = ("level", "num_train", "num_val", "num_test", "size", "num_frames", "seed", "displacement")


@reports_errors
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
        escape(f"results: {folder / 'results.json'}\nreport:  {outcome.report}"),
        highlight=False,
        soft_wrap=True,
    )
    err.print(
        escape(f"$ {shlex.join(['corrnet', 'predict', str(outcome.checkpoint), str(outcome.example)])}"),
        highlight=False,
        soft_wrap=True,
    )
    predict(str(outcome.checkpoint), [str(outcome.example)])


@reports_errors
@takes_model("config", MotionBenchConfig, fields=_VIDEOS)
def motionbench(
    dest: Annotated[Path, typer.Argument(help="Folder for the videos and their lists.")],
    config: MotionBenchConfig,
    num_workers: Workers = None,
) -> None:
    """Generate MotionBench: H.264 videos whose class is how something moves, and nothing else.

    README.md in the folder says what is in them.

    [bold]Example[/]

    corrnet motionbench data/motionbench

    corrnet motionbench data/motions --level medium --size 64 --displacement

    corrnet pack csv data/motionbench/motionbench.csv data/shards
    """
    from video_data import generate_motionbench

    out.print(str(generate_motionbench(dest, config, num_workers=workers(num_workers))), soft_wrap=True)
