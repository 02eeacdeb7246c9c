"""Reading chosen frames exactly, from videos of many kinds."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from video_data import ClipConfig, decode_views
from video_data.media.container import decode_packets, open_video, probe_video
from video_data.media.decode import decode_clips
from video_data.media.display import Display
from video_data.media.encode import reencode_video
from video_data.media.filters import RgbGraph
from video_data.media.limits import VIDEO_SUFFIXES, VideoError
from video_data.sampling.clips import Box

WHOLE = Box(0, 0, 64, 64)
B_FRAMES = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-pyramid=normal"}
OPEN_GOP = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:open-gop=1"}
ONE_GOP = {"x264-params": "keyint=250:scenecut=0"}
IRREGULAR = [sum(17 + 13 * (i * i % 7) for i in range(n)) for n in range(40)]

KINDS = {
    "b_frames": {"options": B_FRAMES},
    "open_gop": {"options": OPEN_GOP},
    "one_gop": {"options": ONE_GOP},
    "late_start": {"options": B_FRAMES, "pts": [5000 + 40 * i for i in range(40)]},
    "variable_rate": {"options": B_FRAMES, "pts": IRREGULAR},
    "fragmented": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "matroska": {"options": B_FRAMES, "container": "matroska"},
    "transport_stream": {"options": B_FRAMES, "container": "mpegts", "time_base": Fraction(1, 1000)},
    "avi_mpeg4": {
        "codec": "mpeg4",
        "container": "avi",
        "pts": list(range(40)),
        "time_base": Fraction(1, 25),
        "options": {"g": "10", "qscale": "2"},
    },
    "mpeg2_with_b_frames": {
        "codec": "mpeg2video",
        "container": "mpeg",
        "pts": list(range(40)),
        "time_base": Fraction(1, 25),
        "options": {"g": "10", "bf": "2", "qscale": "2"},
    },
    # On one thread: with its pools of threads the encoder once ended a test process with a segmentation fault.
    "hevc": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=10:log-level=none:pools=none:frame-threads=1"},
    },
    "vp9_with_hidden_frames": {
        "codec": "libvpx-vp9",
        "container": "webm",
        "options": {
            "g": "10",
            "deadline": "good",
            "cpu-used": "5",
            "lag-in-frames": "10",
            "auto-alt-ref": "1",
        },
    },
    "vp8_ogg": {"codec": "libvpx", "container": "ogg", "options": {"g": "10"}},
    "flv": {"container": "flv", "options": {"x264-params": "keyint=10:scenecut=0"}},
    "wmv": {"codec": "wmv2", "container": "asf", "options": {"g": "10", "qscale": "2"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_wanted_frame_is_the_right_one(kind, make_video, frame_numbers):
    video = make_video(range(40), **KINDS[kind])
    info = probe_video(video)
    assert info.num_frames == 40
    for frames in ([0], [39], [9, 10, 11], [3, 17, 18, 36], [10, 20, 30], list(range(40)), [1, 39]):
        decoded = decode_clips(video, info, [frames], [WHOLE], 64)[0]
        assert decoded.shape == (1, len(frames), 64, 64, 3)
        assert frame_numbers(decoded[0]) == frames


@pytest.mark.parametrize("kind", KINDS)
def test_reencoding_keeps_every_frame_and_its_time(kind, make_video, frame_numbers):
    video = make_video(range(40), **KINDS[kind])
    before = probe_video(video)
    packed = reencode_video(video, max_short_side=None, gop=12, crf=20)
    info = probe_video(packed)
    assert info.codec == "h264"
    assert info.keyframes.tolist() == [0, 12, 24, 36]
    assert frame_numbers(decode_clips(packed, info, [range(40)], [WHOLE], 64)[0][0]) == list(range(40))
    seconds_before = [float((t - before.pts[0]) * before.time_base) for t in before.pts.tolist()]
    assert [float(t * info.time_base) for t in info.pts.tolist()] == pytest.approx(seconds_before, abs=1e-3)


@pytest.mark.slow
def test_filmed_videos_are_frame_accurate(filmed_videos):
    """Frames that are sought are the frames that decoding from the start delivers, to the last bit."""
    paths = sorted(path for path in filmed_videos.rglob("*") if path.suffix[1:].lower() in VIDEO_SUFFIXES)
    refused = []
    for path in paths:
        try:
            info = probe_video(path)
        except VideoError as error:  # the folder holds broken and encrypted files too
            refused.append((path.name, error.reason))
            continue
        side = min(info.display_size) // 2 * 2
        box = Box(0, 0, side, side)
        rng = np.random.default_rng(0)
        chosen = np.unique(np.r_[0, rng.integers(0, info.num_frames, 12), info.num_frames - 1]).tolist()
        expected = {}
        with open_video(path) as (container, stream):
            for _, frames in decode_packets(container, stream):
                for frame in frames:
                    number = int(np.searchsorted(info.pts, frame.pts))
                    if number in chosen and number not in expected:
                        expected[number] = np.empty((32, 32, 3), dtype=np.uint8)
                        RgbGraph(frame, info.display, box, 32).convert(frame, expected[number])
        assert sorted(expected) == chosen
        everything = decode_clips(path, info, [chosen], [box], 32)[0][0]
        for number, picture in zip(chosen, everything, strict=True):
            assert np.array_equal(picture, expected[number]), (path, number)
        for number in chosen[1::4]:
            alone = decode_clips(path.read_bytes(), info, [[number]], [box], 32)[0][0, 0]
            assert np.array_equal(alone, expected[number]), (path, number)
    assert len(refused) < len(paths) / 4, refused


def test_index_describes_a_late_variable_rate_video(make_video):
    info = probe_video(make_video(range(40), options=B_FRAMES, pts=[1000 + t for t in IRREGULAR]))
    assert (info.format, info.codec, info.width, info.height, info.display) == (
        "mov",
        "h264",
        64,
        64,
        Display(),
    )
    seconds = [float((t - info.pts[0]) * info.time_base) for t in info.pts.tolist()]
    assert seconds == pytest.approx([t / 1000 for t in IRREGULAR])
    assert info.keyframes.tolist() == [0, 10, 20, 30]


def test_a_late_frame_is_read_without_decoding_what_lies_before_its_keyframe(make_video, frame_numbers):
    video = make_video(range(200), options=B_FRAMES)
    info = probe_video(video)
    damaged = bytearray(video)
    with av.open(io.BytesIO(video)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number < 180 and packet.pos is not None:
                damaged[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    with pytest.raises(VideoError):
        decode_clips(bytes(damaged), info, [[0, 199]], [WHOLE], 64)[0]
    assert frame_numbers(decode_clips(bytes(damaged), info, [[195, 199]], [WHOLE], 64)[0][0]) == [195, 199]


def test_crop_and_scale_match_scaling_the_whole_picture_first(make_video):
    rows, columns = np.mgrid[0:128, 0:160]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        picture = np.stack([rows + columns // 2, columns, 200 - rows], axis=-1).astype(np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    video = buffer.getvalue()
    info = probe_video(video)
    cropped = decode_clips(video, info, [[0]], [Box(32, 16, 96, 96)], 48)[0][0, 0]
    with av.open(io.BytesIO(video)) as container:
        frame = next(container.decode(video=0))
        whole = frame.reformat(width=80, height=64, format="rgb24", interpolation="BILINEAR").to_ndarray()
    difference = np.abs(cropped.astype(int) - whole[8:56, 16:64])
    assert difference[2:-2, 2:-2].max() <= 5
    assert difference.max() <= 8
    assert difference.mean() <= 1.5


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_rotation_is_applied(rotation, turns, make_video, tmp_path):
    video = make_video([0b10110010] * 3, size=(64, 32))
    buffer = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(rotation)
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.stream = stream
                output.mux(packet)
    upright = probe_video(video)
    expected = np.rot90(decode_clips(video, upright, [[0]], [Box(0, 0, 32, 32)], 32)[0][0, 0], turns)
    rotated = buffer.getvalue()
    info = probe_video(rotated)
    assert info.display == Display(rotation)
    assert info.display_size == ((64, 32) if rotation == 180 else (32, 64))
    # The left half of the coded picture lies elsewhere after turning.
    box = {90: Box(0, 32, 32, 32), 180: Box(32, 0, 32, 32), 270: Box(0, 0, 32, 32)}[rotation]
    assert np.abs(decode_clips(rotated, info, [[0]], [box], 32)[0][0, 0].astype(int) - expected).max() <= 2
    again = reencode_video(rotated, max_short_side=None, gop=12, crf=1)
    info = probe_video(again)
    assert info.display == Display()
    assert np.abs(decode_clips(again, info, [[0]], [box], 32)[0][0, 0].astype(int) - expected).max() <= 12


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colors_follow_the_tags(matrix, full_range):
    color = np.zeros((64, 64, 3), dtype=np.uint8) + np.array([200, 60, 30], dtype=np.uint8)
    code = {"bt709": 1, "smpte170m": 6}[matrix]
    color_range = 2 if full_range else 1
    frame = av.VideoFrame.from_ndarray(color, format="rgb24").reformat(
        format="yuv420p", dst_colorspace={1: 1, 6: 5}[code], dst_color_range=color_range
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = code, color_range
        frame.colorspace, frame.color_range = code, color_range
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    video = buffer.getvalue()
    for content in (video, reencode_video(video, max_short_side=None, gop=12, crf=1)):
        pixels = decode_clips(content, probe_video(content), [[0]], [WHOLE], 64)[0][0, 0]
        assert np.abs(pixels.astype(int) - color).max() <= 6


def test_short_side_shrinks_but_never_enlarges(make_video):
    video = make_video(range(3), size=(160, 96))
    assert probe_video(reencode_video(video, max_short_side=48, gop=12, crf=20)).display_size == (80, 48)
    assert probe_video(reencode_video(video, max_short_side=256, gop=12, crf=20)).display_size == (160, 96)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a video",
        bytes(100_000),
        b"\xff\xfe\x00" * 1000,
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
    ids=["empty", "text", "zeros", "bytes", "concat"],
)
def test_garbage_raises_a_video_error(content):
    with pytest.raises(VideoError):
        probe_video(content)


def test_a_cut_file_raises_a_video_error(make_video):
    video = make_video(range(40))
    with pytest.raises(VideoError):
        probe_video(video[: len(video) // 2])


@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat"])
def test_a_sample_cannot_open_other_files(name, make_video, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(make_video(range(5)))
    path = tmp_path / name
    path.write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n")
    for source in (path, path.read_bytes()):
        with pytest.raises(VideoError):
            probe_video(source)
    secret = (tmp_path / "secret.mp4").as_uri()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    with pytest.raises(VideoError):
        probe_video(playlist.encode())


def test_limits_of_frame_size_and_count_are_kept(make_video, monkeypatch):
    video = make_video(range(20))
    monkeypatch.setattr("video_data.media.container.MAX_FRAMES", 10)
    with pytest.raises(VideoError, match="more than 10 frames"):
        probe_video(video)
    monkeypatch.undo()
    monkeypatch.setattr("video_data.media.limits.MAX_PIXELS", 1000)
    with pytest.raises(VideoError, match="larger than 1000 pixels"):
        probe_video(video)


def test_a_wrong_index_raises_instead_of_returning_other_frames(make_video):
    video = make_video(range(20))
    other = probe_video(make_video(range(20), pts=[7 * i + 3 for i in range(20)]))
    with pytest.raises(VideoError, match="wanted frames could not be decoded"):
        decode_clips(video, other, [[5, 6]], [WHOLE], 64)[0]
    larger = probe_video(make_video(range(20), size=(96, 96)))
    with pytest.raises(VideoError, match="64x64"):
        decode_clips(video, larger, [[5]], [WHOLE], 64)[0]


def test_other_kinds_of_files_are_not_opened_as_videos(tmp_path):
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "rgb24", Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
    path = tmp_path / "picture.mp4"
    path.write_bytes(bytes(encoder.encode(picture)[0]))
    with pytest.raises(VideoError):
        probe_video(path)


def open_files() -> int:
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.exists() else 0


def test_decoding_leaves_no_open_files(make_video, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(make_video(range(20)))
    info = probe_video(path)
    before = open_files()
    for _ in range(5):
        decode_clips(path, info, [[1, 15]], [WHOLE], 64)[0]
    assert open_files() == before


def test_a_path_may_be_text(make_video, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(make_video(range(20)))
    clip = ClipConfig(num_frames=4, crop_size=32)
    assert probe_video(str(path)).num_frames == 20
    assert torch.equal(decode_views(str(path), clip, 2), decode_views(path, clip, 2))
    assert len(reencode_video(str(path), max_short_side=32, gop=4, crf=20)) > 0
    with pytest.raises(VideoError, match=f"^{tmp_path}: "):
        decode_views(str(tmp_path), clip, 2)
