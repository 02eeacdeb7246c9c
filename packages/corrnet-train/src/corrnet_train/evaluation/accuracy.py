"""Figures of merit over a table of predictions: accuracy by class, calibration, and files of them."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrnet_train.utils.errors import InputError
from video_data.loading.batches import Unreadable

NUM_BINS = 15


@dataclass(frozen=True)
class VideoPrediction:
    """The result for one video.

    Attributes:
        key: Sample key in the shards.
        source: Path of the original, as it was packed, and which part of it that is.
        label: Number of its class among those of the model.
        probabilities: Class probabilities averaged over the views.
    """

    key: str
    source: str
    label: int
    probabilities: list[float]

    @property
    def predicted(self) -> int:
        """The most probable class, the first of equal ones."""
        return self.probabilities.index(max(self.probabilities))


@dataclass(frozen=True)
class ClassAccuracy:
    """The videos of one class.

    Attributes:
        name: Class name.
        num_videos: Videos of the class.
        top1, top5: share of them that is right, in 0..1; None without videos.
        taken_for: The class for which most of the others are taken; empty when all are right.
    """

    name: str
    num_videos: int
    top1: float | None
    top5: float | None
    taken_for: str


@dataclass(frozen=True)
class CalibrationBin:
    """Videos whose largest probability lies in one interval.

    Attributes:
        low, high: the interval.
        num_videos: Videos in it.
        confidence: Their mean largest probability; 0 without videos.
        accuracy: Share of them that is right; 0 without videos.
    """

    low: float
    high: float
    num_videos: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from frequencies (Guo et al., 2017).

    Attributes:
        expected_error: Mean over the videos of |confidence - accuracy| of their bin, in 0..1.
        bins: Intervals of equal width from 0 to 1.
    """

    expected_error: float
    bins: list[CalibrationBin]


@dataclass(frozen=True)
class VideoAccuracy:
    """Accuracy over videos, each counted once.

    Attributes:
        top1, top5: share of videos whose class is the most probable one, or one of the five; in 0..1.
        guess_top1: Top-1 of one guess for all, the class of most videos.
        mean_class: Mean over the classes that have videos of their top-1.
        per_class: Each class, in label order.
        confusion: Number of videos, rows are true classes and columns predicted ones.
        calibration: How far probabilities are from frequencies.
    """

    top1: float
    top5: float
    guess_top1: float
    mean_class: float
    per_class: list[ClassAccuracy]
    confusion: list[list[int]]
    calibration: Calibration


def video_accuracy(predictions: Sequence[VideoPrediction], classes: Sequence[str]) -> VideoAccuracy:
    """Sum up predictions.

    Raises:
        ValueError: There are none.
    """
    if not predictions:
        raise InputError("no predictions to sum up")
    probabilities = torch.tensor([prediction.probabilities for prediction in predictions])
    labels = torch.tensor([prediction.label for prediction in predictions])
    ranked = probabilities.topk(min(5, len(classes))).indices
    right = ranked[:, 0] == labels
    among_five = (ranked == labels[:, None]).any(dim=1)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((labels, ranked[:, 0]), torch.ones_like(labels), accumulate=True)
    per_class = [
        _class_accuracy(label, classes, confusion[label], among_five[labels == label])
        for label in range(len(classes))
    ]
    present = [entry.top1 for entry in per_class if entry.top1 is not None]
    return VideoAccuracy(
        top1=float(right.float().mean()),
        top5=float(among_five.float().mean()),
        guess_top1=max(entry.num_videos for entry in per_class) / len(predictions),
        mean_class=sum(present) / len(present),
        per_class=per_class,
        confusion=confusion.tolist(),
        calibration=_calibration(probabilities.amax(dim=1), right),
    )


def most_by_chance(num_videos: int, guess: float) -> float:
    """Return the right videos above which a model counts as better than one guess for all.

    That is what the guess gets, and two standard deviations of a binomial: of models that know nothing a few in a
    hundred get more.

    Args:
        num_videos: How many videos there are.
        guess: The share of them that the guess gets, in 0..1.
    """
    return num_videos * guess + 2 * math.sqrt(num_videos * guess * (1 - guess))


def frequent_mistakes(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return true class, predicted class and number of videos of each mistake, the most frequent ones first.

    Args:
        confusion: Videos by true class (rows) and predicted class (columns).
    """
    mistakes = [
        (row, column, count)
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
        if row != column and count > 0
    ]
    return sorted(mistakes, key=lambda mistake: -mistake[2])


def _class_accuracy(label: int, classes: Sequence[str], row: Tensor, among_five: Tensor) -> ClassAccuracy:
    count = int(row.sum())
    if count == 0:
        return ClassAccuracy(classes[label], 0, None, None, "")
    wrong = row.clone()
    wrong[label] = 0
    taken_for = classes[int(wrong.argmax())] if wrong.any() else ""
    return ClassAccuracy(
        classes[label], count, float(row[label]) / count, float(among_five.float().mean()), taken_for
    )


def _calibration(confidence: Tensor, right: Tensor) -> Calibration:
    numbers = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    bins, error = [], 0.0
    for number in range(NUM_BINS):
        inside = numbers == number
        count = int(inside.sum())
        mean, accuracy = (
            float(values[inside].float().mean()) if count else 0.0 for values in (confidence, right)
        )
        bins.append(CalibrationBin(number / NUM_BINS, (number + 1) / NUM_BINS, count, mean, accuracy))
        error += count * abs(mean - accuracy)
    return Calibration(error / len(confidence), bins)


def predictions_csv(predictions: Sequence[VideoPrediction], classes: Sequence[str], *, top: int = 5) -> str:
    """Return a csv with a row for each video: key, source, class, and the most probable classes."""
    columns = ["key", "source", "class", "right"]
    for rank in range(1, min(top, len(classes)) + 1):
        columns += [f"top{rank}", f"probability{rank}"]
    rows: list[list[object]] = []
    for prediction in predictions:
        values, order = torch.tensor(prediction.probabilities).topk(min(top, len(classes)))
        ranked = [
            (classes[label], f"{value:.6f}") for value, label in zip(values, order.tolist(), strict=True)
        ]
        is_right = int(order[0]) == prediction.label
        row = [prediction.key, prediction.source, classes[prediction.label], int(is_right)]
        rows.append([*row, *(cell for pair in ranked for cell in pair)])
    return csv_text(columns, rows)


def classes_csv(per_class: Sequence[ClassAccuracy]) -> str:
    """Return a csv with a row for each class."""
    rows = [[c.name, c.num_videos, _share(c.top1), _share(c.top5), c.taken_for] for c in per_class]
    return csv_text(["class", "videos", "top1", "top5", "taken for"], rows)


def unreadable_csv(unreadable: Sequence[Unreadable]) -> str:
    """Return a csv with a row for each video that could not be read."""
    columns = ["key", "source", "reason", "message"]
    return csv_text(columns, [[entry.key, entry.source, entry.reason, entry.message] for entry in unreadable])


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows under their header as the content of a csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
