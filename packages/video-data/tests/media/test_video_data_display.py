"""The displayed picture is the same on all ways: turned, with square pixels and true colors, whatever is stored.

Stored frames are computed from a picture that is known everywhere, so the expected pixels come from arithmetic alone.
"""

import io
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest

from video_data import ClipConfig, PackOptions, decode_views, open_shards, pack_folder, sample_thumbnails
from video_data.loading.live import open_frames, sliding_clips
from video_data.media.container import probe_video
from video_data.media.decode import decode_clips
from video_data.media.display import Display, frame_display
from video_data.media.encode import reencode_video
from video_data.media.filters import PictureGraph
from video_data.media.flow import gray_pictures
from video_data.media.limits import UnindexableVideo, VideoError
from video_data.media.planes import to_rgb
from video_data.sampling.clips import Box, view_boxes

# The upper left of the display matrix: a stored pixel (p, q) is shown at (a p + c q, b p + d q).
TURNS = {
    "as stored": (1, 0, 0, 1),
    "90": (0, -1, 1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, 1, -1, 0),
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "antitranspose": (0, -1, -1, 0),
}
each_turn = pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
# Luma weights of red and blue by FFmpeg's numbers; those of limited and full range.
MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
LIMITED, FULL = 1, 2
CLIP = ClipConfig(num_frames=2, crop_size=64, short_side=(72, 72))


