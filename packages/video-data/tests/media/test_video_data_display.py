"""The displayed picture is the same on all ways: turned, with square pixels and true colors, whatever is stored.

Stored frames are computed from a picture that is known everywhere, so the expected pixels come from arithmetic alone.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from video_data import (
    ClipConfig,
    PackOptions,
    decode_views,
    inspect_shards,
    open_shards,
    pack_folder,
    sample_thumbnails,
    verify_shards,
)
from video_data.loading.live import open_frames, sliding_clips
from video_data.media.container import probe_video
from video_data.media.display import Display
from video_data.media.encode import reencode_pictures, reencode_video
from video_data.media.filters import PictureGraph
from video_data.media.flow import gray_pictures
from video_data.media.limits import UnindexableVideo, VideoError
from video_data.media.pictures import picture_frames, pictures_video
from video_data.media.planes import to_rgb
from video_data.sampling.clips import Box, view_boxes
from video_data.shards.format import SampleRecord
from video_data.shards.verify import _differences

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
            frame = av.VideoFrame.from_ndarray(np.rint(rgb).astype(np.uint8), format="rgb24").reformat(
                format=pix_fmt
            )
        elif pix_fmt == "gray":
            frame = av.VideoFrame.from_ndarray(
                np.rint(to_yuv(rgb, 6, True)[..., 0]).astype(np.uint8), format="gray"
            )
        else:
            frame = yuv_frame(to_yuv(rgb, matrix, is_full), pix_fmt)
            context.colorspace = frame.colorspace = matrix if tag is None else tag
            context.color_range = frame.color_range = FULL if is_full else LIMITED
        if turn != TURNS["as stored"]:
            a, b, c, d = (round(value * 2**16) for value in turn)
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
    """Three crops of the second frame along the longer side, [3, 64, 64, 3]."""
    return decode_views(source, CLIP, 1, num_crops=3)[:, :, 1].permute(0, 2, 3, 1).numpy().astype(float)


def planes_view(source) -> np.ndarray:
    clips = to_rgb(decode_views(source, CLIP, 1, num_crops=3, pixels="yuv"))
    return clips[:, :, 1].permute(0, 2, 3, 1).numpy().astype(float)


def packed_view(source) -> np.ndarray:
    return view(reencode_video(source, max_short_side=None, gop=12, crf=1))


WAYS: dict[str, Callable[..., np.ndarray]] = {"rgb": view, "planes": planes_view, "packed": packed_view}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def assert_shows(found: np.ndarray, wanted: np.ndarray, *, most: float = 7, mean: float = 3) -> None:
    """Compare all but the border, where scaling takes from beyond the crop."""
    difference = (found - wanted)[1:-1, 1:-1]
    assert np.abs(difference).max() <= most
    assert np.abs(difference.mean((0, 1))).max() <= mean


def assert_crops_show(found: np.ndarray, shown: tuple[int, int]) -> None:
    """Compare crops with those of a displayed picture of this size."""
    for crop, box in zip(found, view_boxes(shown, CLIP, 3), strict=True):
        assert_shows(crop, expected(shown, box, 64))


@each_way
@each_turn
@pytest.mark.parametrize("size", [(128, 96), (131, 97), (98, 130)], ids=str)
def test_every_turn_is_shown_upright(size, turn, way):
    video = make(size=size, turn=turn)
    shown = size if turn[0] else size[::-1]
    assert probe_video(video).display_size == shown
    even = tuple(2 * round(side / 2) for side in shown) if way is packed_view else shown
    assert_crops_show(way(video), even)


@each_way
@pytest.mark.parametrize(
    ("size", "aspect"),
    [
        ((120, 144), Fraction(8, 3)),
        ((180, 180), Fraction(16, 15)),
        ((180, 180), Fraction(8, 9)),
        ((120, 144), Fraction(1, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("turn", [TURNS["as stored"], TURNS["90"], TURNS["antitranspose"]], ids=str)
def test_pixels_become_square(turn, size, aspect, way):
    video = make(size=size, turn=turn, aspect=aspect)
    shown = (round(size[0] * aspect), size[1])
    shown = shown if turn[0] else shown[::-1]
    assert probe_video(video).display == Display(
        0 if turn[0] else 90 if turn[1] < 0 < turn[2] else 270, turn[2] < 0, aspect
    )
    assert probe_video(video).display_size == shown
    assert_crops_show(way(video), shown)


@each_way
@pytest.mark.parametrize(
    "pix_fmt",
    [
        "yuv410p",
        "yuv411p",
        "yuv440p",
        "yuv422p",
        "yuv444p",
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p10le",
        "bgr0",
    ],
)
@pytest.mark.parametrize("size", [(128, 96), (131, 97)], ids=str)
def test_every_subsampling_depth_and_model_of_colors_is_shown(size, pix_fmt, way):
    video = make(size=size, pix_fmt=pix_fmt)
    with av.open(io.BytesIO(video)) as container:
        assert next(container.decode(video=0)).format.name == pix_fmt
    even = tuple(2 * round(side / 2) for side in size) if way is packed_view else size
    assert_crops_show(way(video), even)


def flat(value: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.zeros((size[1], size[0], 3)) + np.array(value)


@each_way
@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le"])
def test_gray_stays_gray_and_colors_follow_matrix_and_range(pix_fmt, matrix, is_full, way):
    for rgb in ((128, 128, 128), (200, 60, 30), (40, 90, 220)):
        stored = np.rint(to_yuv(flat(rgb), matrix, is_full))
        red, blue = MATRICES[matrix]
        black, luma, chroma = (0, 1, 1) if is_full else (16, 219 / 255, 224 / 255)
        y, u, v = (stored[0, 0] - (black, 128, 128)) / (luma, chroma, chroma)
        exact = np.array([y + (2 - 2 * red) * v, 0, y + (2 - 2 * blue) * u])
        exact[1] = (y - red * exact[0] - blue * exact[2]) / (1 - red - blue)
        found = way(make(pix_fmt=pix_fmt, matrix=matrix, is_full=is_full, colors=flat(rgb)))[1]
        # Pixels may differ by dithering of more than 8 bits; colors by what the fast conversion rounds down.
        assert np.abs(found.mean((0, 1)) - exact).max() <= (1.25 if rgb == (128, 128, 128) else 3.5)


def ycgco_video(pix_fmt: str, is_full: bool, rgb: tuple[int, int, int]) -> bytes:
    red, green, blue = rgb
    y, cg, co = (red + 2 * green + blue) / 4, (2 * green - red - blue) / 4, (red - blue) / 2
    black, luma, chroma = (0, 1, 1) if is_full else (16, 219 / 255, 224 / 255)
    return stored_video(flat((black + luma * y, 128 + chroma * cg, 128 + chroma * co)), pix_fmt, 8, is_full)


def stored_video(yuv: np.ndarray, pix_fmt: str, tag: int, is_full: bool = False) -> bytes:
    """Two frames of these values, tagged with a matrix."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = yuv.shape[1], yuv.shape[0], pix_fmt
        frame = yuv_frame(yuv, pix_fmt)
        stream.codec_context.colorspace = frame.colorspace = tag
        stream.codec_context.color_range = frame.color_range = FULL if is_full else LIMITED
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


