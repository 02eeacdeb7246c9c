"""Displacement fields over frames: as a video, a picture of some frames, or a page of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from corrnet_train.analysis.correlation_layers import CorrelationLayer
from corrnet_train.analysis.motion import MotionField
from corrnet_train.report.figures.video import VideoWriter, text_font
from corrnet_train.report.pages.render import render_page
from corrnet_train.report.pictures import data_url
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_ending, write_text
from video_data.utils.files import atomic_path

SUFFIXES = (".mp4", ".png", ".html")
_SIDE = 448  # pixels of a drawn frame, at least
_LEGEND = 72  # pixels below it
_ARROW_PITCH = 18  # pixels between arrows, at least
_SHOWN = 8  # frames of a picture or a page
_INK = (235, 237, 242)


def write_motion(
    fields: Iterable[MotionField],
    layer: CorrelationLayer,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw fields over their frames.

    Args:
        fields: In order.
        layer: What they were made from.
        path: `.mp4` shows all of them, `.png` and `.html` at most 8 spaced evenly; an existing file is replaced.
        title: Heading of the page.

    Raises:
        ValueError: The ending is another one, or there are no fields.
    """
    check_ending(path, SUFFIXES)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        with VideoWriter(path) as writer:
            for field in fields:
                writer.add(draw_field(field, layer), field.seconds)
        return
    kept = list(fields)
    if not kept:
        raise InputError("no frames to draw")
    # The first frame is matched with itself and tells nothing.
    places = np.linspace(min(1, len(kept) - 1), len(kept) - 1, min(_SHOWN, max(1, len(kept) - 1)))
    shown = [kept[place] for place in places.round().astype(int)]
    pictures = [draw_field(field, layer) for field in shown]
    if suffix == ".png":
        with atomic_path(path) as temporary:
            _sheet(pictures).save(temporary, format="png")
        return
    frames = [
        {"image": data_url(picture, quality=88), "alt": _caption(field)}
        for field, picture in zip(shown, pictures, strict=True)
    ]
    write_text(path, render_page("motion.html", title=title, layer=_facts(layer), frames=frames))


def draw_field(field: MotionField, layer: CorrelationLayer) -> Image.Image:
    """One frame with colors and arrows for its motion, and the legend below.

    An arrow ends at the position it belongs to and is as long as the motion there. The hue is its direction, the
    saturation grows with the square root of its length up to as far as the layer reaches.

    Args:
        field: The frame and its motion.
        layer: What it was made from.
    """
    factor = max(1, -(-_SIDE // field.picture.shape[0]))
    side = factor * field.picture.shape[0]
    limit = layer.reach * layer.spatial_stride
    colors, weights = motion_colors(field.motion, limit)
    frame = Image.fromarray(field.picture).resize((side, side), Image.Resampling.BILINEAR)
    frame = ImageEnhance.Color(frame).enhance(0.25)  # so that colors mean motion
    overlay = Image.fromarray(colors).resize((side, side), Image.Resampling.NEAREST)
    mask = Image.fromarray((150 * weights).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (side, side + _LEGEND), (20, 22, 26))
    canvas.paste(Image.composite(overlay, frame, mask))
    draw = ImageDraw.Draw(canvas)
    _draw_arrows(draw, field.motion * factor, side)
    canvas.paste(_wheel(_LEGEND - 12), (side - _LEGEND + 6, side + 6))
    step = "" if layer.temporal_stride == 1 else f" in {layer.temporal_stride} frames"
    text = "\n".join([*_caption(field).split(": "), f"{layer.name}: full color at {limit} px{step}"])
    draw.multiline_text((10, side + 8), text, font=text_font(text, 14), fill=_INK, spacing=5)
    return canvas


def motion_colors(motion: NDArray[np.float32], limit: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Colors of motion [..., 2] to the right and down: RGB [..., 3] and their weights [...] in 0..1.

    Args:
        motion: In pixels.
        limit: Length in pixels at which the weight is 1.
    """
    right, down = motion[..., 0], motion[..., 1]
    hue = np.arctan2(down, right) / (2 * math.pi) % 1 * 6
    channels = [np.clip(np.abs((hue + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    colors: NDArray[np.uint8] = (255 * np.stack(channels, axis=-1)).round().astype(np.uint8)
    weights: NDArray[np.float32] = np.sqrt(np.hypot(right, down) / limit).clip(0, 1).astype(np.float32)
    return colors, weights


def _draw_arrows(draw: ImageDraw.ImageDraw, motion: NDArray[np.float32], side: int) -> None:
    """Arrows at positions that are far enough from each other; motion is in drawn pixels."""
    rows, columns = motion.shape[:2]
    pitch = side / rows
    every = max(1, math.ceil(_ARROW_PITCH / pitch))
    for row in range(every // 2, rows, every):
        for column in range(every // 2, columns, every):
            right, down = map(float, motion[row, column])
            length = math.hypot(right, down)
            if length < 2:
                continue
            tip = ((column + 0.5) * pitch, (row + 0.5) * pitch)
            _draw_arrow(draw, (tip[0] - right, tip[1] - down), tip, min(7.0, 0.5 * length))


def _draw_arrow(
    draw: ImageDraw.ImageDraw, tail: tuple[float, float], tip: tuple[float, float], head: float
) -> None:
    angle = math.atan2(tip[1] - tail[1], tip[0] - tail[0])
    barbs = [
        (tip[0] - head * math.cos(angle + turn), tip[1] - head * math.sin(angle + turn))
        for turn in (-0.5, 0.5)
    ]
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        draw.line([tail, tip], fill=color, width=width)
        draw.line([barbs[0], tip, barbs[1]], fill=color, width=width)


def _wheel(size: int) -> Image.Image:
    """Return the colors of all directions; full color at the rim."""
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    motion = np.stack(np.meshgrid(steps, steps), axis=-1)
    colors, weights = motion_colors(motion, 1.0)
    inside = np.hypot(*np.moveaxis(motion, -1, 0)) <= 1
    shades = np.where(inside[..., None], 255 - weights[..., None] * (255.0 - colors), (20, 22, 26))
    return Image.fromarray(shades.round().astype(np.uint8))


def _caption(field: MotionField) -> str:
    right, down = (float(value) for value in np.median(field.motion.reshape(-1, 2), axis=0))
    words = [
        f"{arrows[value < 0]} {abs(value):.1f} px"
        for value, arrows in ((right, "→←"), (down, "↓↑"))
        if abs(value) >= 0.05
    ]
    return f"frame {field.number}, {field.seconds:.2f} s: median {' '.join(words) or '0 px'}"


def _facts(layer: CorrelationLayer) -> str:
    stride, reach = layer.spatial_stride, layer.reach
    step = (
        "from one frame to the next" if layer.temporal_stride == 1 else f"over {layer.temporal_stride} frames"
    )
    return (
        f"{layer.name}: motion {step}; a position is {stride} pixels wide, the window reaches {reach} positions, "
        f"{reach * stride} pixels"
    )


def _sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in rows of up to four."""
    columns = min(4, len(pictures))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet
