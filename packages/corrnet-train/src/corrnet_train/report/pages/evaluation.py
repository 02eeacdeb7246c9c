"""An evaluation as files: figures, predictions, classes, and a page to look at."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from corrnet_train.evaluation.accuracy import Calibration, classes_csv, predictions_csv, unreadable_csv
from corrnet_train.evaluation.evaluate import EvalResult
from corrnet_train.report.figures.confusion import confusion_figure, worst_confusion
from corrnet_train.report.figures.curves import accuracy_figure, loss_figure
from corrnet_train.report.figures.style import INK, figure_style, inline, render, series_color
from corrnet_train.report.pages.render import render_page
from corrnet_train.report.pictures import strip_url
from corrnet_train.report.results import Curves
from corrnet_train.report.table import format_percent
from corrnet_train.utils.files import write_json, write_text
from video_data.shards.thumbnails import Thumbnails

MOST_MISTAKES = 24  # that are shown


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

    Args:
        result: What `evaluate` returned.
        classes: Class names in label order.
        folder: It is made when it does not exist; files of an earlier evaluation are replaced.
        title: Heading of the page.
        mistakes: Pictures of the first of `result.mistakes`, at most MOST_MISTAKES.
        curves: What the run has logged that trained the model; None where that is not known.
    """
    names = ("num_videos", "num_clips", "num_crops", "clip_top1", "clip_top5", "video_top1", "video_top5")
    figures = {name: getattr(result, name) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "result.json",
        figures
        | {
            "mean_class_accuracy": result.video.mean_class,
            "expected_calibration_error": result.video.calibration.expected_error,
            "confusion": result.confusion,
            "num_unreadable": len(result.unreadable),
            "unreadable": [entry._asdict() for entry in result.unreadable],
            "fingerprint": result.fingerprint,
        },
    )
    write_text(folder / "predictions.csv", predictions_csv(result.predictions, classes))
    write_text(folder / "unreadable.csv", unreadable_csv(result.unreadable))
    write_text(folder / "classes.csv", classes_csv(result.video.per_class))
    write_text(folder / "report.html", _page(result, classes, title, mistakes, curves))


def _page(
    result: EvalResult,
    classes: tuple[str, ...],
    title: str,
    mistakes: Sequence[Thumbnails],
    curves: Curves | None,
) -> str:
    calibration = result.video.calibration
    worst = worst_confusion(result.confusion)
    most_frequent = "no mistakes"
    if worst is not None:
        true, predicted, count = worst
        most_frequent = (
            f"Most frequent mistake: {classes[true]} taken for {classes[predicted]} ({count} videos)."
        )
    error = format_percent(calibration.expected_error)
    return render_page(
        "evaluation.html",
        title=title,
        num_videos=result.num_videos,
        views=f"{result.num_clips} clips x {result.num_crops} crops of each",
        accuracies=[
            ("videos", result.video_top1, result.video_top5),
            ("views", result.clip_top1, result.clip_top5),
            ("mean over classes", result.video.mean_class, None),
        ],
        charts=[
            {
                "title": "Confusion",
                "svg": inline(confusion_figure(result.confusion, classes), prefix="confusion"),
                "alt": most_frequent,
            },
            {
                "title": "Calibration",
                "svg": inline(calibration_figure(calibration), prefix="calibration"),
                "alt": f"Accuracy of videos by the probability of their predicted class; expected error {error}.",
            },
        ],
        curves=[] if curves is None else _curves(curves, len(classes)),
        num_mistakes=sum(prediction.predicted != prediction.label for prediction in result.predictions),
        mistakes=[
            {
                "true": classes[prediction.label],
                "predicted": classes[prediction.predicted],
                "probability": format_percent(max(prediction.probabilities)),
                "source": prediction.source,
                "problem": thumbnails.problem,
                "image": "" if thumbnails.problem else strip_url(thumbnails.pictures),
            }
            for (_, prediction), thumbnails in zip(result.mistakes(len(mistakes)), mistakes, strict=True)
        ],
        classes=sorted(
            (entry for entry in result.video.per_class if entry.num_videos),
            key=lambda entry: (entry.top1, entry.name),
        ),
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
                "alt": f"Training loss, at step {last.step} {last.loss:.3f}; the line is a running mean.",
            }
        )
    if curves.evals:
        best = max(curves.evals, key=lambda point: point.video_top1)
        share = format_percent(best.video_top1)
        figures.append(
            {
                "svg": inline(accuracy_figure([curves], num_classes=num_classes), prefix="accuracy"),
                "alt": f"Accuracy in the evaluations while training, the best {share} at step {best.step}.",
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
