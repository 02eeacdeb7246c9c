"""`corrnet demo`: from generated videos to trained, compared and explained models."""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from corrnet_models import count_parameters
from corrnet_train.analysis.correlation_layers import correlation_layers
from corrnet_train.config.load import load_config
from corrnet_train.config.schema import RunConfig
from corrnet_train.evaluation.evaluate import ClassificationResult, evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.networks.build import build_from_config
from corrnet_train.networks.cost import clip_gmacs
from corrnet_train.report.pages.comparison import write_report
from corrnet_train.report.results import Curves, DatasetSummary, ModelResult, Results
from corrnet_train.report.samples import SampleView
from corrnet_train.report.table import results_table
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.trainer import Trainer, TrainResult
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import write_text
from corrnet_train.utils.progress import progress_bar
from video_data import (
    MotionBenchConfig,
    PackOptions,
    ShardSet,
    decode_views,
    generate_motionbench,
    open_shards,
    pack_csv,
)

MODELS = ("r2d_tiny", "r2plus1d_tiny", "corrnet_tiny")
_NUM_SAMPLES = 4
_QUICK_DATA = MotionBenchConfig(num_train=64, num_val=16, num_test=16)
_QUICK_OVERRIDES = [
    "optim.epochs=2", "optim.batch_size=16", "eval.every_epochs=1", "eval.num_clips=2", "run.log_every=2",
]  # fmt: skip


@dataclass(frozen=True)
class DemoOutcome:
    """What a demo left behind.

    Attributes:
        results: The comparison, as written to `results.json`; None when a training was interrupted.
        report: Path of `report.html`.
        checkpoint: Last checkpoint of the last model trained.
        example: Path of a test video.
    """

    results: Results | None
    report: Path
    checkpoint: Path
    example: Path


def run_demo(folder: Path, *, quick: bool = False, seed: int = 0, console: Console) -> DemoOutcome:
    """Generate MotionBench, pack it, train and test the tiny models, and write the comparison.

    Finished parts are kept: an interrupted demo goes on where it stopped.

    Args:
        folder: Where everything is written.
        quick: A few videos and steps, to see that everything works; the accuracies mean nothing.
        seed: Seed of weights, order and augmentation.
        console: Where progress is shown.

    Raises:
        ValueError: `folder` holds a demo with other settings, or results of something else.
    """
    start = time.perf_counter()
    if not (folder / "data" / "videos").exists():  # no demo has begun here
        for name in ("results.json", "report.html"):
            if (folder / name).exists():
                raise InputError(f"{folder / name} exists and is of no demo: choose another folder")
    example, shards = _prepare_data(folder, _QUICK_DATA if quick else MotionBenchConfig())
    trained: list[tuple[RunConfig, TrainResult]] = []
    report = folder / "report.html"
    for name in MODELS:
        config = load_config(
            "motionbench",
            [
                f"model.name={name}",
                f"data.shards={shards.path}",
                f"run.dir={folder / name}",
                f"run.seed={seed}",
                *(_QUICK_OVERRIDES if quick else []),
            ],
        )
        result = Trainer(config, requeue=True, console=console).run()
        if not result.finished:
            return DemoOutcome(None, report, result.checkpoint, example)
        trained.append((config, result))

    classifiers = {
        config.model.name: VideoClassifier.from_checkpoint(result.checkpoint) for config, result in trained
    }
    models = [
        _model_result(config, result, _test(classifiers[config.model.name], shards, config, console))
        for config, result in trained
    ]
    results = Results(
        title="Learning motion by correlation: three tiny models on MotionBench",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=_environment(),
        dataset=DatasetSummary(
            name="MotionBench",
            manifest_hash=shards.manifest_hash,
            classes=list(shards.classes),
            num_train=shards.num_samples("train"),
            num_test=shards.num_samples("test"),
            num_clips=trained[0][0].eval.num_clips,
        ),
        seed=seed,
        seconds_total=time.perf_counter() - start,
        models=models,
    )
    write_text(folder / "results.json", results.model_dump_json(indent=2) + "\n")
    filters = {name: _first_filters(classifier) for name, classifier in classifiers.items()}
    write_report(
        results,
        report,
        filters={name: weight for name, weight in filters.items() if weight is not None},
        samples=list(_samples(shards, classifiers, num_clips=trained[0][0].eval.num_clips)),
    )
    console.print(results_table(results))
    return DemoOutcome(results, report, trained[-1][1].checkpoint, example)


