"""The learned correlation filters as a picture (paper, section 6.4 and Figure 4)."""

from __future__ import annotations

import math
import textwrap
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from corrnet_train.analysis.correlation_layers import nearest_first
from corrnet_train.report.figures.style import figure_style, plain_label, render, render_png
from corrnet_train.utils.errors import InputError

# Dark in the middle, so that the white arrows stand out on weights near the mean as well.
_COLORMAP = LinearSegmentedColormap.from_list(
    "filters", ["#8fd0ff", "#3d92dd", "#1c4f80", "#17181c", "#7d4214", "#dd7d22", "#ffc078"]
)


def largest_offsets(weight: Tensor) -> NDArray[np.int64]:
    """Where each filter is largest, as steps from its center.

    Args:
        weight: Filters [L, C, K, K] with odd K.

    Returns:
        Steps down and to the right [L, C, 2]. Among equal weights the one nearest to the center counts,
        then the first in row order; a constant filter gives (0, 0).
    """
    values = weight.detach().cpu().double().numpy()
    num_frames, num_channels, size, _ = values.shape
    radius = size // 2
    steps = nearest_first(radius)
    rows, columns = (steps + radius).T
    offsets: NDArray[np.int64] = steps[values[:, :, rows, columns].argmax(axis=-1)]
    assert offsets.shape == (num_frames, num_channels, 2)
    return offsets


def filter_figure(
    weight: Tensor,
    *,
    max_frames: int = 8,
    max_channels: int = 8,
    title: str,
    format: Literal["svg", "png"] = "svg",
) -> bytes:
    """Draw correlation filters as in the paper's Figure 4.

    Rows are frames, columns are channels; each tile is one K x K filter in image orientation. The colors
    are symmetric about the mean of the weights shown and reach the weight farthest from it, so nothing
    is clipped and a tile's strength can be compared with any other. The mean, not the initial value, is the
    middle because weight decay moves all weights together. A white arrow goes from the window's center to
    the largest weight; there is none where the center itself is largest.

    Args:
        weight: Filters [L, C, K, K] with odd K, any floating dtype and device.
        max_frames: The first `max_frames` frames are shown.
        max_channels: The first `max_channels` channels are shown.
        title: Text above the figure.
        format: What is written.

    Returns:
        An SVG document with transparent background, whose text takes the color of its surroundings; or a PNG file with
        black text on white.

    Raises:
        ValueError: If the shape is not [L, C, K, K] with odd K, a weight is not finite or a limit below 1.
    """
    if (
        weight.ndim != 4
        or weight.shape[2] != weight.shape[3]
        or weight.shape[3] % 2 == 0
        or not weight.numel()
    ):
        raise ValueError(
            f"weight must be [L, C, K, K] with odd K and no empty axis, got {list(weight.shape)}"
        )
    for name, limit in (("max_frames", max_frames), ("max_channels", max_channels)):
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
    shown = weight[:max_frames, :max_channels]
    values = shown.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise InputError("weight must be finite, got NaN or infinity")

    num_frames, num_channels, size, _ = values.shape
    # One row and column between the tiles stays NaN, which is drawn transparent.
    pitch = size + 1
    canvas = np.full((num_frames, pitch, num_channels, pitch), np.nan)
    canvas[:, :size, :, :size] = values.transpose(0, 2, 1, 3)
    canvas = canvas.reshape(num_frames * pitch, num_channels * pitch)[:-1, :-1]
    mean = float(values.mean())
    # Equal weights have no range; any positive one shows them in the middle color.
    reach = float(np.abs(values - mean).max()) if values.max() > values.min() else 1.0
    # Enough digits for the ends of the scale to read differently from its middle.
    digits = max(0, 2 - math.floor(math.log10(reach)))

    with figure_style():
        # Fewer than four tiles would leave no room for the labels.
        width, height = 1.6 + 0.5 * max(num_channels, 4), 0.9 + 0.5 * max(num_frames, 4)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(
            canvas, cmap=_COLORMAP, vmin=mean - reach, vmax=mean + reach, interpolation="none"
        )
        _draw_arrows(axes, largest_offsets(shown), pitch=pitch, size=size)
        # About ten characters fit an inch; a wider title would squeeze the tiles.
        lines = textwrap.fill(plain_label(title, max_length=200), width=int(10 * width))
        axes.set_title(lines, pad=10, fontweight="bold", parse_math=False)
        axes.set_xticks(np.arange(num_channels) * pitch + size // 2, map(str, range(num_channels)))
        axes.set_yticks(np.arange(num_frames) * pitch + size // 2, map(str, range(num_frames)))
        axes.set_xlabel("channel")
        axes.set_ylabel("frame")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=28, label="weight")
        assert bar.solids is not None
        bar.solids.set_rasterized(True)
        bar.outline.set_visible(False)
        bar.set_ticks([mean - reach, mean, mean + reach])
        bar.ax.set_yticklabels([f"{value:.{digits}f}" for value in bar.get_ticks()])
        return render(figure) if format == "svg" else render_png(figure)


def _draw_arrows(axes: Axes, offsets: NDArray[np.int64], *, pitch: int, size: int) -> None:
    frames, channels = np.nonzero(offsets.any(axis=-1))
    if not len(frames):
        return
    down, right = offsets[frames, channels].T
    axes.quiver(
        channels * pitch + size // 2,
        frames * pitch + size // 2,
        right,
        down,
        angles="xy",
        units="xy",
        scale_units="xy",
        scale=1,
        width=0.08 * size,
        headwidth=3.0,
        headlength=2.6,
        headaxislength=2.3,
        minlength=0,
        color="white",
        edgecolor="black",
        linewidth=0.6,
    )
