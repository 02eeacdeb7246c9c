"""Accuracy over a split, with the fingerprint that makes the figure comparable (paper section 5)."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import av
import torch
from torch import Tensor

from corrnet_train.checkpoint.state import weights_hash
from corrnet_train.distributed.ranks import ONE_RANK, Ranks, on_every_rank
from corrnet_train.evaluation.accuracy import (
    VideoAccuracy,
    VideoPrediction,
    most_by_chance,
    video_accuracy,
)
from corrnet_train.evaluation.journal import EvalJournal, EvalPart
from corrnet_train.evaluation.scores import (
    LabelPrecision,
    ValueErrors,
    VideoScores,
    gain_over_median,
    label_precision,
    shuffled_precision,
    value_errors,
)
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.interrupt import Stopped
from video_data import ShardSet, ViewBatch, eval_loader, open_shards
from video_data.loading.batches import Unreadable
from video_data.shards.format import Task
from video_data.utils.loader import LOADER_TIMEOUT
from video_data.utils.messages import some_of

Fingerprint = dict[str, str | int]
_log = logging.getLogger(__name__)

EVALUATION_FILES = ("result.json", "predictions.csv", "unreadable.csv", "classes.csv", "report.html")
"""What `corrnet eval --output` writes into its folder, and what it needs to go on after a stop."""
JOURNAL = "unfinished.jsonl"
_NO_BETTER = "no better than one guess for all videos, within chance"


@dataclass(frozen=True)
class EvalResult(ABC):
    """How good a model is over a split; each video is counted once, or named as unreadable.

    Attributes:
        num_clips, num_crops: views of each video: clips, and places along the longer side.
        unreadable: Videos of the split that could not be read and are not counted.
        fingerprint: What the figures depend on.
    """

    num_clips: int
    num_crops: int
    unreadable: list[Unreadable]
    fingerprint: Fingerprint
    predictions: Sequence[VideoPrediction | VideoScores]
    score_name: ClassVar[str]

    @property
    def num_videos(self) -> int:
        """Videos that were counted."""
        return len(self.predictions)

    @property
    @abstractmethod
    def score(self) -> float:
        """The figure by which models are chosen, larger is better; `score_name` is its name."""

    @property
    def headline(self) -> str:
        """The score and its name, for people."""
        return f"{self.score_name} {self.score:.3f}"

    @property
    @abstractmethod
    def figures(self) -> dict[str, float | None]:
        """All figures of merit by their names in `metrics.jsonl`."""

    @property
    @abstractmethod
    def chance(self) -> str | None:
        """In words that the model is no better than one guess for all videos, within chance; None where it is."""

    @abstractmethod
    def mistakes(self, most: int) -> Sequence[tuple[int, VideoPrediction | VideoScores]]:
        """Return the videos that are most wrong, the worst first, with their place in the split.

        Args:
            most: How many at most.
        """

    @property
    def places(self) -> list[int]:
        """Where in the split the counted videos are, in the order of `predictions`."""
        left_out = {entry.number for entry in self.unreadable}
        return [n for n in range(self.num_videos + len(left_out)) if n not in left_out]


@dataclass(frozen=True)
class ClassificationResult(EvalResult):
    """Accuracy of a model of one class for each video.

    Attributes:
        predictions: One for each counted video, in the order of the split.
        clip_top1, clip_top5: shares of the views, in 0..1; top-5 is 1 for five classes or fewer.
        video: Accuracy, calibration and confusion of the videos.
    """

    predictions: list[VideoPrediction]
    clip_top1: float
    clip_top5: float
    video: VideoAccuracy
    score_name: ClassVar[str] = "top-1"

    @property
    def score(self) -> float:
        """Top-1 of the videos, in 0..1."""
        return self.video.top1

    @property
    def figures(self) -> dict[str, float | None]:
        """Top-1 and top-5 of the videos."""
        return {"video_top1": self.video.top1, "video_top5": self.video.top5}

    @property
    def chance(self) -> str | None:
        """Why its right videos may be chance: they are in two standard deviations of what one guess gets."""
        guess, num_right = self.video.guess_top1, round(self.num_videos * self.video_top1)
        most = most_by_chance(self.num_videos, guess)
        if num_right > most:
            return None
        if guess == 1:
            return "all videos are of one class, and one guess for all gets that, too: others are needed to tell more"
        told = f"{num_right} of {self.num_videos} videos are right, and one guess gets {round(self.num_videos * guess)}"
        if most >= self.num_videos:
            return (
                f"so few videos do not tell the model from one guess for all, even if all are right: {told}"
            )
        return f"{_NO_BETTER}: {told}"

    @property
    def video_top1(self) -> float:
        """Top-1 of the videos, in 0..1."""
        return self.video.top1

    @property
    def has_top5(self) -> bool:
        """Whether there are more than five classes: of fewer, top-5 says nothing."""
        return len(self.confusion) > 5

    @property
    def video_top5(self) -> float:
        """Top-5 of the videos, in 0..1."""
        return self.video.top5

    def mistakes(self, most: int) -> list[tuple[int, VideoPrediction]]:
        """Return the videos that are taken for another class, the surest mistakes first; see `EvalResult`."""
        wrong = [
            (place, prediction)
            for place, prediction in zip(self.places, self.predictions, strict=True)
            if prediction.predicted != prediction.label
        ]
        return sorted(wrong, key=lambda item: -max(item[1].probabilities))[:most]

    @property
    def confusion(self) -> list[list[int]]:
        """Number of videos, rows are true classes and columns predicted ones."""
        return self.video.confusion


@dataclass(frozen=True)
class MultilabelResult(EvalResult):
    """Precision of a model of several labels for each video.

    Attributes:
        predictions: One for each counted video, in the order of the split.
        video: Average precision, F1 and Hit@1.
    """

    predictions: list[VideoScores]
    video: LabelPrecision
    score_name: ClassVar[str] = "mAP"

    @property
    def score(self) -> float:
        """The mean average precision, in 0..1."""
        return self.video.mean_average_precision

    @property
    def figures(self) -> dict[str, float | None]:
        """Mean average precision, micro F1 and Hit@1."""
        return {"map": self.score, "f1": self.video.f1, "hit1": self.video.hit1}

    @cached_property  # of many videos with many labels it takes seconds
    def chance(self) -> str | None:
        """Why its precision may be chance: that of shuffled predictions is within two standard deviations."""
        mean, deviation = shuffled_precision(self.predictions)
        if self.score > mean + 2 * deviation:
            return None
        return f"{_NO_BETTER}: mAP {self.score:.3f}, and its predictions shuffled among the videos reach {mean:.3f}"

    def mistakes(self, most: int) -> list[tuple[int, VideoScores]]:
        """Return the videos with a wrong label, the surest mistakes first; see `EvalResult`."""
        pairs = zip(self.places, self.predictions, strict=True)
        wrong = [pair for pair in pairs if pair[1].labels != pair[1].predicted_labels]
        return sorted(wrong, key=lambda pair: -pair[1].largest_error)[:most]


@dataclass(frozen=True)
class RegressionResult(EvalResult):
    """Errors of a model of a number.

    Attributes:
        predictions: One for each counted video, in the order of the split.
        video: Errors of the videos.
    """

    predictions: list[VideoScores]
    video: ValueErrors
    score_name: ClassVar[str] = "-MAE"

    @property
    def score(self) -> float:
        """The mean absolute error, negative: larger is better."""
        return -self.video.mae

    @property
    def headline(self) -> str:
        """The error for people."""
        return f"MAE {self.video.mae:.4g}"

    @property
    def chance(self) -> str | None:
        """Why its errors may be chance: what they gain over the median is within two standard errors."""
        gain, error = gain_over_median(self.predictions)
        if gain > 2 * error:
            return None
        return f"{_NO_BETTER}: MAE {self.video.mae:.4g}, and one guess gets {self.video.guess_mae:.4g}"

    @property
    def figures(self) -> dict[str, float | None]:
        """Errors in the unit of the numbers, and the coefficient of determination."""
        return {"mae": self.video.mae, "rmse": self.video.rmse, "r2": self.video.r2}

    def mistakes(self, most: int) -> list[tuple[int, VideoScores]]:
        """Return the videos of the largest errors; see `EvalResult`."""
        pairs = zip(self.places, self.predictions, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1].largest_error)[:most]


def evaluate(
    classifier: VideoClassifier,
    shards: ShardSet | str | Path,
    split: str,
    *,
    num_clips: int | None = None,
    num_crops: int = 1,
    batch_size: int = 4,
    num_workers: int = 0,
    on_batch: Callable[[int], None] = lambda num_videos: None,
    ranks: Ranks = ONE_RANK,
    journal: str | Path | None = None,
    stop: Callable[[], bool] | None = None,
    timeout: float = LOADER_TIMEOUT,
) -> EvalResult:
    """Test a model on every video of `split`, from `num_clips` x `num_crops` views each.

    A video that cannot be read does not end the evaluation: it is listed in the result, its number is in the
    fingerprint, and a warning of the logger `corrnet_train` says so.

    Args:
        classifier: The model with its classes, among which must be those of the shards; they are matched by name.
        shards: An open shard set, or the folder or URL of one.
        split: Name of the split.
        num_clips: Clips spaced uniformly over each video; None takes those of the classifier.
        num_crops: 1 for the center of the picture, 3 for three places along its longer side.
        batch_size: Videos a step.
        num_workers: Decoding processes.
        on_batch: Called after every step with the number of videos in it, of this process, and at the start with how
            many were done before.
        ranks: The processes that share the videos; each of them gets the result over all.
        journal: A file that keeps what is done; with the same one, a call goes on where another was stopped. It is
            left there, to be removed when the result is safe. For one process.
        stop: Called before every step; where it returns true in one of the processes, all of them stop.
        timeout: Seconds without a batch after which decoding processes are given up.

    Returns:
        A `ClassificationResult`, `MultilabelResult` or `RegressionResult`, after the task of the model and the shards.

    Raises:
        ValueError: The task of the shards is another one, they have classes that the model does not know, the split
            does not exist, or a number is out of range.
        WorkError: None of the videos can be read.
        Stopped: `stop` returned true.
    """
    if not isinstance(shards, ShardSet):
        shards = open_shards(shards)
    labels = labels_by_name(classifier.classes, classifier.targets.task, shards.classes, shards.task)
    if journal is not None and ranks.world_size > 1:
        raise InputError(f"a journal is for one process, got {ranks.world_size}")
    num_clips = classifier.num_clips if num_clips is None else num_clips
    views = {"num_clips": num_clips, "num_crops": num_crops}
    settings = {} if journal is None else fingerprint(classifier, shards, split, **views, num_videos=0)
    work = EvalJournal(None if journal is None else Path(journal), settings)
    try:
        loader = eval_loader(
            shards,
            split,
            classifier.clip,
            num_clips=num_clips,
            num_crops=num_crops,
            batch_size=batch_size,
            num_workers=num_workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
            first=work.num_videos,
            pixels=classifier.pixels,
            skip_unreadable=True,
            timeout=timeout,
        )
        on_batch(work.num_videos)
        for batch in loader:
            if stop is not None and ranks.any(stop()):
                raise Stopped
            part = _evaluate_batch(classifier, batch, shards, split, labels)
            work.add(part)
            on_batch(part.num_videos)
    finally:
        work.close()
    predictions, unreadable, clip_hits = _of_all(work.parts, ranks, shards, split)
    marks = fingerprint(classifier, shards, split, **views, num_videos=len(predictions))
    common: dict[str, Any] = {
        **views, "unreadable": unreadable, "fingerprint": marks, "predictions": predictions
    }  # fmt: skip
    if classifier.targets.task == "multilabel":
        return MultilabelResult(**common, video=label_precision(predictions, classifier.classes))
    if classifier.targets.task == "regression":
        return RegressionResult(**common, video=value_errors(predictions))
    num_views = len(predictions) * num_clips * num_crops
    return ClassificationResult(
        **common,
        clip_top1=clip_hits[0] / num_views,
        clip_top5=clip_hits[1] / num_views,
        video=video_accuracy(predictions, classifier.classes),
    )


def _evaluate_batch(
    classifier: VideoClassifier, batch: ViewBatch, shards: ShardSet, split: str, labels: Tensor
) -> EvalPart:
    clips, videos = classifier.video_scores(batch.video)
    indices = batch.index.tolist()
    sources = [shards.sample(split, index).shown if index >= 0 else "" for index in indices]
    if classifier.targets.task != "multiclass":
        target = batch.label.new_zeros(len(indices), len(classifier.classes))
        target[:, labels] = batch.label
        table = zip(indices, batch.keys, sources, target.tolist(), videos.tolist(), strict=True)
        return EvalPart([(row[0], VideoScores(*row[1:])) for row in table if row[0] >= 0], batch.unreadable)
    label = labels[batch.label].where(batch.label >= 0, batch.label)  # no class where a row is not valid
    ranked = clips.topk(min(5, len(classifier.classes))).indices
    hits = ranked == label[:, None, None]
    rows = zip(indices, batch.keys, sources, label.tolist(), videos.tolist(), strict=True)
    return EvalPart(
        [(row[0], VideoPrediction(*row[1:])) for row in rows if row[0] >= 0],
        batch.unreadable,
        (int(hits[..., 0].sum()), int(hits.sum())),
    )


def _of_all(
    own: list[EvalPart], ranks: Ranks, shards: ShardSet, split: str
) -> tuple[list[Any], list[Unreadable], tuple[int, int]]:
    """Return the results of all processes in the order of the split, each video once, and the hits of all views."""
    parts = [part for parts in ranks.gather(own) for part in parts]
    rows = sorted((row for part in parts for row in part.videos), key=lambda row: row[0])
    unreadable = sorted(entry for part in parts for entry in part.unreadable)
    num_videos = shards.num_samples(split)
    seen = sorted([index for index, _ in rows] + [entry.number for entry in unreadable])
    if seen != list(range(num_videos)):
        raise RuntimeError(f"{len(seen)} videos were counted for {num_videos}: some twice or never")
    if unreadable:
        first = f"the first is {unreadable[0].key}: {unreadable[0].message}"
        if not rows:
            raise on_every_rank(
                WorkError(f"none of the {num_videos} videos of split {split} can be read; {first}")
            )
        if ranks.is_first:
            _log.warning(
                "%d of %d videos of split %s cannot be read and are not counted; %s",
                len(unreadable), num_videos, split, first,
            )  # fmt: skip
    top1, top5 = (sum(part.clip_hits[rank] for part in parts) for rank in (0, 1))
    return [prediction for _, prediction in rows], unreadable, (top1, top5)


def labels_by_name(
    known: Sequence[str], task: Task, of_videos: Sequence[str], task_of_videos: Task
) -> Tensor:
    """Return for each class of some videos which class of a model has its name, int64 [classes of the videos].

    Args:
        known: The classes of the model.
        task: What it has learned.
        of_videos: The classes of the videos.
        task_of_videos: What can be tested on them.

    Raises:
        ValueError: The tasks differ, or the model does not know some of the classes.
    """
    if task_of_videos != task:
        raise InputError(f"the task of the videos is {task_of_videos}, that of the model {task}")
    numbers = {name: number for number, name in enumerate(known)}
    unknown = [name for name in of_videos if name not in numbers]
    if unknown:
        raise InputError(
            f"the model does not know {len(unknown)} of the {len(of_videos)} classes of these videos: "
            f"{some_of(unknown)}; it tells apart {some_of(known)}. Leave those videos out, or spell the classes as it "
            "does"
        )
    return torch.tensor([numbers[name] for name in of_videos])


def fingerprint(
    classifier: VideoClassifier,
    shards: ShardSet,
    split: str,
    *,
    num_clips: int,
    num_crops: int,
    num_videos: int,
) -> Fingerprint:
    """Return what a reported accuracy depends on: equal fingerprints mean comparable figures.

    `label map` is of the classes of the model; `videos` were counted, `videos packed` are in the shards, and
    `videos listed` are named by the data set.
    """
    clip = classifier.clip
    listed = {str(name): entry.num_listed for name, entry in shards.manifest.coverage.items()}
    return {
        "data set": shards.manifest.dataset,
        "manifest": shards.manifest_hash,
        "label map": hashlib.sha256("\n".join(classifier.classes).encode()).hexdigest()[:16],
        "split": split,
        "videos": num_videos,
        "videos packed": shards.num_samples(split),
        "videos listed": listed.get(split, "unknown"),
        "views": f"{num_clips} clips x " + ("1 center crop" if num_crops == 1 else f"{num_crops} crops"),
        "clip": f"{clip.num_frames} frames, {clip.spacing}, {clip.crop_size} px, {clip.modality}",
        "resize": f"short side {clip.short_side_range[0]} px",
        "pixels": classifier.pixels,
        "decoder": f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}",
        "precision": classifier.precision,
        "weights": weights_hash(classifier.model),
    }
