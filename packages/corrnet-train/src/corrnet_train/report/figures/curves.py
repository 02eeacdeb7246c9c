"""Learning curves: training loss and held-out accuracy of all models."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from corrnet_train.report.figures.style import INK, figure_style, render, series_color, series_dash
from corrnet_train.report.results import Curves, ModelResult
from corrnet_train.report.stats import running_mean

_SIZE_INCHES = (5.0, 3.1)


def smoothing_window(num_points: int) -> int:
    """Points averaged by the loss curve's solid line: about 5 % of them, odd, 1 for short curves."""
    return 2 * (num_points // 40) + 1


def loss_figure(models: Sequence[ModelResult | Curves]) -> bytes:
    """Training loss over steps, one line per model, as an SVG document.

    The logged values are drawn faintly under their running mean.
    """
    with figure_style():
        figure, axes = _new_axes("training loss")
        top = 0.0
        for index, model in enumerate(models):
            steps = [point.step for point in model.curve]
            losses = [point.loss for point in model.curve]
            top = max([top, *losses])
            window = smoothing_window(len(losses))
            if window > 1:
                axes.plot(steps, losses, color=series_color(index), linewidth=0.9, alpha=0.28)
            _line(axes, index, steps, running_mean(losses, window=window))
        if top > 0:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=1.05 * top)
        return render(figure)


def accuracy_figure(models: Sequence[ModelResult | Curves], *, num_classes: int) -> bytes:
    """Held-out video top-1 over steps, one line per model, as an SVG document.

    Args:
        models: The models, in the order that fixes their colors.
        num_classes: Gives the accuracy of a uniform guess, drawn as a faint line.
    """
    with figure_style():
        figure, axes = _new_axes("held-out video top-1")
        guess = 1 / num_classes
        axes.axhline(guess, color=INK, linewidth=0.9, alpha=0.45)
        axes.annotate(
            "uniform guess",
            (1, guess),
            # Below the line, out of the way of curves that start there, if the axis leaves room.
            (0, -11) if guess > 0.1 else (0, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            alpha=0.75,
        )
        for index, model in enumerate(models):
            steps = [point.step for point in model.evals]
            _line(axes, index, steps, [point.score for point in model.evals], marker="o", markersize=4)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        return render(figure)


def score_figure(curves: Curves) -> bytes:
    """Scores of the evaluations over steps, by their name, as an SVG document."""
    with figure_style():
        figure, axes = _new_axes(f"held-out {curves.score_name}")
        steps = [point.step for point in curves.evals]
        _line(axes, 0, steps, [point.score for point in curves.evals], marker="o", markersize=4)
        axes.set_ylim(bottom=0)
        return render(figure)


def _new_axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, pad=8, fontweight="bold")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=5)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _line(
    axes: Axes,
    index: int,
    x: Sequence[float],
    y: Sequence[float],
    *,
    marker: str = "",
    markersize: float = 0.0,
) -> None:
    dash = series_dash(index)
    style = (0, dash) if dash else "solid"
    axes.plot(
        x,
        y,
        color=series_color(index),
        linewidth=1.9,
        linestyle=style,
        marker=marker,
        markersize=markersize,
        clip_on=False,
        zorder=3,
    )