@each_way
@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_ycgco_is_shown_in_its_colors(pix_fmt, is_full, way):
    for rgb in ((128, 128, 128), (200, 60, 30), (40, 90, 220)):
        found = way(ycgco_video(pix_fmt, is_full, rgb))[1, 32, 32]
        assert np.abs(found - rgb).max() <= 5


def class_folders(folder: Path, video: bytes) -> Path:
    """Write a video of class a, and a plain one of class b."""
    for path, content in ((folder / "a" / "video.mp4", video), (folder / "b" / "plain.mp4", make())):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return folder / "a" / "video.mp4"


@pytest.mark.parametrize(("tag", "name"), [(10, "BT.2020 constant luminance"), (14, "ICtCp")])
def test_colors_that_nothing_converts_are_refused_on_all_ways_with_the_matrix(tag, name, tmp_path):
    path = class_folders(tmp_path / "videos", stored_video(flat((126, 128, 128)), "yuv420p", tag))
    message = (
        f"its colors \\(yuv420p\\) are tagged with the matrix {name}, .* convert the video to BT.709 first"
    )
    for way in WAYS.values():
        with pytest.raises(VideoError, match=message):
            way(path)
    with pytest.raises(VideoError, match=message), open_frames(str(path)) as frames:
        next(sliding_clips(frames, CLIP, hop=1))
    for mode in ("copy", "reencode"):
        report = pack_folder(
            path.parent.parent, tmp_path / mode, options=PackOptions(mode=mode), progress=False
        )
        assert [name in reason for _, reason in report.dropped] == [True]


