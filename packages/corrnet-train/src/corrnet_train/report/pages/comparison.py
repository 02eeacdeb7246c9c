"""The comparison of models as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from corrnet_train.report.figures.confusion import confusion_figure, worst_confusion
from corrnet_train.report.figures.curves import accuracy_figure, loss_figure, smoothing_window
from corrnet_train.report.figures.filters import filter_figure
from corrnet_train.report.figures.style import inline, series_dash, series_variable
from corrnet_train.report.pages.render import render_page
from corrnet_train.report.results import ModelResult, Results
from corrnet_train.report.samples import SampleView, frame_images, moving_image
from corrnet_train.report.table import COLUMNS, best_models, format_percent, video_interval
from corrnet_train.utils.files import write_text


def write_report(
    results: Results,
    path: Path,
    *,
    filters: Mapping[str, Tensor] | None = None,
    samples: Sequence[SampleView] = (),
) -> None:
    """Write the comparison as one self-contained HTML page.

    The page opens from disk, has no script and no external address, follows the reader's light or dark
    setting and fits a phone. It appears under its name only when complete.

    Args:
        results: The comparison.
        path: The page to write; an existing one is replaced, missing folders are made.
        filters: For models to show them of, the weight [L, C, K, K] of the first correlation block.
        samples: Test clips to show with the models' predictions.

    Raises:
        ValueError: If `filters` or `samples` name a model that is not in `results`, or a filter cannot be
            drawn (see `filter_figure`).
        OSError: If the page cannot be written; no partial file is left.
    """
    filters = filters or {}
    names = [model.name for model in results.models]
    named = {*filters, *(name for sample in samples for name in sample.predictions)}
    if unknown := sorted(named - set(names)):
        raise ValueError(f"filters and samples may only name models of the results {names}, got {unknown}")
    write_text(path, _render(results, filters, samples))


def _render(results: Results, filters: Mapping[str, Tensor], samples: Sequence[SampleView]) -> str:
    created = datetime.fromisoformat(results.created)
    return render_page(
        "comparison.html",
        results=results,
        created=f"{created.day} {created:%B %Y, %H:%M %Z}".rstrip(),
        columns=COLUMNS,
        rows=_table_rows(results),
        curves=_curves(results.models),
        smoothed=any(smoothing_window(len(model.curve)) > 1 for model in results.models),
        confusions=_confusions(results),
        samples=[_sample(sample, results.models) for sample in samples],
        filters=_filters(results.models, filters),
        legend=[
            {
                "name": model.name,
                "color": series_variable(index),
                # The legend's lines are 2 units wide, as dash patterns count in line widths.
                "dash": " ".join(f"{2 * length:g}" for length in series_dash(index)),
            }
            for index, model in enumerate(results.models)
        ],
    )


def _table_rows(results: Results) -> list[dict[str, Any]]:
    best = [best_models(results, column) for column in COLUMNS]
    rows = []
    for model in results.models:
        low, high = video_interval(model)
        cells = [
            {
                "title": column.title,
                "text": column.text(model),
                "note": column.note(model) if column.note else None,
                "best": model.name in winners,
            }
            for column, winners in zip(COLUMNS, best, strict=True)
        ]
        rows.append({"name": model.name, "cells": cells, "low": low, "high": high, "top1": model.video_top1})
    return rows


def _curves(models: Sequence[ModelResult]) -> list[dict[str, str]]:
    curves = []
    if any(model.curve for model in models):
        ends = "; ".join(f"{m.name} {m.curve[-1].loss:.3f}" for m in models if m.curve)
        svg = inline(loss_figure(models), prefix="loss")
        curves.append({"svg": svg, "alt": f"Line chart of training loss over steps. Last values: {ends}."})
    if any(model.evals for model in models):
        ends = "; ".join(f"{m.name} {format_percent(m.evals[-1].score)}" for m in models if m.evals)
        num_classes = len(models[0].confusion)
        svg = inline(accuracy_figure(models, num_classes=num_classes), prefix="accuracy")
        alt = f"Line chart of held-out video top-1 accuracy over steps. Last values: {ends}."
        curves.append({"svg": svg, "alt": alt})
    return curves


def _confusions(results: Results) -> list[dict[str, str]]:
    classes = results.dataset.classes
    confusions = []
    for index, model in enumerate(results.models):
        num_right = sum(row[label] for label, row in enumerate(model.confusion))
        summary = f"{num_right} of {model.num_videos} videos right"
        if worst := worst_confusion(model.confusion):
            true, predicted, count = worst
            summary += f"; most frequent mistake: {classes[true]} taken for {classes[predicted]} ({count})"
        svg = inline(confusion_figure(model.confusion, classes), prefix=f"confusion-{index}")
        confusions.append({"name": model.name, "svg": svg, "summary": summary})
    return confusions


def _filters(models: Sequence[ModelResult], filters: Mapping[str, Tensor]) -> list[dict[str, str]]:
    figures = []
    for index, model in enumerate(models):
        if model.name not in filters:
            continue
        weight = filters[model.name]
        title = f"{model.name}, first correlation block: {' × '.join(str(size) for size in weight.shape)}"
        svg = inline(filter_figure(weight, title=title), prefix=f"filters-{index}")
        alt = (
            f"Grid of the correlation filters of {model.name}, {weight.shape[3]} x {weight.shape[3]} weights "
            f"each, for the first {min(8, weight.shape[0])} frames and {min(8, weight.shape[1])} channels, "
            "with arrows to the largest weights."
        )
        figures.append({"svg": svg, "alt": alt})
    return figures


def _sample(sample: SampleView, models: Sequence[ModelResult]) -> dict[str, Any]:
    predictions = [
        {
            "name": model.name,
            "color": series_variable(index),
            "right": sample.predictions[model.name][0][0] == sample.true_class,
            "ranked": sample.predictions[model.name][:3],
        }
        for index, model in enumerate(models)
        if model.name in sample.predictions
    ]
    return {
        "key": sample.key,
        "true_class": sample.true_class,
        "images": frame_images(sample.frames),
        "moving": moving_image(sample.frames) if len(sample.frames) > 1 else "",
        "predictions": predictions,
    }
