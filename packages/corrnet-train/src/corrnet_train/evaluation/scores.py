"""Figures of merit of models of several labels (average precision, F1) and of numbers (errors), and files of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrnet_train.evaluation.accuracy import csv_text
from corrnet_train.utils.errors import InputError

THRESHOLD = 0.5  # probability from which on a label counts as predicted


@dataclass(frozen=True)
class VideoScores:
    """The result for one video.

    Attributes:
        key: Sample key in the shards.
        source: Path of the original, as it was packed, and which part of it that is.
        target: 1 for each of its labels and 0 for all others [classes]; or its number [1].
        scores: Probabilities of the classes, or the predicted number, averaged over the views.
    """

    key: str
    source: str
    target: list[float]
    scores: list[float]

    @property
    def labels(self) -> list[int]:
        """Its labels, of a multilabel model."""
        return [label for label, target in enumerate(self.target) if target > 0.5]

    @property
    def predicted_labels(self) -> list[int]:
        """The labels with a probability of at least 0.5."""
        return [label for label, score in enumerate(self.scores) if score >= THRESHOLD]

    @property
    def largest_error(self) -> float:
        """The largest difference of a probability or number from the truth."""
        return max(abs(score - target) for score, target in zip(self.scores, self.target, strict=True))


@dataclass(frozen=True)
class ClassPrecision:
    """How well one label is told from its absence.

    Attributes:
        name: Class name.
        num_videos: Videos that have the label.
        average_precision: Area under the steps of precision over recall, in 0..1; None without videos.
        precision: Share of the videos with a probability of at least 0.5 that have the label; None if there are none.
        recall: Share of the videos with the label whose probability is at least 0.5; None without videos.
    """

    name: str
    num_videos: int
    average_precision: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class LabelPrecision:
    """Figures of merit of a multilabel model.

    Attributes:
        mean_average_precision: Mean of the average precision over the classes that have videos (mAP), in 0..1.
        f1: Harmonic mean of precision and recall over all labels of all videos at a probability of 0.5 (micro F1).
        hit1: Share of the videos whose most probable class is one of their labels (Hit@1).
        guess_map: The mean average precision of equal probabilities for all videos: the mean share of the videos that
            have a label.
        guess_hit1: The Hit@1 of one guess for all videos, the most frequent label.
        per_class: Each class, in label order.
    """

    mean_average_precision: float
    f1: float
    hit1: float
    guess_map: float
    guess_hit1: float
    per_class: list[ClassPrecision]


@dataclass(frozen=True)
class ValueErrors:
    """Figures of merit of predicted numbers, in the unit of the numbers.

    Attributes:
        mae: Mean of the absolute errors.
        rmse: Root of the mean squared error.
        r2: Coefficient of determination: 1 is perfect, 0 is what the mean of the tested numbers reaches, and worse is
            negative; None where all tested numbers are equal.
        guess_mae: The mean absolute error of one guess for all videos, the median of the tested numbers.
    """

    mae: float
    rmse: float
    r2: float | None
    guess_mae: float


def label_precision(predictions: Sequence[VideoScores], classes: Sequence[str]) -> LabelPrecision:
    """Sum up the predictions of a multilabel model.

    Raises:
        ValueError: There are none.
    """
    target, scores = _tables(predictions)
    has = target > 0.5
    told = scores >= THRESHOLD
    per_class = [
        _class_precision(name, has[:, label], told[:, label], scores[:, label])
        for label, name in enumerate(classes)
    ]
    known = [entry.average_precision for entry in per_class if entry.average_precision is not None]
    shares = has.double().mean(dim=0)
    both = int((has & told).sum())
    top = scores.argmax(dim=1, keepdim=True)
    return LabelPrecision(
        mean_average_precision=sum(known) / len(known),
        f1=2 * both / max(1, int(has.sum()) + int(told.sum())),
        hit1=float(has.gather(1, top).double().mean()),
        guess_map=float(shares.sum()) / len(known),
        guess_hit1=float(shares.max()),
        per_class=per_class,
    )


def average_precision(has: Tensor, scores: Tensor) -> float:
    """Return the sum over the thresholds of precision times gain in recall, that of scikit-learn.

    Equal scores are one threshold, so that the order of the videos does not matter.

    Args:
        has: Whether videos have the label, bool [N]; at least one has.
        scores: Their probabilities of it [N].
    """
    order = scores.argsort(descending=True)
    ranked, right = scores[order], has[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)])  # of equal scores
    right, number = right[last], torch.arange(1, len(has) + 1, dtype=torch.float64)[last]
    gained = right.diff(prepend=torch.zeros(1, dtype=torch.float64))
    return float((gained * right / number).sum() / right[-1])


def shuffled_precision(predictions: Sequence[VideoScores], *, num_shuffles: int = 20) -> tuple[float, float]:
    """Return mean and standard deviation of the mAP of predictions that are shuffled among the videos: of chance.

    With few videos that is more than the share of the videos that have a label.

    Args:
        predictions: Those of a multilabel model.
        num_shuffles: How often they are shuffled, always in the same ways.

    Raises:
        ValueError: There are none.
    """
    target, scores = _tables(predictions)
    has = target > 0.5
    has, scores = has[:, has.any(dim=0)], scores[:, has.any(dim=0)]
    order = scores.argsort(dim=0, descending=True)
    number = torch.arange(1, len(has) + 1)[:, None]
    generator = torch.Generator().manual_seed(0)
    reached = []
    for _ in range(num_shuffles):
        right = has[torch.randperm(len(has), generator=generator)].gather(0, order).float()
        reached.append(((right * right.cumsum(dim=0) / number).sum(dim=0) / right.sum(dim=0)).mean())
    means = torch.stack(reached)
    return float(means.mean()), float(means.std())


def gain_over_median(predictions: Sequence[VideoScores]) -> tuple[float, float]:
    """Return by how much absolute errors are smaller than those of the median of the tested numbers, on average.

    Returns:
        The mean over the videos, and its standard error; that of one video is infinite.

    Raises:
        ValueError: There are none.
    """
    target, scores = (table[:, 0] for table in _tables(predictions))
    gains = (target - target.quantile(0.5)).abs() - (scores - target).abs()
    error = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return float(gains.mean()), error


def value_errors(predictions: Sequence[VideoScores]) -> ValueErrors:
    """Sum up predicted numbers.

    Raises:
        ValueError: There are none.
    """
    target, scores = (table[:, 0] for table in _tables(predictions))
    squared = float((scores - target).square().mean())
    variance = float((target - target.mean()).square().mean())
    return ValueErrors(
        mae=float((scores - target).abs().mean()),
        rmse=math.sqrt(squared),
        r2=None if (target == target[0]).all() else 1 - squared / variance,
        guess_mae=float((target - target.quantile(0.5)).abs().mean()),
    )


def labels_csv(predictions: Sequence[VideoScores], classes: Sequence[str]) -> str:
    """Return a csv with a row for each video: key, source, its labels, and the probability of each class."""
    rows = [
        [
            p.key,
            p.source,
            "|".join(classes[label] for label in p.labels),
            *(f"{score:.6f}" for score in p.scores),
        ]
        for p in predictions
    ]
    return csv_text(["key", "source", "labels", *classes], rows)


def values_csv(predictions: Sequence[VideoScores]) -> str:
    """Return a csv with a row for each video: key, source, its number, and the predicted one."""
    rows = [[p.key, p.source, f"{p.target[0]:.7g}", f"{p.scores[0]:.7g}"] for p in predictions]
    return csv_text(["key", "source", "value", "predicted"], rows)


def precisions_csv(per_class: Sequence[ClassPrecision]) -> str:
    """Return a csv with a row for each class."""
    rows = [
        [c.name, c.num_videos, *map(_share, (c.average_precision, c.precision, c.recall))] for c in per_class
    ]
    return csv_text(["class", "videos", "average precision", "precision", "recall"], rows)


def _tables(predictions: Sequence[VideoScores]) -> tuple[Tensor, Tensor]:
    """Return targets and scores, float64 [videos, classes]."""
    if not predictions:
        raise InputError("no predictions to sum up")
    target = torch.tensor([prediction.target for prediction in predictions], dtype=torch.float64)
    return target, torch.tensor([prediction.scores for prediction in predictions], dtype=torch.float64)


def _class_precision(name: str, has: Tensor, told: Tensor, scores: Tensor) -> ClassPrecision:
    num_videos, num_told, both = int(has.sum()), int(told.sum()), int((has & told).sum())
    return ClassPrecision(
        name,
        num_videos,
        average_precision(has, scores) if num_videos else None,
        both / num_told if num_told else None,
        both / num_videos if num_videos else None,
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
