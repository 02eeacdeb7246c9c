"""The displayed picture of a frame: what FFmpeg's player shows of it, upright, with square pixels and its own colors.

Whatever packs, copies, reads, cuts or draws frames takes size, turn, pixel shape and colors from here. Tone curves and
primaries are left as they are.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.media.limits import VideoError, check_frame_size
from video_data.sampling.clips import Box

Filters = tuple[tuple[str, str], ...]


def _unlisted(cls: type[Type], number: int) -> Type:
    member = object.__new__(cls)
    member._name_ = f"UNLISTED_{number}"
    member._value_ = number  # type: ignore[assignment]
    return member


# PyAV 18 reads no side data of frames that have one of a kind its list lacks, as the EXIF of JPEG pictures.
Type._missing_ = classmethod(_unlisted)  # type: ignore[assignment, method-assign]

# Rounds every color to the nearest value. Without, FFmpeg makes gray 128 of BT.709 (124, 126, 123).
EXACT = "accurate_rnd+full_chroma_int"

_TURNS: dict[tuple[int, bool], Filters] = {  # by rotation and mirroring
    (0, False): (),
    (90, False): (("transpose", "cclock"),),
    (180, False): (("hflip", ""), ("vflip", "")),
    (270, False): (("transpose", "clock"),),
    (0, True): (("hflip", ""),),
    (90, True): (("transpose", "cclock_flip"),),
    (180, True): (("vflip", ""), ("copy", "")),  # alone it hands on rows that lie backwards in memory
    (270, True): (("transpose", "clock_flip"),),
}


class Matrix(NamedTuple):
    """How colors become luma and chroma: FFmpeg's name, and the weights of red and blue in luma."""

    name: str
    red: float
    blue: float