def test_a_turn_by_no_right_angle_is_refused_and_a_degree_counts_as_none():
    for degrees, display in ((45, None), (89, Display(90)), (359, Display(0))):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        video = make(turn=(cosine, -sine, sine, cosine), colors=flat((128, 128, 128)))
        if display is None:
            with pytest.raises(
                VideoError, match="turns the picture by 315 degrees clockwise, which is no right"
            ):
                probe_video(video)
        else:
            assert probe_video(video).display == display


def joined(*parts: tuple[bytes, str]) -> bytes:
    """H.264 videos one after the other in a transport stream, each changed by a filter of its bit stream."""
    buffer = io.BytesIO()
    number = 0
    with av.open(buffer, "w", format="mpegts") as output:
        stream = None
        for content, change in parts:
            with av.open(io.BytesIO(content)) as source:
                stream = stream or output.add_stream_from_template(source.streams.video[0])
                start_codes = BitStreamFilterContext("h264_mp4toannexb", source.streams.video[0])
                changed = BitStreamFilterContext(change, "h264")
                for packet in source.demux(video=0):
                    for plain in start_codes.filter(packet) if packet.size else []:
                        for written in changed.filter(plain):
                            written.stream, written.time_base = stream, Fraction(1, 25)
                            written.pts = written.dts = number
                            number += 1
                            output.mux(written)
    return buffer.getvalue()


def test_a_turn_inside_of_the_coded_video_holds_to_the_next_keyframe():
    stored = make(turn=TURNS["90"], size=(128, 96))
    plain = make(colors=stored_colors((128, 96), TURNS["90"], Fraction(1)))
    turned = joined((plain, "h264_metadata=display_orientation=insert:rotate=90"))
    assert probe_video(turned).display == probe_video(stored).display == Display(90)
    assert np.abs(view(turned) - view(stored)).max() == 0


def test_a_turn_that_changes_is_refused_by_copying_and_followed_by_packing():
    upright = make()
    lying = make(colors=stored_colors((128, 96), TURNS["90"], Fraction(1)))
    video = joined((upright, "null"), (lying, "h264_metadata=display_orientation=insert:rotate=90"))
    with pytest.raises(UnindexableVideo, match="rotation or pixel shape changes"):
        probe_video(video)
    packed = reencode_video(video, max_short_side=None, gop=12, crf=1)
    assert probe_video(packed).display_size == (128, 96)
    with av.open(io.BytesIO(packed)) as container:
        pictures = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert_shows(pictures[1], whole((128, 96)))
    # The frames of 96x128 are fitted between black bars.
    assert_shows(pictures[3][:, 28:100], whole((72, 96)))
    assert pictures[3][:, :26].max() <= 3 and pictures[3][:, 102:].max() <= 3


