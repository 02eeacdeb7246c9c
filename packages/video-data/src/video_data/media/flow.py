"""Optical flow by Farneback's method: computed when packing, kept as a gray video beside the sample's own.

Frame i of a flow video is the motion from frame i to frame i + 1 of the video, in pixels of its displayed picture, x to
the right and y downwards; the last frame repeats the one before. The upper half of its picture holds x, the lower y. A
byte b stands for (b - 128) * `FLOW_LIMIT` / 127 pixels, so 128 is no motion, and larger motion is cut to
`FLOW_LIMIT`. Why so: docs/decisions/flow.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from video_data.media.container import VideoInfo, VideoSource, decode_packets, open_video, video_errors
from video_data.media.decode import read_frames, unique_frames
from video_data.media.display import Displays, frame_kind
from video_data.media.encode import encode_h264
from video_data.media.filters import filter_graph, picture_filters, plane_rows
from video_data.media.limits import VideoError, check_frame_size
from video_data.sampling.clips import Box
from video_data.utils.errors import MissingPackageError, describe

FLOW_LIMIT = 20.0  # pixels; what two-stream networks are usually trained with
FLOW_CRF = 18
NO_MOTION = 128  # the byte of no motion
_STEPS = 127
_RATE = 25  # of the flow video; its frames are found by their numbers
# OpenCV's documentation uses these numbers, and with it most of the field.
_FARNEBACK: dict[str, Any] = {
    "pyr_scale": 0.5,
    "levels": 3,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}


def check_flow() -> None:
    """Raise ImportError, with the extra's name, when OpenCV is missing."""
    _import_cv2()


@video_errors()
def flow_video(source: VideoSource, *, gop: int) -> bytes:
    """Compute the flow of a video from frame to frame and encode it.

    Args:
        source: Content of a video, or its path; of a packed one to get the flow that packing stores.
        gop: Frames from one keyframe of the flow video to the next.

    Returns:
        The content of an mp4 file of as many frames as the video has, as wide as its displayed picture and twice as
        high.

    Raises:
        VideoError: The video cannot be decoded to its end, its picture size changes, or it is too large for twice the
            height.
        ImportError: OpenCV is missing (extra `flow`).
    """
    return encode_h264(_flow_frames(gray_pictures(source)), gop=gop, crf=FLOW_CRF)


def gray_pictures(source: VideoSource) -> Iterator[np.ndarray]:
    """Return the displayed pictures of a video, uint8 [H, W]."""
    with open_video(source) as (container, stream):
        graph: Graph | None = None
        kind: object = None
        displays = Displays(stream)
        for _, frames in decode_packets(container, stream):
            for frame in frames:
                display = displays.of(frame)
                if kind != (display, frame_kind(frame)):
                    kind = (display, frame_kind(frame))
                    size = display.size(frame.width, frame.height)
                    graph = filter_graph(frame, *picture_filters(frame, display, size), ("format", "gray"))
                assert graph is not None
                graph.vpush(frame)
                gray = graph.vpull()
                yield plane_rows(gray, 0)[:, : gray.width].copy()


def _flow_frames(pictures: Iterator[np.ndarray]) -> Iterator[VideoFrame]:
    """Frames of the flow video."""
    last: np.ndarray | None = None
    previous: np.ndarray | None = None
    number = 0
    with single_threaded():
        for picture in pictures:
            if previous is not None and picture.shape != previous.shape:
                raise VideoError("picture size changes")
            if previous is not None:
                last = quantize_flow(farneback_flow(previous, picture))
                yield _frame(last, number)
                number += 1
            previous = picture
    if previous is not None:
        still = np.full((*previous.shape, 2), NO_MOTION, dtype=np.uint8)
        yield _frame(still if last is None else last, number)