BT601 = Matrix("bt601", 0.299, 0.114)
# By FFmpeg's numbers; untagged video (2), and luma and chroma that are tagged as RGB (0), count as BT.601 there too.
_MATRICES = {
    0: BT601,
    1: Matrix("bt709", 0.2126, 0.0722),
    2: BT601,
    4: Matrix("fcc", 0.30, 0.11),
    5: BT601,
    6: BT601,
    7: Matrix("smpte240m", 0.212, 0.087),
    9: Matrix("bt2020", 0.2627, 0.0593),
}
_YCGCO = 8
_OTHER_MATRICES = {
    3: "a reserved number",
    _YCGCO: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
# What FFmpeg's filter for YCgCo takes.
_YCGCO_FORMATS = frozenset(
    f"{kind}{chroma}p{bits}"
    for kind, depths in (("yuv", ("", "10le", "12le")), ("yuvj", ("",)))
    for chroma in ("420", "422", "444")
    for bits in depths
)
_YCGCO_TO_BT709 = "ispace=ycgco:space=bt709:iprimaries=bt709:primaries=bt709:itrc=bt709:trc=bt709:fast=1"
_MANY_COLUMNS = 100
_FULL_RANGE = 2  # FFmpeg's number of the range that uses all of 0 to 255
# These containers have no pixel aspect ratio of their own, so that of the codec counts, which may change.
_NO_PIXEL_ASPECT = ("mpegts", "mpeg", "mpegvideo")


@dataclass(frozen=True)
class Display:
    """How the stored frames of a video are shown.

    Attributes:
        rotation: Degrees counter-clockwise by which frames are turned: 0, 90, 180 or 270.
        mirror: Whether frames are mirrored left to right before they are turned.
        pixel_aspect: Width of a stored pixel divided by its height.
    """

    rotation: int = 0
    mirror: bool = False
    pixel_aspect: Fraction = Fraction(1)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in square pixels of what is shown of a stored frame: its height is kept, its width fits."""
        return self.turned(round(width * self.pixel_aspect), height)

    def turned(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after turning."""
        return (height, width) if self.rotation % 180 else (width, height)

    def turn(self) -> Filters:
        """Return the filters that mirror and turn stored frames."""
        return _TURNS[self.rotation, self.mirror]

    def stored_box(self, box: Box, width: int, height: int) -> Box:
        """Return the part of a stored frame that a part of the displayed picture shows.

        Where pixels are not square its columns are rounded: to an even number, which most formats can be cut at, where
        that changes the shape by at most one percent, else to a whole number.

        Args:
            box: Part of the displayed picture.
            width: Columns of the stored frame.
            height: Rows of the stored frame.
        """
        square_width = round(width * self.pixel_aspect)
        if self.rotation % 180:
            x, y, columns, rows = box.y, box.x, box.height, box.width
        else:
            x, y, columns, rows = box.x, box.y, box.width, box.height
        if (self.rotation in (90, 180)) != self.mirror:
            x = square_width - x - columns
        if self.rotation in (180, 270):
            y = height - y - rows
        if square_width != width:
            scale = Fraction(width, square_width)
            step = 2 if columns * scale >= _MANY_COLUMNS else 1
            columns = min(max(2, step * round(columns * scale / step)), width // step * step)
            x = min(step * round(x * scale / step), (width - columns) // step * step)
        return Box(x, y, columns, rows)


class Displays:
    """Says how the frames of a stream are shown, one after the other in the order of the decoder.

    A matrix inside of the coded video holds to the next keyframe, as the standards say; FFmpeg hands it out with the
    frames alone that carry it, in many files the keyframes.

    Args:
        stream: An open stream that is being decoded.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._turn = (0, False)

    def of(self, frame: VideoFrame) -> Display:
        """Return how the next frame is shown.

        Raises:
            VideoError: As `frame_display`.
        """
        turn = _turn(frame)
        if turn is not None or frame.key_frame:
            self._turn = turn or (0, False)
        # The containers' ratio counts more than the codec's, as for FFmpeg; frames do not tell their own.
        has_one = self._stream.container.format.name not in _NO_PIXEL_ASPECT
        teller = self._stream if has_one else self._stream.codec_context
        return _checked(frame, self._turn, teller.sample_aspect_ratio)


def frame_display(frame: VideoFrame, pixel_aspect: Fraction | None) -> Display:
    """Return how a frame is shown that stands alone.

    Args:
        frame: The frame; its display matrix says how it is turned and mirrored.
        pixel_aspect: Width of its pixels divided by their height; None where nothing says it.

    Raises:
        VideoError: The matrix turns by no right angle, colors are coded in a way that FFmpeg cannot convert, or what is
            shown exceeds the limits of size.
    """
    return _checked(frame, _turn(frame) or (0, False), pixel_aspect)


def _checked(frame: VideoFrame, turn: tuple[int, bool], pixel_aspect: Fraction | None) -> Display:
    display = Display(*turn, pixel_aspect if pixel_aspect and pixel_aspect > 0 else Fraction(1))
    check_frame_size(*display.size(frame.width, frame.height))
    color_filters(frame)
    return display


def _turn(frame: VideoFrame) -> tuple[int, bool] | None:
    """Return rotation and mirroring as FFmpeg's player takes them from the display matrix; None without one."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(side_data, SideData):
        return None
    matrix = np.frombuffer(memoryview(side_data), dtype=np.int32)[:9].reshape(3, 3)
    a, b, c, d = matrix[:2, :2].reshape(-1).astype(float)
    widths = np.hypot(a, c), np.hypot(b, d)
    if not all(widths):
        return (180, True) if d < 0 else (0, False)
    # Clockwise in whole degrees, as FFmpeg rounds them; one degree more or less counts as a right angle.
    degrees = round(float(np.degrees(np.arctan2(b / widths[1], a / widths[0]))))
    quarter = round(degrees / 90)
    if abs(degrees - 90 * quarter) > 1:
        raise VideoError(
            f"its display matrix turns the picture by {degrees % 360} degrees clockwise, which is no right angle: turn "
            "it with FFmpeg first, or take the matrix out",
            reason="the display matrix turns by no right angle",
        )
    # The mirrored ones have the same angle as one of the others.
    return {
        0: (180, True) if d < 0 else (0, False),
        1: (90, True) if c > 0 else (270, False),
        2: (180, False) if d < 0 else (0, True),
        3: (270, True) if c < 0 else (90, False),
    }[quarter % 4]


def is_full_range(frame: VideoFrame) -> bool:
    """Whether luma and chroma of a frame use all of 0 to 255."""
    return frame.format.name.startswith("yuvj") or int(frame.color_range) == _FULL_RANGE


def color_matrix(frame: VideoFrame) -> Matrix | None:
    """Return the matrix of a frame with luma and chroma; None where it needs `color_filters` first."""
    return _MATRICES.get(int(frame.colorspace))


def color_filters(frame: VideoFrame) -> Filters:
    """Return the filters that make frames like this one convertible to RGB: none for all but YCgCo.

    Raises:
        VideoError: FFmpeg has nothing that converts them.
    """
    number = int(frame.colorspace)
    if number in _MATRICES or frame.format.is_rgb or len(frame.format.components) < 3:
        return ()
    if number == _YCGCO and frame.format.name in _YCGCO_FORMATS:
        return (("colorspace", _YCGCO_TO_BT709),)
    name = _OTHER_MATRICES.get(number, f"number {number}")
    raise VideoError(
        f"its colors ({frame.format.name}) are tagged with the matrix {name}, which FFmpeg does not convert: "
        "convert the video to BT.709 first, or mend the tag if it is wrong",
        reason=f"colors with the matrix {name}",
    )


def frame_kind(frame: VideoFrame) -> tuple[object, ...]:
    """Return what frames must have in common to pass through one filter graph."""
    return (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
