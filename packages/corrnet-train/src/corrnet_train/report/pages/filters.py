"""The learned filters of all correlation layers of a model, as one page or one picture (paper, Figure 4)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from corrnet_train.analysis.correlation_layers import CorrelationLayer
from corrnet_train.report.figures.filters import filter_figure
from corrnet_train.report.figures.style import inline
from corrnet_train.report.pages.render import render_page
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_ending, write_text
from video_data.utils.files import atomic_path

SUFFIXES = (".html", ".png")


def write_filters(
    layers: Sequence[CorrelationLayer], path: Path, *, title: str, max_frames: int = 8, max_channels: int = 8
) -> None:
    """Draw the filters of correlation layers: rows are frames, columns channels, each tile K x K weights.

    Args:
        layers: Layers with filters.
        path: File that ends with .html or .png; an existing one is replaced.
        title: Heading of the page.
        max_frames: The first `max_frames` frames are shown.
        max_channels: The first `max_channels` channels are shown.

    Raises:
        ValueError: The ending is another one, a layer has no filters or a weight is not finite.
    """
    suffix = path.suffix.lower()
    check_ending(path, SUFFIXES)
    bare = [layer.name for layer in layers if layer.filters is None]
    if bare:
        raise InputError(
            f"this model correlates without filters in {', '.join(bare)}: there is nothing to draw"
        )
    if suffix == ".html":
        figures = [
            {
                "svg": inline(
                    filter_figure(
                        _filters(layer),
                        title=_caption(layer),
                        max_frames=max_frames,
                        max_channels=max_channels,
                    ),
                    prefix=f"filters-{number}",
                ),
                "alt": _description(layer, max_frames, max_channels),
            }
            for number, layer in enumerate(layers)
        ]
        write_text(path, render_page("filters.html", title=title, figures=figures))
        return
    documents = [
        filter_figure(
            _filters(layer),
            title=_caption(layer),
            max_frames=max_frames,
            max_channels=max_channels,
            format="png",
        )
        for layer in layers
    ]
    tiles = [Image.open(io.BytesIO(document)) for document in documents]
    sheet = Image.new("RGB", (max(tile.width for tile in tiles), sum(tile.height for tile in tiles)), "white")
    top = 0
    for tile in tiles:
        sheet.paste(tile, (0, top))
        top += tile.height
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="png")


def _filters(layer: CorrelationLayer) -> Tensor:
    assert layer.filters is not None
    return layer.filters


def _caption(layer: CorrelationLayer) -> str:
    shape = " × ".join(str(size) for size in _filters(layer).shape)
    module = layer.module
    groups = "1 group" if module.groups == 1 else f"{module.groups} groups"
    size = module.channels // module.groups
    return f"{layer.name}: {shape}, {groups} of {size} channels, dilation {module.dilation[0]}"


def _description(layer: CorrelationLayer, max_frames: int, max_channels: int) -> str:
    num_frames, num_channels, size, _ = _filters(layer).shape
    return (
        f"Grid of the correlation filters of {layer.name}, {size} x {size} weights each, for the first "
        f"{min(max_frames, num_frames)} of {num_frames} frames and {min(max_channels, num_channels)} of {num_channels} "
        "channels, with arrows to the largest weights."
    )