def farneback_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Motion in pixels from one gray picture to another, float32 [H, W, 2], x to the right and y downwards."""
    flow: np.ndarray = _import_cv2().calcOpticalFlowFarneback(first, second, None, **_FARNEBACK)
    return flow


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep OpenCV on the calling thread: processes share the cores here."""
    cv2 = _import_cv2()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _frame(values: np.ndarray, number: int) -> VideoFrame:
    stacked = np.concatenate([values[..., 0], values[..., 1]])
    check_frame_size(stacked.shape[1], stacked.shape[0])
    frame = VideoFrame.from_ndarray(stacked, format="gray")
    frame.pts, frame.time_base = number, Fraction(1, _RATE)
    return frame


def quantize_flow(flow: np.ndarray) -> np.ndarray:
    """Pixels of motion as bytes: uint8 of the same shape; 128 is none, 1 and 255 are `FLOW_LIMIT`."""
    steps = np.clip(np.rint(flow * (_STEPS / FLOW_LIMIT)), -_STEPS, _STEPS)
    values: np.ndarray = (steps + NO_MOTION).astype(np.uint8)
    return values


@video_errors()
def decode_flow(
    source: VideoSource,
    info: VideoInfo,
    clips: Sequence[Sequence[int]],
    boxes: Sequence[Box],
    size: int,
    *,
    flip: bool = False,
    out: np.ndarray,
) -> None:
    """Decode clips of a flow video as crops that match those of `decode_clips`.

    Motion is given in pixels of the result: scaling a crop scales it too, and mirroring turns x around.

    Args:
        source: Content of the flow video, or its path.
        info: The index of its frames.
        clips: For each clip its frames, [N][L].
        boxes: Parts of the displayed picture of the video to cut.
        size: Side in pixels to which each part is scaled (bilinear).
        flip: Whether to mirror the parts left to right.
        out: Array for the result, uint8 [N, len(boxes), L, size, size, 2], x and y in bytes as `quantize_flow` gives.

    Raises:
        VideoError: A frame cannot be decoded or is not what the index says, or a limit is passed.
    """
    frames, places = unique_frames(clips)
    height = info.height // 2
    cutters: dict[str, list[_FlowCutter]] = {}
    for slot, frame in read_frames(source, info, frames):
        name = frame.format.name
        if name not in cutters:
            cutters[name] = [_FlowCutter(frame, box, height, size, flip) for box in boxes]
        (clip, time), *others = places[slot]
        for crop, cutter in enumerate(cutters[name]):
            picture = out[clip, crop, time]
            cutter.cut(frame, picture)
            for other, other_time in others:
                out[other, crop, other_time] = picture


class _FlowCutter:
    """Cuts one crop of both halves of flow frames."""

    def __init__(self, frame: VideoFrame, box: Box, height: int, size: int, flip: bool) -> None:
        self._graphs = [
            filter_graph(
                frame,
                ("format", "gray"),  # FFmpeg decodes monochrome as 4:2:0
                ("crop", f"{box.width}:{box.height}:{box.x}:{box.y + offset}:exact=1"),
                ("scale", f"{size}:{size}:flags=bilinear"),
                *([("hflip", "")] if flip else []),
            )
            for offset in (0, height)
        ]
        steps = (np.arange(256) - NO_MOTION) * (size / box.width)
        scaled = np.clip(np.rint(steps), -_STEPS, _STEPS)
        self._tables = [(NO_MOTION + sign * scaled).astype(np.uint8) for sign in (-1 if flip else 1, 1)]
        self._size = size

    def cut(self, frame: VideoFrame, out: np.ndarray) -> None:
        """Write the crop of a frame into `out`, uint8 [size, size, 2]."""
        for half, (graph, table) in enumerate(zip(self._graphs, self._tables, strict=True)):
            graph.vpush(frame)
            out[..., half] = np.take(table, plane_rows(graph.vpull(), 0)[:, : self._size])


def _import_cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            f"optical flow needs OpenCV ({describe(error)}): pip install 'video-data[flow]'"
        ) from error
    module: ModuleType = cv2
    return module
