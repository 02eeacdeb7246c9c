"""Clips as cropped Y, U and V planes, as the decoder delivers them; resizing and conversion run on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from av.filter import Graph
from av.video.frame import VideoFrame
from torch import Tensor

from video_data.media.container import VideoInfo, VideoSource
from video_data.media.decode import read_frames
from video_data.media.filters import filter_graph, plane_rows, rotation_filters
from video_data.sampling.clips import Box
from video_data.utils.workers import batch_buffer

P = TypeVar("P", np.ndarray, Tensor)

_PLANAR = ("yuv420p", "yuvj420p")
_FULL_RANGE = 2  # FFmpeg's number of the range that uses all of 0 to 255
# Weights of red and blue in luma, by FFmpeg's numbers of the matrices; others count as BT.601.
_BT601 = (0.299, 0.114)
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


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
    luma_weights: tuple[float, float] = _BT601
    full_range: bool = False
    flip: bool = False
    clips: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of the three planes."""
        return self.num_frames * self.height * self.width * 3 // 2


@dataclass(frozen=True)
class YuvClips:
    """Clips as planes of different sizes in one buffer, which goes to a device in one copy.

    Attributes:
        planes: uint8 [number of bytes]; the parts of `layouts` follow each other.
        layouts: One for each crop of each video.
        shape: The shape before [3, L, H, W] of the clips in RGB: (N,), or (B, V) for test views.
        size: Side in pixels of the square clips in RGB.
        num_frames: Frames L of a clip.
    """

    planes: Tensor
    layouts: tuple[PlaneLayout, ...] = field(repr=False)
    shape: tuple[int, ...]
    size: int
    num_frames: int

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "YuvClips":
        """Return the same clips on a device; `non_blocking` as in `Tensor.to`."""
        return replace(self, planes=self.planes.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "YuvClips":
        """Return a copy in page-locked memory."""
        return replace(self, planes=self.planes.pin_memory())


def to_rgb(clips: YuvClips) -> Tensor:
    """Resize and convert clips on the device on which their planes are.

    It does what decoding to RGB does: planes are resized bilinearly, each chroma sample counts for 2x2 pixels, and
    the matrix and range are those of the video. For 8-bit 4:2:0 video and even sizes results differ by the rounding
    of fixed-point arithmetic: at most by 5 of 255, by less than 1 in the mean.

    Returns:
        uint8 [*clips.shape, 3, L, H, W] with the strides of channels_last_3d; rows without a clip are zero.
    """
    num_clips, size = int(np.prod(clips.shape)), clips.size
    shape = (num_clips, clips.num_frames, size, size, 3)
    out = torch.zeros(shape, dtype=torch.uint8, device=clips.planes.device)
    first = 0
    for layout in clips.layouts:
        pictures = _pictures(clips.planes[first : first + layout.num_bytes], layout, size)
        for row, frames in layout.clips:
            index = torch.tensor(frames, device=out.device)
            torch.index_select(pictures, 0, index, out=out[row])
        first += layout.num_bytes
    video: Tensor = out.movedim(-1, 1).unflatten(0, clips.shape)
    return video


def decode_planes(
    source: VideoSource, info: VideoInfo, frames: Sequence[int], boxes: Sequence[Box]
) -> list[tuple[PlaneLayout, np.ndarray]]:
    """Decode frames of a video as Y, U and V planes of crops, without scaling.

    Videos that are rotated or not 8-bit 4:2:0 are converted to that first.

    Args:
        source: Content of the video, or its path.
        info: The index of the video's frames.
        frames: Indices into `info.pts`, strictly increasing.
        boxes: Parts of the displayed (rotated) picture to cut; all numbers even.

    Returns:
        For each box a layout without clips, and its planes, uint8 [layout.num_bytes].

    Raises:
        VideoError: A frame cannot be decoded or is not what the index says, or a limit is passed.
    """
    cutters = [_PlaneCutter(info.rotation, box, len(frames)) for box in boxes]
    for slot, frame in read_frames(source, info, frames):
        for cutter in cutters:
            cutter.cut(frame, slot)
    return [(cutter.layout, cutter.planes) for cutter in cutters]


class _PlaneCutter:
    """Copies one crop of the planes of frames into a buffer."""

    def __init__(self, rotation: int, box: Box, num_frames: int) -> None:
        self.layout = PlaneLayout(num_frames, box.height, box.width)
        self.planes = np.empty(self.layout.num_bytes, dtype=np.uint8)
        self._targets = split_planes(self.planes, self.layout)
        self._rotation = rotation
        self._box = box
        self._kind: tuple[str, int, int] | None = None
        self._graph: Graph | None = None

    def cut(self, frame: VideoFrame, slot: int) -> None:
        kind = (frame.format.name, int(frame.colorspace), int(frame.color_range))
        if kind != self._kind:
            self._set_kind(frame, kind)
        if self._graph is not None:
            self._graph.vpush(frame)
            frame = self._graph.vpull()
        box = self._box
        for index, target in enumerate(self._targets):
            half = 2 if index else 1
            x, y = (0, 0) if self._graph else (box.x // half, box.y // half)
            rows = plane_rows(frame, index)
            target[slot] = rows[y : y + box.height // half, x : x + box.width // half]

    def _set_kind(self, frame: VideoFrame, kind: tuple[str, int, int]) -> None:
        """Take the matrix and range of the first frame; frames of other kinds are converted to the usual ones."""
        name, matrix, color_range = kind
        box = self._box
        if self._kind is None and name in _PLANAR and self._rotation == 0:
            self.layout = replace(
                self.layout,
                luma_weights=_LUMA_WEIGHTS.get(matrix, _BT601),
                full_range=name == "yuvj420p" or color_range == _FULL_RANGE,
            )
        else:
            full = self._kind is not None and self.layout.full_range
            self._graph = filter_graph(
                frame,
                *rotation_filters(self._rotation),
                ("crop", f"{box.width}:{box.height}:{box.x}:{box.y}"),
                ("scale", f"out_color_matrix=bt601:out_range={'full' if full else 'limited'}"),
                ("format", "yuv420p"),
            )
        self._kind = kind


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
    planes = batch_buffer(sum(layout.num_bytes for layout, _ in parts))
    if parts:
        np.concatenate([part for _, part in parts], out=planes.numpy())
    return YuvClips(planes, tuple(layout for layout, _ in parts), shape, size, num_frames)


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


def _pictures(planes: Tensor, layout: PlaneLayout, size: int) -> Tensor:
    """RGB pictures, uint8 [num_frames, size, size, 3]."""
    y, u, v = split_planes(planes, layout)
    half = -(-size // 2)
    y, u, v = _resize(y, size), _resize(u, half), _resize(v, half)
    u, v = (p.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, :size, :size] for p in (u, v))
    if layout.full_range:
        u, v = u - 128, v - 128
    else:
        y, u, v = (y - 16) * (255 / 219), (u - 128) * (255 / 224), (v - 128) * (255 / 224)
    red, blue = layout.luma_weights
    green = 1 - red - blue
    r = y + 2 * (1 - red) * v
    b = y + 2 * (1 - blue) * u
    g = y - 2 * (1 - blue) * blue / green * u - 2 * (1 - red) * red / green * v
    pictures = torch.stack([r, g, b], dim=-1).floor_().clamp_(0, 255).to(torch.uint8)  # FFmpeg rounds down
    return pictures.flip(2) if layout.flip else pictures


def _resize(plane: Tensor, size: int) -> Tensor:
    """Resize [T, h, w] to float32 [T, size, size] of whole numbers, as FFmpeg scales planes."""
    plane = plane.float()
    if plane.shape[-2] != size:
        plane = _weights(plane.shape[-2], size).to(plane.device) @ plane
    if plane.shape[-1] != size:
        plane = plane @ _weights(plane.shape[-1], size).to(plane.device).T
    return plane.round_()


@lru_cache(maxsize=512)
def _weights(old: int, new: int) -> Tensor:
    """Weights of bilinear resizing, float32 [new, old]; a triangle as wide as the larger of both samples."""
    scale = max(1.0, old / new)
    places = (np.arange(new) + 0.5) * (old / new) - 0.5
    reach = int(np.ceil(scale))
    weights = np.zeros((new, old), dtype=np.float32)
    for tap in range(-reach, reach + 2):
        sample = np.floor(places).astype(int) + tap
        height = np.maximum(0, 1 - np.abs(sample - places) / scale)
        np.add.at(weights, (np.arange(new), sample.clip(0, old - 1)), height)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True))
