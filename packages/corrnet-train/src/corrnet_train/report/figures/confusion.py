"""Confusion matrices: which classes a model takes for which."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from corrnet_train.evaluation.accuracy import frequent_mistakes
from corrnet_train.report.figures.style import INK, RIGHT, WRONG, figure_style, plain_label, render

_MAX_NUMBERED = 20
_MAX_LABELED = 40
_FAINTEST, _STRONGEST = (
    0.1,
    0.52,
)  # opacity of cells; a count can be read on the strongest, on light and dark pages


def worst_confusion(confusion: Sequence[Sequence[int]]) -> tuple[int, int, int] | None:
    """Return the most frequent mistake.

    Args:
        confusion: Videos by true class (rows) and predicted class (columns).

    Returns:
        True class, predicted class and number of videos; the first in row order among equals; None when
        every video is right.
    """
    return next(iter(frequent_mistakes(confusion)), None)


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> bytes:
    """One confusion matrix as an SVG document.

    The strength of a cell's color is its share of the row. Beyond 20 classes the counts are left out,
    beyond 40 the class names.

    Args:
        confusion: Videos by true class (rows) and predicted class (columns).
        classes: Class names in label order.
    """
    size = len(classes)
    with figure_style():
        figure = Figure(figsize=(4.0, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.set_aspect("equal")
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        for row, counts in enumerate(confusion):
            for column, count in enumerate(counts):
                if count == 0:
                    continue
                share = count / sum(counts)
                axes.add_patch(
                    Rectangle(
                        (column - 0.5, row - 0.5),
                        1,
                        1,
                        facecolor=RIGHT if row == column else WRONG,
                        alpha=_FAINTEST + (_STRONGEST - _FAINTEST) * share,
                        linewidth=0,
                    )
                )
                if size <= _MAX_NUMBERED:
                    axes.text(
                        column,
                        row,
                        str(count),
                        ha="center",
                        va="center_baseline",
                        fontsize=9 if size <= 12 else 6,
                        color=INK,
                    )
        _label_axes(axes, classes)
        return render(figure)


def _label_axes(axes: Axes, classes: Sequence[str]) -> None:
    size = len(classes)
    axes.set_xlabel("predicted", labelpad=6)
    axes.set_ylabel("true", labelpad=6)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    if size <= _MAX_LABELED:
        labels = [plain_label(name, max_length=14) for name in classes]
        font = 9 if size <= 12 else 6
        axes.set_xticks(range(size), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=font)
        axes.set_yticks(range(size), labels, fontsize=font)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            # A class name may hold dollar signs.
            label.set_parse_math(False)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    edges = [index - 0.5 for index in range(size + 1)] if size <= _MAX_LABELED else [-0.5, size - 0.5]
    axes.hlines(edges, -0.5, size - 0.5, color=INK, alpha=0.14, linewidth=0.7)
    axes.vlines(edges, -0.5, size - 0.5, color=INK, alpha=0.14, linewidth=0.7)
