"""Planes for the device show what decoding to RGB shows."""

import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from video_data import (
    ClipConfig,
    PackOptions,
    decode_views,
    eval_loader,
    normalize,
    open_shards,
    pack_folder,
    train_loader,
)
from video_data.media.container import probe_video
from video_data.media.decode import decode_clips
from video_data.media.planes import PlaneLayout, YuvClips, decode_planes, join_planes, split_planes, to_rgb
from video_data.sampling.clips import Box

LARGEST, MEAN = 5, 0.5  # of 255, as the docstring of to_rgb says


def textured_video(
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (96, 72),
    codec: str = "libx264",
    container: str = "mp4",
    **tags: int,
) -> bytes:
    """Eight frames of moving colored waves."""
    buffer = io.BytesIO()
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    with av.open(buffer, "w", format=container) as output:
        options = {"crf": "8"} if codec != "amv" else {}
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(8):
            phases = (rows / 5 + number, columns / 4 - number, (rows + columns) / 7)
            picture = np.stack([127 + 100 * np.sin(phase) for phase in phases], axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            for name, value in tags.items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def assert_equal_pictures(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= LARGEST
    assert difference.float().mean() <= MEAN


def on_device(video: bytes, box: Box, size: int) -> np.ndarray:
    info = probe_video(video)
    ((layout, planes),) = decode_planes(video, info, [1, 4, 6], [box])
    layout = replace(layout, clips=((0, (0, 1, 2)),))
    return (
        to_rgb(join_planes([(layout, planes)], shape=(1,), size=size, num_frames=layout.num_frames))[0]
        .movedim(0, -1)
        .numpy()
    )


@pytest.mark.parametrize(
    "box", [Box(8, 4, 64, 64), Box(0, 0, 72, 72), Box(24, 10, 40, 40), Box(2, 2, 62, 62)], ids=str
)
@pytest.mark.parametrize("size", [48, 64])
def test_planes_show_the_same_pictures(box, size):
    video = textured_video()
    expected = decode_clips(video, probe_video(video), [[1, 4, 6]], [box], size)[0][0]
    assert_equal_pictures(torch.tensor(on_device(video, box, size)), torch.tensor(expected))


@pytest.mark.parametrize(
    ("codec", "decoded_as", "tags"),
    [
        ("libx264", "yuv420p", {"colorspace": 1, "color_range": 1}),
        ("libx264", "yuv420p", {"colorspace": 9, "color_range": 1}),
        ("libx264", "yuvj420p", {"colorspace": 6, "color_range": 2}),
        ("libvpx-vp9", "yuv420p", {"colorspace": 6, "color_range": 2}),
    ],
)
def test_matrix_and_range_are_those_of_the_video(codec, decoded_as, tags):
    video, box = textured_video(codec=codec, **tags), Box(8, 4, 56, 56)
    with av.open(io.BytesIO(video)) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, int(frame.color_range)) == (decoded_as, tags["color_range"])
    expected = decode_clips(video, probe_video(video), [[1, 4, 6]], [box], 48)[0][0]
    assert_equal_pictures(torch.tensor(on_device(video, box, 48)), torch.tensor(expected))


def test_planes_whose_rows_lie_backwards_in_memory_are_upright():
    video, box = textured_video("yuvj420p", (96, 80), "amv", "avi"), Box(8, 4, 56, 56)
    with av.open(io.BytesIO(video)) as container:
        assert next(container.decode(video=0)).planes[0].line_size < 0
    expected = decode_clips(video, probe_video(video), [[1, 4, 6]], [box], 48)[0][0]
    assert_equal_pictures(torch.tensor(on_device(video, box, 48)), torch.tensor(expected))


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_other_formats_are_converted_to_planes_first(pix_fmt):
    video, box = textured_video(pix_fmt), Box(8, 4, 56, 56)
    expected = decode_clips(video, probe_video(video), [[1, 4, 6]], [box], 48)[0][0]
    difference = np.abs(on_device(video, box, 48).astype(int) - expected)
    assert difference.mean() <= 8  # color has half the resolution


def test_painted_numbers_survive(make_video, frame_numbers):
    video = make_video(range(40), options={"x264-params": "keyint=10:bframes=3"})
    views = to_rgb(
        decode_views(video, ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64)), 3, pixels="yuv")
    )
    assert views.shape == (3, 3, 4, 64, 64)
    assert frame_numbers(views.movedim(1, -1).numpy()) == [0, 1, 2, 3, 18, 19, 20, 21, 36, 37, 38, 39]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textured")
    for number in range(6):
        path = folder / "videos" / f"class {number % 2}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textured_video(size=(96 - 8 * number, 72)))
    pack_folder(folder / "videos", folder / "shards", options=PackOptions(mode="copy"), progress=False)
    return open_shards(folder / "shards")


CLIP = ClipConfig(num_frames=4, crop_size=32, short_side=(36, 48), flip=True)
LONG = ClipConfig(num_frames=12, crop_size=32, short_side=(36, 48))  # longer than the videos


