"""The loss over the learning rate of a range test."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from corrnet_train.report.figures.style import INK, figure_style, render, series_color


def rates_figure(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggested: float | None
) -> bytes:
    """Losses over rates on a logarithmic axis, as an SVG document.

    The losses of single steps are drawn faintly under the smoothed ones, and the suggested rate is a line.
    """
    with figure_style():
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(rates, losses, color=series_color(0), linewidth=0.9, alpha=0.28)
        axes.plot(rates, smoothed, color=series_color(0), linewidth=1.9)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        top = 2 * max(smoothed[: max(1, len(smoothed) // 2)])
        axes.set_ylim(min(0.0, min(smoothed)), top)  # where it diverges is past all bounds
        if suggested is not None:
            axes.axvline(suggested, color=INK, alpha=0.45, linewidth=0.9)
        return render(figure)
