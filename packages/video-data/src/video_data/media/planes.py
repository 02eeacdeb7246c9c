"""Clips as cropped Y, U and V planes, as the decoder delivers them; resizing and conversion run on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from av.filter import Graph
from av.video.frame import VideoFrame
from torch import Tensor

from video_data.media.container import VideoInfo, VideoSource, video_errors
from video_data.media.decode import read_frames
from video_data.media.display import (
    BT601,
    EXACT,
    Display,
    Filters,
    Matrix,
    color_filters,
    color_matrix,
    frame_kind,
    is_full_range,
)
from video_data.media.filters import crop_filters, filter_graph, plane_rows
from video_data.sampling.clips import Box
from video_data.utils.loader import batch_buffer

P = TypeVar("P", np.ndarray, Tensor)

_PLANAR = ("yuv420p", "yuvj420p")


@dataclass(frozen=True)
class PlaneLayout:
    """Where the planes of one crop of one video lie in a buffer, and the clips that are made of them.

    The buffer holds Y [num_frames, height, width], then U and V [num_frames, height / 2, width / 2] each.

    Attributes:
        num_frames: Frames, each stored once.
        height: Rows of Y, an even number.
        width: Columns of Y, an even number.
        luma_weights: Weights of red and blue in luma.
        full_range: Whether luma and chroma use all of 0 to 255, instead of 16 to 235 and 16 to 240.
        flip: Whether the pictures are mirrored left to right.
        clips: For each clip the row of the batch that it fills, and its frames as indices into the stored ones.
    """

    num_frames: int
    height: int
    width: int
    luma_weights: tuple[float, float] = (BT601.red, BT601.blue)
    full_range: bool = False
    flip: bool = False
    clips: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of the three planes."""
        return self.num_frames * self.height * self.width * 3 // 2


class _Picture(NamedTuple):
    """What makes one picture of a clip: a row of the table of `YuvClips`, whole numbers.

    Attributes:
        y, u, v: First byte of the three planes of the frame, from the start of the buffer.
        height, width: Of Y; 0 where there is no picture.
        flip: Whether it is mirrored.
        black: Value of Y that is black.
        luma, v_red, u_green, v_green, u_blue: Coefficients times 2**13, those of green negative.
    """

    y: int
    u: int
    v: int
    height: int
    width: int
    flip: int
    black: int
    luma: int
    v_red: int
    u_green: int
    v_green: int
    u_blue: int


COLUMNS = len(_Picture._fields)
FRACTION_BITS = 13  # of coefficients, as in FFmpeg