def _prepare_data(folder: Path, config: MotionBenchConfig) -> tuple[Path, ShardSet]:
    """Return a test video and the packed shards, made unless they are there."""
    num_workers = os.cpu_count() or 1
    videos, packed = folder / "data" / "videos", folder / "data" / "shards"
    listing = generate_motionbench(videos, config, num_workers=num_workers)
    if not (packed / "manifest.json").exists():
        pack_csv(listing, packed, options=PackOptions(mode="copy", num_workers=num_workers))
    example = min((videos / "videos" / "test").rglob("*.mp4"))
    return example, open_shards(packed)


def _test(
    classifier: VideoClassifier, shards: ShardSet, config: RunConfig, console: Console
) -> ClassificationResult:
    with progress_bar(console) as bar:
        task = bar.add_task(f"test {config.model.name}", total=shards.num_samples("test"))
        result = evaluate(
            classifier,
            shards,
            "test",
            num_clips=config.eval.num_clips,
            batch_size=config.eval.batch_size,
            num_workers=config.data.num_workers,
            on_batch=lambda n: bar.advance(task, n),
        )
    assert isinstance(result, ClassificationResult)
    return result


def _model_result(config: RunConfig, trained: TrainResult, tested: ClassificationResult) -> ModelResult:
    model = build_from_config(config, len(tested.confusion))
    curves = Curves.from_metrics(read_metrics(config.run.dir))
    return ModelResult(
        name=config.model.name,
        run_dir=config.run.dir.name,
        params=count_parameters(model),
        gmacs=clip_gmacs(model, config.data.clip),
        clip_top1=tested.clip_top1,
        video_top1=tested.video_top1,
        clip_top5=tested.clip_top5,
        video_top5=tested.video_top5,
        num_videos=tested.num_videos,
        clips_per_second=trained.step * config.optim.batch_size / trained.train_seconds,
        train_seconds=trained.train_seconds,
        num_steps=trained.step,
        batch_size=config.optim.batch_size,
        confusion=tested.confusion,
        fingerprint=dict(tested.fingerprint),
        curve=curves.curve,
        evals=curves.evals,
    )


def _first_filters(classifier: VideoClassifier) -> Tensor | None:
    """Return the filters [L, C, K, K] of the first correlation layer; None in a model without."""
    layers = correlation_layers(classifier.video_model)
    return layers[0].filters if layers else None


def _samples(
    shards: ShardSet, classifiers: dict[str, VideoClassifier], *, num_clips: int
) -> Iterator[SampleView]:
    """Test videos of different classes with every model's predictions."""
    seen: set[int] = set()
    for index, record in enumerate(shards.samples("test")):
        if record.label in seen:
            continue
        seen.add(record.label)
        video = shards.read("test", index)
        predictions = {}
        for name, classifier in classifiers.items():
            prediction = classifier.predict(video, num_clips=num_clips)
            predictions[name] = list(zip(prediction.classes, prediction.scores, strict=True))[:3]
        frames = decode_views(video, next(iter(classifiers.values())).clip, 1)[0].permute(1, 2, 3, 0)
        yield SampleView(
            key=record.key, frames=frames, true_class=shards.classes[record.label], predictions=predictions
        )
        if len(seen) == _NUM_SAMPLES:
            return


def _environment() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
    }
