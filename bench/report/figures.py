"""The figures of the page, drawn as those of `corrnet_train.report`; over points a text is shown on hover."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.history import Row
from corrnet_train.report.figures.style import INK, figure_style, inline, render, series_color

_LOGARITHMIC_FROM = 4.0  # largest over smallest ratio
_MOST_DATES = 4
_MARKERS = "os^D"
_REACH = 14  # size of the area around a point where its text is shown, in points


@dataclass(frozen=True)
class Kernel:
    """A point of a roofline.

    Attributes:
        name: What was timed.
        series: What it is drawn as.
        intensity: Operations for each byte that has to be moved.
        gflops: Billions of operations a second.
    """

    name: str
    series: str
    intensity: float
    gflops: float


def history_figure(rows: Sequence[Row], commits: Sequence[str], titles: Sequence[str], *, prefix: str) -> str:
    """Draw a benchmark's ratio to its yardstick over commits, with the band of its 20 and 80 % quantiles.

    Args:
        rows: Rows of one benchmark on one machine, with figures.
        commits: All commits of the machine, from old to new: the places on the axis.
        titles: What is shown on hover over each row.
        prefix: Put before ids, so that figures on one page do not clash.

    Returns:
        An `<svg>` element.
    """
    places = [commits.index(row.commit) for row in rows]
    with figure_style():
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        low, high = min(row.ratio20 for row in rows), max(row.ratio80 for row in rows)
        if high > _LOGARITHMIC_FROM * low:
            axes.set_yscale("log")
            _logarithmic(axes.yaxis)
            axes.set_ylim(0.8 * low, 1.25 * high)
        else:  # at least 15 % around the last one, so that noise does not look like change
            axes.set_ylim(min(0.97 * low, 0.85 * rows[-1].ratio50), max(1.03 * high, 1.15 * rows[-1].ratio50))
        bottom, top = axes.get_ylim()
        if bottom < 1 < top:
            axes.axhline(1, color=INK, linewidth=0.9, alpha=0.45)
        color = series_color(0)
        axes.fill_between(
            places, [row.ratio20 for row in rows], [row.ratio80 for row in rows], color=color, alpha=0.2, lw=0
        )
        axes.plot(places, [row.ratio50 for row in rows], color=color, lw=1.6, marker="o", markersize=3.5)
        for number, (place, row) in enumerate(zip(places, rows, strict=True)):
            _reach(axes, place, row.ratio50, f"point-{number}")
        _dates(axes, rows, places)
        _plain(axes)
        svg = inline(render(figure), prefix=prefix)
    return _titled(svg, prefix, titles)


def _dates(axes: Axes, rows: Sequence[Row], places: Sequence[int]) -> None:
    chosen = {round(part * (len(rows) - 1) / (_MOST_DATES - 1)) for part in range(_MOST_DATES)}
    days: dict[str, int] = {}
    for number in sorted(chosen):
        day = datetime.fromisoformat(rows[number].date)
        days.setdefault(f"{day.day} {day:%b}", places[number])
    axes.set_xticks(list(days.values()), list(days))
    axes.set_xlim(-0.5, max(places[-1], 1) + 0.5)


def roofline_figure(gflops: float, gbytes: float, kernels: Sequence[Kernel], *, prefix: str) -> str:
    """Draw what kernels reach below the roof of their machine.

    Args:
        gflops: Billions of operations a second that the machine reaches.
        gbytes: Billions of bytes a second that it moves.
        kernels: The points.
        prefix: Put before ids, so that figures on one page do not clash.

    Returns:
        An `<svg>` element.
    """
    with figure_style():
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        ridge = gflops / gbytes
        places = [kernel.intensity for kernel in kernels] + [ridge]
        left, right = min(places) / 2, 2 * max(places)
        axes.plot([left, ridge, right], [left * gbytes, gflops, gflops], color=INK, lw=1.4)
        for number, series in enumerate(dict.fromkeys(kernel.series for kernel in kernels)):
            points = [kernel for kernel in kernels if kernel.series == series]
            axes.plot(
                [kernel.intensity for kernel in points], [kernel.gflops for kernel in points],
                color=series_color(number), lw=0, marker=_MARKERS[number % len(_MARKERS)], markersize=6, label=series,
            )  # fmt: skip
        for number, kernel in enumerate(kernels):
            _reach(axes, kernel.intensity, kernel.gflops, f"point-{number}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            _logarithmic(axis)
        axes.set_xlim(left, right)
        lowest = min([kernel.gflops for kernel in kernels] + [gflops])
        axes.set_ylim(lowest / 2, 2 * gflops)
        axes.set_xlabel("operations a byte")
        axes.set_ylabel("billion operations a second")
        axes.legend(frameon=False, loc="lower right", fontsize=9)
        _plain(axes)
        svg = inline(render(figure), prefix=prefix)
    titles = [f"{kernel.name}: {kernel.gflops:.3g} billion operations a second" for kernel in kernels]
    return _titled(svg, prefix, titles)


def _logarithmic(axis: Axis) -> None:
    """Give a logarithmic axis few ticks and plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _plain(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=5)
    axes.spines["left"].set_visible(False)


def _reach(axes: Axes, x: float, y: float, name: str) -> None:
    """Lay an area without color over a point; `_titled` gives it a text."""
    style: dict[str, Any] = {"color": INK, "alpha": 0.0, "markeredgewidth": 0, "zorder": 5}
    axes.plot([x], [y], marker="o", markersize=_REACH, gid=name, **style)


def _titled(svg: str, prefix: str, titles: Sequence[str]) -> str:
    for number, title in enumerate(titles):
        group = f'<g id="{prefix}-point-{number}">'
        assert svg.count(group) == 1
        svg = svg.replace(group, f"{group}<title>{html.escape(title)}</title>")
    return svg