def color(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """RGB from 0 to 255 at places of the displayed picture, both from 0 to 1; no two corners are alike."""
    return np.stack([60 + 130 * x, 180 - 120 * y, 90 + 50 * x + 60 * y * y], axis=-1)


def stored_colors(size: tuple[int, int], turn: tuple[int, ...], aspect: Fraction) -> np.ndarray:
    """RGB of the stored pixels that show `color` when they are turned, float [height, width, 3]."""
    a, b, c, d = turn
    q, p = np.mgrid[: size[1], : size[0]] + 0.5
    p, q = (p - size[0] / 2) * float(aspect), q - size[1] / 2
    width, height = size[0] * float(aspect), size[1]
    if not a:
        width, height = height, width
    return color((a * p + c * q) / width + 0.5, (b * p + d * q) / height + 0.5)


def to_yuv(rgb: np.ndarray, matrix: int, is_full: bool) -> np.ndarray:
    """Y, U and V of 8 bits, float [height, width, 3]."""
    red, blue = MATRICES[matrix]
    y = rgb @ np.array([red, 1 - red - blue, blue])
    u, v = (rgb[..., 2] - y) / (2 - 2 * blue), (rgb[..., 0] - y) / (2 - 2 * red)
    black, luma, chroma = (0, 1, 1) if is_full else (16, 219 / 255, 224 / 255)
    return np.stack([black + luma * y, 128 + chroma * u, 128 + chroma * v], axis=-1)


def yuv_frame(yuv: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    """A frame of these values, [height, width, 3]; a sample of chroma is the mean of those it stands for."""
    frame = av.VideoFrame(yuv.shape[1], yuv.shape[0], pix_fmt)
    bits = frame.format.components[0].bits
    for plane, values in zip(frame.planes, np.moveaxis(yuv, -1, 0), strict=True):
        down, across = -(-yuv.shape[0] // plane.height), -(-yuv.shape[1] // plane.width)
        padded = np.pad(values, ((0, -len(values) % down), (0, -values.shape[1] % across)), mode="edge")
        means = padded.reshape(plane.height, down, plane.width, across).mean((1, 3))
        kind = np.uint16 if bits > 8 else np.uint8
        rows = np.zeros((plane.buffer_size // plane.line_size, plane.line_size // kind().nbytes), dtype=kind)
        rows[: plane.height, : plane.width] = np.rint(means * 2 ** (bits - 8))
        plane.update(rows)
    return frame


def make(
    *,
    size: tuple[int, int] = (128, 96),
    turn: tuple[int, ...] = TURNS["as stored"],
    aspect: Fraction = Fraction(1),
    pix_fmt: str = "yuv420p",
    matrix: int = 6,
    tag: int | None = None,
    is_full: bool = False,
    colors: np.ndarray | None = None,
) -> bytes:
    """Two frames that show `color` (or have these stored colors), encoded without loss."""
    rgb = stored_colors(size, turn, aspect) if colors is None else colors
    buffer = io.BytesIO()
    if pix_fmt != "yuv420p":
        container, codec, options = "matroska", "ffv1", {}
    elif size[0] % 2 or size[1] % 2:
        container, codec, options = "mp4", "libvpx-vp9", {"lossless": "1"}
    else:
        container, codec, options = "mp4", "libx264", {"qp": "0"}
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        context = stream.codec_context
        context.sample_aspect_ratio = aspect
        if pix_fmt == "bgr0":
            frame = av.VideoFrame.from_ndarray(np.rint(rgb).astype(np.uint8), format="rgb24").reformat(format=pix_fmt)
        elif pix_fmt == "gray":
            frame = av.VideoFrame.from_ndarray(np.rint(to_yuv(rgb, 6, True)[..., 0]).astype(np.uint8), format="gray")
        else:
            frame = yuv_frame(to_yuv(rgb, matrix, is_full), pix_fmt)
            context.colorspace = frame.colorspace = matrix if tag is None else tag
            context.color_range = frame.color_range = FULL if is_full else LIMITED
        if turn != TURNS["as stored"]:
            a, b, c, d = (value << 16 for value in turn)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def expected(size: tuple[int, int], box: Box, side: int) -> np.ndarray:
    """What a box of a displayed picture of this size shows, scaled to a square."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return color((box.x + x * box.width) / size[0], (box.y + y * box.height) / size[1])


def view(source) -> np.ndarray:
    return decode_views(source, CLIP, 1)[0, :, 1].permute(1, 2, 0).numpy().astype(float)


def planes_view(source) -> np.ndarray:
    clips = to_rgb(decode_views(source, CLIP, 1, pixels="yuv"))
    return clips[0, :, 1].permute(1, 2, 0).numpy().astype(float)


def packed_view(source) -> np.ndarray:
    return view(reencode_video(source, max_short_side=None, gop=12, crf=1))


WAYS: dict[str, Callable[..., np.ndarray]] = {"rgb": view, "planes": planes_view, "packed": packed_view}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def assert_shows(found: np.ndarray, wanted: np.ndarray, *, most: float = 7, mean: float = 2.5) -> None:
    """Compare all but the border, where scaling takes from beyond the crop."""
    difference = (found - wanted)[1:-1, 1:-1]
    assert np.abs(difference).max() <= most
    assert np.abs(difference.mean((0, 1))).max() <= mean


@each_way
@each_turn
@pytest.mark.parametrize("size", [(128, 96), (131, 97), (98, 130)], ids=str)
def test_every_turn_is_shown_upright(size, turn, way):
    video = make(size=size, turn=turn)
    shown = size if turn[0] else size[::-1]
    assert probe_video(video).display_size == shown
    even = tuple(2 * round(side / 2) for side in shown) if way is packed_view else shown
    (box,) = view_boxes(even, CLIP, 1)
    assert_shows(way(video), expected(even, box, 64))


@each_way
@pytest.mark.parametrize("aspect", [Fraction(8, 3), Fraction(16, 15), Fraction(8, 9), Fraction(1, 2)], ids=str)
@pytest.mark.parametrize("turn", [TURNS["as stored"], TURNS["90"], TURNS["antitranspose"]], ids=str)
def test_pixels_become_square(turn, aspect, way):
    video = make(size=(120, 144), turn=turn, aspect=aspect)
    shown = (round(120 * aspect), 144)
    shown = shown if turn[0] else shown[::-1]
    assert probe_video(video).display == Display(0 if turn[0] else 90 if turn[1] < 0 < turn[2] else 270, turn[2] < 0, aspect)
    assert probe_video(video).display_size == shown
    (box,) = view_boxes(shown, CLIP, 1)
    assert_shows(way(video), expected(shown, box, 64))


@each_way
@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv410p", "yuv411p", "yuv440p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "bgr0"],
)
@pytest.mark.parametrize("size", [(128, 96), (131, 97)], ids=str)
def test_every_subsampling_depth_and_model_of_colors_is_shown(size, pix_fmt, way):
    video = make(size=size, pix_fmt=pix_fmt)
    with av.open(io.BytesIO(video)) as container:
        assert next(container.decode(video=0)).format.name == pix_fmt
    even = tuple(2 * round(side / 2) for side in size) if way is packed_view else size
    (box,) = view_boxes(even, CLIP, 1)
    assert_shows(way(video), expected(even, box, 64))