@pytest.mark.parametrize("clip", [CLIP, LONG], ids=["clip", "repeated frames"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_training_loader_hands_out_planes(clip, num_workers, shards):
    options = {"batch_size": 3, "seed": 4, "num_samples": 12, "num_workers": num_workers}
    rgb = list(train_loader(shards, "train", clip, **options))
    yuv = list(train_loader(shards, "train", clip, **options, pixels="yuv"))
    assert [batch.keys for batch in yuv] == [batch.keys for batch in rgb]
    for ours, theirs in zip(yuv, rgb, strict=True):
        assert isinstance(ours.video, YuvClips)
        video = to_rgb(ours.video)
        assert video.shape == theirs.video.shape
        assert video.stride() == theirs.video.stride()
        assert_equal_pictures(video, theirs.video)
        assert torch.equal(normalize(ours.video), normalize(video))


def test_the_eval_loader_hands_out_planes(shards):
    options = {"num_clips": 2, "num_crops": 3, "batch_size": 2, "rank": 1, "world_size": 4}
    for ours, theirs in zip(
        eval_loader(shards, "train", CLIP, **options, pixels="yuv"),
        eval_loader(shards, "train", CLIP, **options),
        strict=True,
    ):
        assert_equal_pictures(to_rgb(ours.video), theirs.video)
        assert ours.valid.tolist() == theirs.valid.tolist()


def test_planes_of_a_batch_that_only_fills_up_a_rank_are_black(shards):
    num_videos = shards.num_samples("train")
    options = {"num_clips": 1, "batch_size": 1, "rank": num_videos, "world_size": num_videos + 1}
    (batch,) = eval_loader(shards, "train", CLIP, **options, pixels="yuv")
    assert batch.valid.tolist() == [False]
    video = to_rgb(batch.video)
    assert video.shape == (1, 1, 3, CLIP.num_frames, CLIP.crop_size, CLIP.crop_size)
    assert not video.any()


def test_unknown_pixels_are_refused(shards):
    for call in (
        lambda: train_loader(shards, "train", CLIP, batch_size=1, seed=0, pixels="bgr"),
        lambda: eval_loader(shards, "train", CLIP, pixels="bgr"),
        lambda: decode_views(b"", CLIP, 1, pixels="bgr"),
    ):
        with pytest.raises(ValueError, match="pixels must be 'rgb' or 'yuv', got 'bgr'"):
            call()


def test_rows_without_a_clip_are_black():
    layout = PlaneLayout(1, 2, 2, clips=((1, (0, 0)),))
    video = to_rgb(join_planes([(layout, np.full(6, 200, dtype=np.uint8))], shape=(3,), size=2, num_frames=2))
    assert video.shape == (3, 3, 2, 2, 2)
    assert video[0].max() == video[2].max() == 0
    assert video[1].min() > 0


def random_part(height: int, width: int, num_frames: int = 3, **options) -> tuple[PlaneLayout, np.ndarray]:
    layout = PlaneLayout(num_frames, height, width, **options)
    rng = np.random.default_rng(height + width)
    return layout, rng.integers(0, 256, layout.num_bytes, dtype=np.uint8)


def test_the_table_says_where_the_planes_of_each_picture_lie():
    parts = [
        random_part(4, 8, clips=((2, (0, 2)), (0, (1, 1)))),
        random_part(6, 2, clips=((3, (2, 1)),), flip=True, full_range=True),
    ]
    clips = join_planes(parts, shape=(2, 2), size=4, num_frames=2)
    table = clips.table.view(4, 2, -1)
    assert not table[1].any()  # no clip
    for layout, planes in parts:
        for row, frames in layout.clips:
            for entry, frame in zip(table[row].tolist(), frames, strict=True):
                assert entry[3:7] == [
                    layout.height,
                    layout.width,
                    layout.flip,
                    0 if layout.full_range else 16,
                ]
                for first, plane in zip(entry, split_planes(planes, layout), strict=False):
                    found = clips.data[first : first + plane[frame].size]
                    assert found.tolist() == plane[frame].reshape(-1).tolist()
    assert clips.data.nbytes == clips.table.nbytes + sum(layout.num_bytes for layout, _ in parts)


def triangle(old: int, new: int, place: int) -> dict[int, Fraction]:
    """Weights of the samples that make a pixel."""
    scale = max(Fraction(old, new), Fraction(1))
    middle = (place + Fraction(1, 2)) * Fraction(old, new) - Fraction(1, 2)
    weights: dict[int, Fraction] = {}
    for sample in range(-old, 2 * old):
        inner = min(max(sample, 0), old - 1)
        weights[inner] = weights.get(inner, 0) + max(Fraction(0), 1 - abs(sample - middle) / scale)
    total = sum(weights.values())
    return {sample: weight / total for sample, weight in weights.items()}


@pytest.mark.parametrize(("height", "width", "size"), [(10, 4, 4), (4, 6, 7), (8, 12, 5)])
def test_pictures_are_resized_exactly_and_rounded_once(height, width, size):
    layout, planes = random_part(height, width, 1, full_range=True, clips=((0, (0,)),))
    gray, *chroma = split_planes(planes, layout)
    for plane in chroma:
        plane[:] = 128
    video = to_rgb(join_planes([(layout, planes)], shape=(1,), size=size, num_frames=1))
    for y, x in np.ndindex(size, size):
        exact = sum(
            wy * wx * int(gray[0, row, column])
            for row, wy in triangle(height, size, y).items()
            for column, wx in triangle(width, size, x).items()
        )
        assert video[0, :, 0, y, x].tolist() == 3 * [int(exact + Fraction(1, 2))]


@pytest.mark.parametrize(("full_range", "black", "white"), [(True, 0, 255), (False, 16, 235)])
def test_black_and_white_are_those_of_the_range(full_range, black, white):
    layout = PlaneLayout(1, 2, 2, full_range=full_range, clips=((0, (0,)),))
    planes = np.array([black, white, black, white, 128, 128], dtype=np.uint8)
    video = to_rgb(join_planes([(layout, planes)], shape=(1,), size=2, num_frames=1))
    assert video[0, :, 0].tolist() == 3 * [[[0, 255], [0, 255]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_planes_are_normalized_in_the_type_asked_for(dtype):
    part = random_part(8, 6, clips=((0, (0, 2)),))
    clips = join_planes([part], shape=(1,), size=4, num_frames=2)
    found = normalize(clips, dtype)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(found, normalize(to_rgb(clips)).to(dtype))