@dataclass(frozen=True)
class YuvClips:
    """Clips as planes of different sizes in one buffer, which goes to a device in one copy.

    Attributes:
        data: uint8 [number of bytes]: `table`, then the planes.
        shape: The shape before [3, L, H, W] of the clips in RGB: (N,), or (B, V) for test views.
        size: Side in pixels of the square clips in RGB.
        num_frames: Frames L of a clip.
    """

    data: Tensor
    shape: tuple[int, ...]
    size: int
    num_frames: int

    @property
    def num_pictures(self) -> int:
        """Pictures of all clips."""
        return int(np.prod(self.shape)) * self.num_frames

    @property
    def table(self) -> Tensor:
        """Where the planes of each picture lie and how it is made of them, int64 [num_pictures, 12]."""
        rows = self.data[: 8 * COLUMNS * self.num_pictures].view(torch.int64)
        return rows.view(self.num_pictures, COLUMNS)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "YuvClips":
        """Return the same clips on a device; `non_blocking` as in `Tensor.to`."""
        return replace(self, data=self.data.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "YuvClips":
        """Return a copy in page-locked memory."""
        return replace(self, data=self.data.pin_memory())


def to_rgb(clips: YuvClips) -> Tensor:
    """Resize and convert clips on the device on which their planes are.

    It does what decoding to RGB does: planes are resized bilinearly, each chroma sample counts for 2x2 pixels, and
    the matrix and range are those of the video. For 8-bit 4:2:0 video and even sizes results differ by FFmpeg's
    rounding: at most by 5 of 255, by less than 0.5 in the mean. The arithmetic is that of whole numbers, so all devices
    give equal pictures. With Triton a GPU takes one kernel, for which the host does not wait.

    Returns:
        uint8 [*clips.shape, 3, L, H, W] with the strides of channels_last_3d; rows without a clip are zero.
    """
    return convert(clips, torch.uint8)


def convert(clips: YuvClips, dtype: torch.dtype, *, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    """Return what `to_rgb` does as (pixels - mean) * scale, computed in float32 and rounded to `dtype`.

    Args:
        clips: The planes.
        dtype: Type of the result; uint8 leaves pixels as they are.
        mean: What is subtracted.
        scale: What the difference is multiplied by.
    """
    num_clips, size = int(np.prod(clips.shape)), clips.size
    shape = (num_clips, clips.num_frames, size, size, 3)
    out = torch.empty(shape, dtype=dtype, device=clips.data.device)
    if out.is_cuda and has_triton():
        from video_data.media.planes_kernel import launch

        launch(clips, out, mean=mean, scale=scale)
    else:
        pixels = out if dtype == torch.uint8 else torch.empty(shape, dtype=torch.uint8, device=out.device)
        _write_pictures(clips, pixels.flatten(0, 1))
        if dtype != torch.uint8:
            out.copy_(pixels.float().sub_(mean).mul_(scale))
    video: Tensor = out.movedim(-1, 1).unflatten(0, clips.shape)
    return video


@cache
def has_triton() -> bool:
    """Whether Triton is there, which comes with PyTorch for GPUs on Linux: GPUs then convert planes with a kernel."""
    return find_spec("triton") is not None


@video_errors()
def decode_planes(
    source: VideoSource, info: VideoInfo, frames: Sequence[int], boxes: Sequence[Box]
) -> list[tuple[PlaneLayout, np.ndarray]]:
    """Decode frames of a video as Y, U and V planes of crops, without scaling.

    Videos that are not 8-bit 4:2:0 are converted to that first. Pixels that are not square stay so; resizing makes
    squares of the planes.

    Args:
        source: Content of the video, or its path.
        info: The index of the video's frames.
        frames: Indices into `info.pts`, strictly increasing.
        boxes: Parts of the displayed picture to cut; all numbers even.

    Returns:
        For each box a layout without clips, and its planes, uint8 [layout.num_bytes].

    Raises:
        VideoError: A frame cannot be decoded or is not what the index says, or a limit is passed.
    """
    cutters = [
        _PlaneCutter(info.display, info.display.stored_box(box, info.width, info.height), len(frames))
        for box in boxes
    ]
    for slot, frame in read_frames(source, info, frames):
        for cutter in cutters:
            cutter.cut(frame, slot)
    return [(cutter.layout, cutter.planes) for cutter in cutters]


class _PlaneCutter:
    """Copies one part of the planes of stored frames into a buffer, turned as it is displayed."""

    def __init__(self, display: Display, box: Box, num_frames: int) -> None:
        width, height = display.turned(box.width, box.height)
        self.layout = PlaneLayout(num_frames, _even(height), _even(width))
        self.planes = np.empty(self.layout.num_bytes, dtype=np.uint8)
        self._targets = split_planes(self.planes, self.layout)
        self._display = display
        self._box = box
        self._kind: tuple[object, ...] | None = None
        self._colors: tuple[Matrix, bool] = (BT601, False)
        self._graph: Graph | None = None

    def cut(self, frame: VideoFrame, slot: int) -> None:
        kind = frame_kind(frame)
        if kind != self._kind:
            self._set_graph(frame, is_first=self._kind is None)
            self._kind = kind
        if self._graph is not None:
            self._graph.vpush(frame)
            frame = self._graph.vpull()
        x, y = (0, 0) if self._graph else (self._box.x, self._box.y)
        for index, target in enumerate(self._targets):
            half = 2 if index else 1
            height, width = target.shape[1:]
            rows = plane_rows(frame, index)
            target[slot] = rows[y // half : y // half + height, x // half : x // half + width]

    def _set_graph(self, frame: VideoFrame, *, is_first: bool) -> None:
        """Take the colors of the first frame where its planes can be taken; frames of other kinds are converted."""
        matrix = color_matrix(frame)
        colors = None
        if matrix is not None and frame.format.name in _PLANAR:
            colors = (matrix, is_full_range(frame))
            if is_first:
                self._colors = colors
                weights = (matrix.red, matrix.blue)
                self.layout = replace(self.layout, luma_weights=weights, full_range=colors[1])
        crop, is_aligned = crop_filters(frame, self._box)
        turn = self._display.turn()
        if is_aligned and colors == self._colors:
            is_backwards = frame.planes[0].line_size < 0  # in memory, as frames of AMV
            copied: Filters = (("copy", ""),) if is_backwards else ()
            self._graph = filter_graph(frame, *crop, *copied, *turn) if turn or copied else None
            return
        matrix, is_full = self._colors
        colors_out = f":out_color_matrix={matrix.name}:out_range={'full' if is_full else 'limited'}"
        self._graph = filter_graph(
            frame,
            *color_filters(frame),
            *crop,
            *turn,
            ("scale", f"{self.layout.width}:{self.layout.height}:flags=bicubic+{EXACT}{colors_out}"),
            ("format", "yuv420p"),
        )


def _even(side: int) -> int:
    """Round up a side of the part of a frame whose pixels are not square."""
    return side + side % 2


def join_planes(
    parts: Sequence[tuple[PlaneLayout, np.ndarray]], *, shape: tuple[int, ...], size: int, num_frames: int
) -> YuvClips:
    """Put the planes of many crops into one buffer.

    Args:
        parts: Layouts and their planes.
        shape: `YuvClips.shape`.
        size: `YuvClips.size`.
        num_frames: `YuvClips.num_frames`.
    """
    table = np.zeros((int(np.prod(shape)), num_frames, COLUMNS), dtype=np.int64)
    first = table.nbytes
    for layout, _ in parts:
        luma = layout.height * layout.width
        for row, frames in layout.clips:
            table[row] = _first_picture(layout, first)
            table[row, :, :3] += np.multiply.outer(frames, (luma, luma // 4, luma // 4))
        first += layout.num_bytes
    data = batch_buffer(first)
    np.concatenate([table.reshape(-1).view(np.uint8), *(part for _, part in parts)], out=data.numpy())
    return YuvClips(data, shape, size, num_frames)


def split_planes(planes: P, layout: PlaneLayout) -> tuple[P, P, P]:
    """Y, U and V [num_frames, height, width] of the bytes of a layout."""
    num_frames, height, width = layout.num_frames, layout.height, layout.width
    luma, chroma = num_frames * height * width, num_frames * height * width // 4
    half = (num_frames, height // 2, width // 2)
    return (
        planes[:luma].reshape(num_frames, height, width),
        planes[luma : luma + chroma].reshape(half),
        planes[luma + chroma : luma + 2 * chroma].reshape(half),
    )


def _first_picture(layout: PlaneLayout, first: int) -> _Picture:
    """Return the row of the first frame of a layout whose planes begin at a byte of the buffer."""
    num_samples = layout.num_frames * layout.height * layout.width
    red, blue = layout.luma_weights
    green = 1 - red - blue
    y_range, chroma_range = (255, 255) if layout.full_range else (219, 224)
    in_red, in_blue = 2 * (1 - red), 2 * (1 - blue)
    coefficients = (255 / y_range, in_red, -in_blue * blue / green, -in_red * red / green, in_blue)
    scales = (1, *4 * (255 / chroma_range,))
    return _Picture(
        first,
        first + num_samples,
        first + num_samples * 5 // 4,
        layout.height,
        layout.width,
        layout.flip,
        0 if layout.full_range else 16,
        *(round(c * scale * 2**FRACTION_BITS) for c, scale in zip(coefficients, scales, strict=True)),
    )


def _write_pictures(clips: YuvClips, out: Tensor) -> None:
    """Write RGB pictures into `out`, uint8 [pictures, size, size, 3], with operations of every device."""
    rows = [_Picture(*row) for row in clips.table.tolist()]
    first = 0
    for (height, width, flip, black, *coefficients), group in groupby(rows, lambda row: row[3:]):
        planes = [list(places) for places in zip(*(row[:3] for row in group), strict=True)]
        pictures = out[first : first + len(planes[0])]
        first += len(pictures)
        if not height:
            pictures.zero_()
            continue
        y, u, v = (
            torch.stack([clips.data[place:][: h * w].view(h, w) for place in places])
            for places, h, w in zip(
                planes, (height, height // 2, height // 2), (width, width // 2, width // 2), strict=True
            )
        )
        half = -(-clips.size // 2)
        y, u, v = _resize(y, clips.size) - black, _resize(u, half) - 128, _resize(v, half) - 128
        if flip:
            y = y.flip(-1)
        u, v = (
            p.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, : clips.size, : clips.size] for p in (u, v)
        )
        if flip:
            u, v = u.flip(-1), v.flip(-1)
        # FFmpeg rounds each product down.
        luma, v_red, u_green, v_green, u_blue = (
            (plane * factor) >> FRACTION_BITS
            for plane, factor in zip((y, v, u, v, u), coefficients, strict=True)
        )
        channels = (luma + v_red, luma + u_green + v_green, luma + u_blue)
        for channel, values in enumerate(channels):
            pictures[..., channel] = values.clamp_(0, 255)


def _resize(plane: Tensor, size: int) -> Tensor:
    """Resize uint8 [T, h, w] to int32 [T, size, size] bilinearly, as FFmpeg scales planes.

    Weights are whole numbers, whose products and sums are exact in float64.
    """
    if plane.shape[-2:] == (size, size):
        return plane.int()
    rows, columns = (_weights(old, size).to(plane.device) for old in plane.shape[-2:])
    total = rows @ plane.double() @ columns.T
    return (total / (rows.sum(1, keepdim=True) * columns.sum(1)) + 0.5).int()


@lru_cache(maxsize=512)
def _weights(old: int, new: int) -> Tensor:
    """Weights of bilinear resizing, float64 [new, old]: a triangle as wide as the larger of both samples.

    Its height at a sample is a whole number: distances are multiplied by 2 * new.
    """
    most = 2 * max(old, new)
    twice = 2 * np.arange(new) + 1
    reach = (most + new - 1) // (2 * new)
    weights = np.zeros((new, old))
    for tap in range(-reach, reach + 1):
        sample = twice * old // (2 * new) + tap
        height = np.maximum(0, most - np.abs(2 * new * sample - (twice * old - new)))
        np.add.at(weights, (np.arange(new), sample.clip(0, old - 1)), height)
    return torch.from_numpy(weights)
