"""An evaluation as files: figures, predictions, classes, and a page to look at."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from corrnet_train.evaluation.accuracy import Calibration, classes_csv, predictions_csv, unreadable_csv
from corrnet_train.evaluation.evaluate import (
    ClassificationResult,
    EvalResult,
    MultilabelResult,
    RegressionResult,
)
from corrnet_train.evaluation.scores import VideoScores, labels_csv, precisions_csv, values_csv
from corrnet_train.report.figures.confusion import confusion_figure, worst_confusion
from corrnet_train.report.figures.curves import accuracy_figure, loss_figure, score_figure
from corrnet_train.report.figures.style import INK, figure_style, inline, render, series_color
from corrnet_train.report.pages.render import render_page
from corrnet_train.report.pictures import strip_url
from corrnet_train.report.results import Curves
from corrnet_train.report.table import format_percent
from corrnet_train.utils.files import write_json, write_text
from video_data.shards.thumbnails import Thumbnails

MOST_MISTAKES = 24  # that are shown


@dataclass(frozen=True)
class _Content:
    """What the files of one kind of result hold.

    Attributes:
        record: Its figures in `result.json`.
        predictions: Content of `predictions.csv`.
        classes: Content of `classes.csv`; None where there are no classes.
        figures: Header and rows of the table at the top of the page.
        charts: Title, picture and words of each chart.
        class_table: Header and rows of the table of classes, the worst ones first; the last column is text.
        mistakes: Of each of `EvalResult.mistakes` the truth, what was predicted, and how sure that was.
        wrong: Heading of the mistakes, and how many there are.
        words: What the words mean that the figures use.
    """

    record: dict[str, Any]
    predictions: str
    classes: str | None
    figures: list[list[str]]
    charts: list[dict[str, str]]
    mistakes: list[tuple[str, str, str]]
    wrong: tuple[str, int]
    words: dict[str, str]
    class_table: list[list[str]] = field(default_factory=list)


def write_evaluation(
    result: EvalResult,
    classes: tuple[str, ...],
    folder: Path,
    *,
    title: str,
    mistakes: Sequence[Thumbnails] = (),
    curves: Curves | None = None,
) -> None:
    """Write `result.json`, `predictions.csv`, `unreadable.csv`, `classes.csv` and `report.html` into a folder.

    Where the model puts out a number there are no classes, and no `classes.csv`.

    Args:
        result: What `evaluate` returned.
        classes: Class names in label order.
        folder: It is made when it does not exist; files of an earlier evaluation are replaced.
        title: Heading of the page.
        mistakes: Pictures of the first of `result.mistakes`, at most MOST_MISTAKES.
        curves: What the run has logged that trained the model; None where that is not known.
    """
    content = _content(result, classes, len(mistakes))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "result.json",
        {name: getattr(result, name) for name in ("num_videos", "num_clips", "num_crops")}
        | content.record
        | {
            "num_unreadable": len(result.unreadable),
            "unreadable": [entry._asdict() for entry in result.unreadable],
            "fingerprint": result.fingerprint,
        },
    )
    write_text(folder / "predictions.csv", content.predictions)
    write_text(folder / "unreadable.csv", unreadable_csv(result.unreadable))
    if content.classes is not None:
        write_text(folder / "classes.csv", content.classes)
    write_text(folder / "report.html", _page(result, content, title, mistakes, curves, len(classes)))


def _content(result: EvalResult, classes: tuple[str, ...], num_mistakes: int) -> _Content:
    if isinstance(result, ClassificationResult):
        return _of_classification(result, classes, num_mistakes)
    if isinstance(result, MultilabelResult):
        return _of_labels(result, classes, num_mistakes)
    assert isinstance(result, RegressionResult)
    return _of_values(result, num_mistakes)


def _of_classification(result: ClassificationResult, classes: tuple[str, ...], num_mistakes: int) -> _Content:
    calibration, video = result.video.calibration, result.video
    worst = worst_confusion(result.confusion)
    most_frequent = "no mistakes"
    if worst is not None:
        true, predicted, count = worst
        most_frequent = (
            f"Most frequent mistake: {classes[true]} taken for {classes[predicted]} ({count} videos)."
        )
    error = format_percent(calibration.expected_error)
    names = ("clip_top1", "clip_top5", "video_top1", "video_top5")

    def top5(cells: list[str]) -> list[str]:
        return cells if result.has_top5 else []

    least_accurate = sorted(
        (entry for entry in video.per_class if entry.num_videos), key=lambda entry: (entry.top1, entry.name)
    )
    return _Content(
        record={
            **{name: getattr(result, name) for name in names},
            "guess_top1": video.guess_top1,
            "mean_class_accuracy": video.mean_class,
            "expected_calibration_error": calibration.expected_error,
            "confusion": result.confusion,
        },
        predictions=predictions_csv(result.predictions, classes),
        classes=classes_csv(video.per_class),
        figures=[
            ["", "top-1", *top5(["top-5"])],
            ["clips", format_percent(result.clip_top1), *top5([format_percent(result.clip_top5)])],
            ["videos", format_percent(result.video_top1), *top5([format_percent(result.video_top5)])],
            ["mean over classes", format_percent(video.mean_class), *top5([""])],
            ["one guess for all", format_percent(video.guess_top1), *top5([""])],
        ],
        charts=[
            _chart("Confusion", confusion_figure(result.confusion, classes), most_frequent),
            _chart(
                "Calibration",
                calibration_figure(calibration),
                f"Accuracy of videos by the probability of their predicted class; expected error {error}.",
            ),
        ],
        class_table=[
            ["class", "videos", "top-1", *top5(["top-5"]), "most often taken for"],
            *(
                [c.name, f"{c.num_videos}", _percent(c.top1), *top5([_percent(c.top5)]), c.taken_for]
                for c in least_accurate
            ),
        ],
        mistakes=[
            (
                classes[prediction.label],
                f"taken for {classes[prediction.predicted]}",
                format_percent(max(prediction.probabilities)),
            )
            for _, prediction in result.mistakes(num_mistakes)
        ],
        wrong=(
            "Videos that were taken for another class",
            sum(prediction.predicted != prediction.label for prediction in result.predictions),
        ),
        words={
            "clips": "Each clip by itself: a few frames, as the model takes them.",
            "videos": "Each video once, by the mean probabilities of its clips.",
            "top-1": "The share whose most probable class is the right one.",
            **(
                {"top-5": "The share with the right one among the five most probable."}
                if result.has_top5
                else {}
            ),
            "mean over classes": "The mean of the top-1 of each class, whatever the number of its videos.",
            "one guess for all": "The top-1 of calling every video by the most frequent class.",
            "expected error": "How far the probability of the predicted class is from the share of videos of about "
            "that probability that are right, on average (expected calibration error).",
        },
    )


def _of_labels(result: MultilabelResult, classes: tuple[str, ...], num_mistakes: int) -> _Content:
    video = result.video
    weakest = sorted(
        (entry for entry in video.per_class if entry.average_precision is not None),
        key=lambda entry: (entry.average_precision, entry.name),
    )

    def named(labels: list[int]) -> str:
        return ", ".join(classes[label] for label in labels) or "nothing"

    return _Content(
        record={
            "mean_average_precision": video.mean_average_precision,
            "f1": video.f1,
            "hit1": video.hit1,
            "guess_map": video.guess_map,
            "guess_hit1": video.guess_hit1,
            "per_class": [asdict(entry) for entry in video.per_class],
        },
        predictions=labels_csv(result.predictions, classes),
        classes=precisions_csv(video.per_class),
        figures=[
            ["", "mAP", "F1 at 0.5", "Hit@1"],
            ["videos", *map(format_percent, (video.mean_average_precision, video.f1, video.hit1))],
            ["one guess for all", format_percent(video.guess_map), "", format_percent(video.guess_hit1)],
        ],
        charts=[],
        class_table=[
            ["class", "videos", "average precision", "precision at 0.5", "recall at 0.5"],
            *(
                [c.name, f"{c.num_videos}", *map(_percent, (c.average_precision, c.precision, c.recall))]
                for c in weakest
            ),
        ],
        mistakes=[
            (named(p.labels), f"predicted {named(p.predicted_labels)}", _surest_mistake(p, classes))
            for _, p in result.mistakes(num_mistakes)
        ],
        wrong=(
            "Videos with a wrong label",
            sum(prediction.labels != prediction.predicted_labels for prediction in result.predictions),
        ),
        words={
            "mAP": "The mean over the classes of the average precision: 1 where all videos with a label have a higher "
            "probability of it than all others.",
            "F1 at 0.5": "The harmonic mean of precision and recall over all labels of a probability of 0.5 or more.",
            "Hit@1": "The share of the videos whose most probable label is one of theirs.",
            "one guess for all": "Equal probabilities for all videos; of Hit@1 the most frequent label.",
        },
    )


def _surest_mistake(prediction: VideoScores, classes: tuple[str, ...]) -> str:
    errors = [abs(score - target) for score, target in zip(prediction.scores, prediction.target, strict=True)]
    label = errors.index(max(errors))
    return f"{classes[label]} {format_percent(prediction.scores[label])}"


def _of_values(result: RegressionResult, num_mistakes: int) -> _Content:
    video = result.video
    r2 = "" if video.r2 is None else f"{video.r2:.3f}"
    return _Content(
        record=asdict(video),
        predictions=values_csv(result.predictions),
        classes=None,
        figures=[
            ["", "mean absolute error", "root mean squared error", "R²"],
            ["videos", f"{video.mae:.4g}", f"{video.rmse:.4g}", r2],
            ["one guess for all, the median", f"{video.guess_mae:.4g}", "", ""],
        ],
        charts=[
            _chart(
                "Predicted and true values",
                values_figure(result.predictions),
                f"Each point is a video; on the line predictions are right. Mean absolute error {video.mae:.4g}.",
            )
        ],
        mistakes=[
            (f"{p.target[0]:.5g}", f"predicted {p.scores[0]:.5g}", f"off by {p.largest_error:.5g}")
            for _, p in result.mistakes(num_mistakes)
        ],
        wrong=("Videos of the largest errors", result.num_videos),
        words={
            "mean absolute error": "By how much a prediction is off on average, in the unit of the numbers.",
            "root mean squared error": "The same with large errors counting more.",
            "R²": "1 is perfect, 0 is what the mean of these numbers reaches.",
            "one guess for all": "The median of these numbers for every video.",
        },
    )


def _chart(title: str, figure: bytes, words: str) -> dict[str, str]:
    return {"title": title, "svg": inline(figure, prefix=title.split()[0].lower()), "alt": words}


def _views(result: EvalResult) -> str:
    """Say what was seen of each video."""
    if result.num_clips == 1:
        clips = "one clip from the middle of each"
    else:
        clips = f"{result.num_clips} clips of each, spaced uniformly over it"
    return clips if result.num_crops == 1 else f"{clips}, in {result.num_crops} crops along the longer side"


def _percent(share: float | None) -> str:
    return "" if share is None else format_percent(share)


def _page(
    result: EvalResult,
    content: _Content,
    title: str,
    thumbnails: Sequence[Thumbnails],
    curves: Curves | None,
    num_classes: int,
) -> str:
    worst = zip(result.mistakes(len(thumbnails)), content.mistakes, thumbnails, strict=True)
    return render_page(
        "evaluation.html",
        title=title,
        num_videos=result.num_videos,
        views=_views(result),
        words=content.words,
        figures=content.figures,
        chance=result.chance,
        charts=content.charts,
        class_table=content.class_table,
        curves=[] if curves is None else _curves(curves, num_classes),
        wrong=content.wrong,
        mistakes=[
            {
                "true": true,
                "predicted": predicted,
                "sure": sure,
                "source": prediction.source,
                "problem": pictures.problem,
                "image": "" if pictures.problem else strip_url(pictures.pictures),
            }
            for (_, prediction), (true, predicted, sure), pictures in worst
        ],
        unreadable=result.unreadable,
        fingerprint=result.fingerprint,
    )


def _curves(curves: Curves, num_classes: int) -> list[dict[str, str]]:
    """Return the figures of a run's curves, each with what it shows in words; those without a point are left out."""
    figures = []
    if curves.curve:
        last = curves.curve[-1]
        figures.append(
            {
                "svg": inline(loss_figure([curves]), prefix="loss"),
                "alt": f"Training loss, at step {last.step} {last.loss:.3f}; the line is a running mean. Mixup and "
                "label smoothing keep it above zero.",
            }
        )
    if curves.evals:
        is_error, is_accuracy = curves.score_name == "MAE", curves.score_name == "top-1"
        best = (min if is_error else max)(curves.evals, key=lambda point: point.score)
        share = f"{best.score:.4g}" if is_error else format_percent(best.score)
        drawn = accuracy_figure([curves], num_classes=num_classes) if is_accuracy else score_figure(curves)
        name = "Accuracy" if is_accuracy else curves.score_name
        figures.append(
            {
                "svg": inline(drawn, prefix="accuracy"),
                "alt": f"{name} in the evaluations while training, the best {share} at step {best.step}.",
            }
        )
    return figures