def whole(size: tuple[int, int]) -> np.ndarray:
    """The whole picture, scaled to this size."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    return color(x / size[0], y / size[1])


def test_a_pixel_shape_that_changes_is_refused_by_copying_and_followed_by_packing():
    video = joined((make(), "null"), (make(), "h264_metadata=sample_aspect_ratio=2/1"))
    with pytest.raises(UnindexableVideo, match="rotation or pixel shape changes"):
        probe_video(video)
    packed = reencode_video(video, max_short_side=None, gop=12, crf=1)
    with av.open(io.BytesIO(packed)) as container:
        pictures = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert_shows(pictures[1], whole((128, 96)))
    assert_shows(pictures[3][24:72], whole((128, 48)))
    assert pictures[3][:22].max() <= 3 and pictures[3][74:].max() <= 3


@each_way
def test_a_matrix_that_changes_is_followed(way):
    colors = flat((200, 60, 30))
    parts = (make(matrix=6, colors=colors), "null"), (make(matrix=1, colors=colors), "null")
    clip = CLIP.model_copy(update={"num_frames": 4})
    video = joined(*parts)
    content = reencode_video(video, max_short_side=None, gop=12, crf=1) if way is packed_view else video
    found = decode_views(content, clip, 1, pixels="yuv" if way is planes_view else "rgb")
    found = to_rgb(found) if way is planes_view else found
    assert np.abs(found[0, :, :, 32, 32].numpy().T - np.array((200, 60, 30))).max() <= 4


@each_turn
def test_streams_thumbnails_and_flow_show_the_same_picture(turn, tmp_path):
    size, aspect = (96, 80), Fraction(3, 2)
    video = make(size=size, turn=turn, aspect=aspect)
    shown = (144, 80) if turn[0] else (80, 144)
    path = class_folders(tmp_path / "videos", video)
    with open_frames(str(path)) as frames:
        for window in sliding_clips(frames, CLIP, hop=1):
            assert_shows(PictureGraph(window.frame, window.display).convert(window.frame), whole(shown))
            clip = window.clip
    assert clip is not None and np.array_equal(clip, decode_views(path, CLIP, 1)[0])
    gray = to_yuv(whole(shown), 6, True)[..., 0]
    for picture in gray_pictures(path):
        assert picture.shape == shown[::-1]
        assert np.abs(picture - gray)[1:-1, 1:-1].max() <= 3
    pack_folder(path.parent.parent, tmp_path / "shards", options=PackOptions(mode="copy"), progress=False)
    shards = open_shards(tmp_path / "shards")
    (number,) = (i for i in range(2) if "plain" not in shards.sample("train", i).source)
    thumbnails, _ = sample_thumbnails(shards, num_frames=1, height=80, progress=False)
    width = thumbnails.pictures.shape[2]
    assert width == round(80 * shown[0] / shown[1])
    assert_shows(thumbnails.pictures[0], whole((width, 80)))
    assert shards.info("train", number).display == probe_video(path).display
    assert inspect_shards(shards).sizes == {f"{shown[0]}x{shown[1]}": 1, "128x96": 1}
    assert not verify_shards(tmp_path / "shards", progress=False).problems


def test_an_index_without_mirror_and_pixel_shape_is_read(tmp_path):
    path = class_folders(tmp_path / "videos", make(turn=TURNS["90"]))
    pack_folder(path.parent.parent, tmp_path / "shards", options=PackOptions(mode="copy"), progress=False)
    shards = open_shards(tmp_path / "shards")
    for number in range(2):
        record = shards.sample("train", number)
        older = SampleRecord.model_validate(record.model_dump(exclude={"mirror", "pixel_aspect"}))
        assert older.video_info().display == Display(0 if "plain" in record.source else 90)


def test_an_index_that_shows_another_picture_is_reported():
    record = probe_video(make(turn=TURNS["hflip"], aspect=Fraction(4, 3)))
    upright = replace(record, display=Display())
    assert _differences(record, upright) == [
        "mirroring True, the index says False",
        "pixel aspect 4/3, the index says 1",
    ]


def jpeg(orientation: int) -> bytes:
    """A JPEG picture that shows `color` when a reader turns it as its EXIF says."""
    turn = {1: TURNS["as stored"], 2: TURNS["hflip"], 6: TURNS["270"], 5: TURNS["transpose"]}[orientation]
    rgb = np.rint(stored_colors((96, 64), turn, Fraction(1))).astype(np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as output:
        stream = output.add_stream("mjpeg", rate=1, options={"qmin": "1", "qmax": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj444p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(stream.encode())
    tags = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    content = buffer.getvalue()
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + content[2:]


@pytest.mark.parametrize("orientation", [1, 2, 6, 5])
def test_pictures_are_turned_as_their_exif_says(orientation, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(orientation))
    shown = (96, 64) if orientation < 5 else (64, 96)
    pictures = [tmp_path / "0.jpg", tmp_path / "1.jpg"]
    frames = picture_frames(pictures, Fraction(25))
    for video in (
        pictures_video(tmp_path),
        reencode_pictures(frames, max_short_side=None, gop=12, crf=1),
    ):
        assert probe_video(video).display_size == shown
        assert_crops_show(view(video), shown)


def test_crops_of_pixels_that_are_not_square_keep_their_shape_and_mostly_lie_on_even_columns():
    narrow, wide = Display(pixel_aspect=Fraction(8, 3)), Display(pixel_aspect=Fraction(224, 225))
    assert narrow.stored_box(Box(60, 20, 200, 200), 120, 240) == Box(22, 20, 75, 200)
    assert wide.stored_box(Box(30, 20, 224, 224), 340, 256) == Box(30, 20, 226, 224)
    assert wide.stored_box(Box(114, 0, 224, 224), 340, 256) == Box(114, 0, 226, 224)
