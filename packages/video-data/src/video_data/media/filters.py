"""Chains of FFmpeg filters that turn, cut, scale and convert decoded frames."""

from fractions import Fraction

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from video_data.sampling.clips import Box

_ROTATE: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    90: (("transpose", "cclock"),),
    180: (("hflip", ""), ("vflip", "")),
    270: (("transpose", "clock"),),
}
# FFmpeg converts these to RGB with vector instructions when it need not scale in the same step.
_FAST_TO_RGB = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")


class RgbGraph:
    """Rotates, cuts and scales frames of one format to square RGB pictures.

    The usual formats are scaled as they are and then converted, which takes half the time of doing both in one
    step: that step has no vector code for RGB.

    Args:
        frame: A frame of the kind to convert.
        rotation: Degrees counter-clockwise by which the frames are turned first.
        box: The part of the turned frame that is kept.
        size: Side of the result in pixels.
        flip: Whether the result is mirrored left to right.
    """

    def __init__(self, frame: VideoFrame, rotation: int, box: Box, size: int, flip: bool = False) -> None:
        name = frame.format.name
        self._graph = filter_graph(
            frame,
            *rotation_filters(rotation),
            ("crop", f"{box.width}:{box.height}:{box.x}:{box.y}"),
            ("scale", f"{size}:{size}:flags=bilinear"),
            *([("hflip", "")] if flip else []),
            *([("format", name), ("scale", "flags=bilinear")] if name in _FAST_TO_RGB else []),
            ("format", "rgb24"),
        )
        self._size = size

    def convert(self, frame: VideoFrame, out: np.ndarray) -> None:
        """Write the converted frame into `out`, uint8 [size, size, 3]."""
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        assert (picture.width, picture.height) == (self._size, self._size)
        pixels = plane_rows(picture, 0)[:, : 3 * self._size].reshape(out.shape)
        if out.flags.c_contiguous:
            out[:] = pixels
            return
        for channel in range(3):  # beside other channels: a sixth of the time that one assignment takes
            out[..., channel] = pixels[..., channel]


def plane_rows(frame: VideoFrame, index: int) -> np.ndarray:
    """Return the rows of a plane with their padding, uint8 [height of the plane, line size], without copying."""
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height]


def filter_graph(frame: VideoFrame, *filters: tuple[str, str]) -> Graph:
    """Return a chain of FFmpeg filters for frames like `frame`, on the calling thread."""
    graph = Graph()
    graph.threads = 1
    node = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base or Fraction(1, 1000)),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    for name, arguments in (*filters, ("buffersink", "")):
        following = graph.add(name, arguments or None)
        node.link_to(following)
        node = following
    graph.configure()
    return graph


def rotation_filters(rotation: int) -> tuple[tuple[str, str], ...]:
    """Return the filters that turn frames by `rotation` degrees counter-clockwise: 0, 90, 180 or 270."""
    return _ROTATE[rotation]


def frame_rotation(frame: VideoFrame) -> int:
    """Counter-clockwise rotation of a frame in degrees: 0, 90, 180 or 270; other angles count as 0."""
    angle = frame.rotation % 360
    return angle if angle % 90 == 0 else 0
