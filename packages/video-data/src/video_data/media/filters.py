"""Chains of FFmpeg filters that turn, cut, scale and convert decoded frames."""

from fractions import Fraction

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from video_data.media.display import EXACT, Display, Filters, color_filters
from video_data.sampling.clips import Box

# FFmpeg converts these to RGB with vector instructions when it need not scale in the same step.
_FAST_TO_RGB = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")


class RgbGraph:
    """Cuts frames of one kind, turns them and scales them to square RGB pictures.

    The usual formats are scaled as they are and then converted, which takes half the time of doing both in one
    step: that step has no vector code for RGB. The conversion rounds down, by less than 3 of 255; others are exact.

    Args:
        frame: A frame of the kind to convert.
        display: How it is shown.
        box: The part of the displayed picture that is kept.
        size: Side of the result in pixels.
        flip: Whether the result is mirrored left to right.
    """

    def __init__(self, frame: VideoFrame, display: Display, box: Box, size: int, flip: bool = False) -> None:
        name = frame.format.name
        crop, is_aligned = crop_filters(frame, display.stored_box(box, frame.width, frame.height))
        is_fast = name in _FAST_TO_RGB and is_aligned
        self._graph = filter_graph(
            frame,
            *color_filters(frame),
            *crop,
            *display.turn(),
            ("scale", f"{size}:{size}:flags=bilinear" + ("" if is_fast else f"+{EXACT}")),
            *([("hflip", "")] if flip else []),
            *([("format", name), ("scale", "flags=bilinear")] if is_fast else []),
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


class PictureGraph:
    """Converts frames of one kind to their displayed pictures in RGB.

    Args:
        frame: A frame of the kind to convert.
        display: How it is shown.
        size: Width and height of the result; None takes those of the displayed picture.
    """

    def __init__(self, frame: VideoFrame, display: Display, size: tuple[int, int] | None = None) -> None:
        width, height = size or display.size(frame.width, frame.height)
        self._graph = filter_graph(
            frame, *picture_filters(frame, display, (width, height)), ("format", "rgb24")
        )

    def convert(self, frame: VideoFrame) -> np.ndarray:
        """Return the picture, uint8 [height, width, 3]."""
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        return plane_rows(picture, 0)[:, : 3 * picture.width].reshape(picture.height, picture.width, 3).copy()


def picture_filters(
    frame: VideoFrame, display: Display, size: tuple[int, int], scale_options: str = ""
) -> Filters:
    """Return the filters that turn frames and scale all of them to a size, with exact colors.

    Args:
        frame: A frame of the kind.
        display: How it is shown.
        size: Width and height of the result.
        scale_options: Further options of the filter that scales and converts.
    """
    return (
        *color_filters(frame),
        *display.turn(),
        ("scale", f"{size[0]}:{size[1]}:flags=bicubic+{EXACT}{scale_options}"),
    )


def crop_filters(frame: VideoFrame, box: Box) -> tuple[Filters, bool]:
    """Return the filters that cut a part of the stored frame, and whether it lies on whole samples of chroma.

    Where it does not, chroma is first given the resolution of luma: FFmpeg would cut another part.
    """
    across, down = (16 // samples(16) for samples in (frame.format.chroma_width, frame.format.chroma_height))
    is_aligned = not (box.x % across or box.y % down or box.width % across or box.height % down)
    if is_aligned:
        return (_crop(box),), True
    x, y = box.x // across * across, box.y // down * down
    right = min(-(-(box.x + box.width) // across) * across, frame.width)
    bottom = min(-(-(box.y + box.height) // down) * down, frame.height)
    around, inside = (
        Box(x, y, right - x, bottom - y),
        Box(box.x - x, box.y - y, box.width, box.height),
    )
    to_444: Filters = (("scale", f"flags=bilinear+{EXACT}"), ("format", "yuv444p"))
    return (_crop(around), *to_444, _crop(inside)), False


def _crop(box: Box) -> tuple[str, str]:
    return ("crop", f"{box.width}:{box.height}:{box.x}:{box.y}:exact=1")


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