def calibration_figure(calibration: Calibration) -> bytes:
    """Accuracy over confidence as an SVG document; bars are as dark as their share of the videos."""
    total = max(1, sum(entry.num_videos for entry in calibration.bins))
    with figure_style():
        figure = Figure(figsize=(4.0, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.9, linestyle=(0, (4, 3)))
        for entry in calibration.bins:
            if entry.num_videos:
                width = entry.high - entry.low
                alpha = 0.25 + 0.75 * entry.num_videos / total
                axes.bar(
                    entry.low + width / 2, entry.accuracy, width * 0.92, color=series_color(0), alpha=alpha
                )
                axes.plot(entry.confidence, entry.accuracy, marker="o", markersize=3, color=INK)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("share that is right")
        return render(figure)


def values_figure(predictions: Sequence[VideoScores]) -> bytes:
    """Predicted over true numbers as an SVG document."""
    true, predicted = [p.target[0] for p in predictions], [p.scores[0] for p in predictions]
    ends = min(*true, *predicted), max(*true, *predicted)
    with figure_style():
        figure = Figure(figsize=(4.0, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(ends, ends, color=INK, alpha=0.4, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.scatter(true, predicted, s=14, color=series_color(0), alpha=0.6, linewidths=0)
        axes.set_xlabel("true value")
        axes.set_ylabel("predicted value")
        return render(figure)
