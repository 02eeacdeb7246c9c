"""Where times of frames do not increase, they are put right: in order, with their durations, the same everywhere."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from video_data import ClipConfig, PackOptions, decode_views, open_shards, pack_folder
from video_data.loading.live import open_frames, sliding_clips
from video_data.loading.views import decode_timed_views
from video_data.media.container import open_video, probe_video, video_seconds
from video_data.media.decode import decode_clips
from video_data.media.encode import reencode_video
from video_data.media.limits import UnindexableVideo
from video_data.media.times import repair_times
from video_data.sampling.clips import Box

WHOLE = Box(0, 0, 64, 64)
B_FRAMES = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-pyramid=normal"}
NO_B_FRAMES = {"x264-params": "keyint=5:scenecut=0:bframes=0"}


@pytest.mark.parametrize(
    ("pts", "expected", "parts"),
    [
        ([5, 6, 8, 9], [0, 1, 3, 4], 1),
        ([0, 3, 2, 4, 1, 5], [0, 1, 2, 3, 4, 5], 1),  # in the order of decoding
        ([10, 30, 20, 60, 50], [0, 10, 20, 40, 50], 1),  # the gap of 20 stays one of 20
        ([0, 0, 4, 4, 8, 8], [0, 2, 4, 6, 8, 10], 1),
        ([0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5], 2),  # half a tick each
        ([0, 0, 0, 6], [0, 2, 4, 6], 1),
        ([None, None, None], [0, 3, 6], 1),
        ([7], [0], 1),
        ([], [], 1),
    ],
)
def test_times_are_sorted_and_shared(pts, expected, parts):
    keys = [number == 0 for number in range(len(pts))]
    assert repair_times(pts, keys, 3) == (expected, parts)


@pytest.mark.parametrize("start", [0, -40, 5])
def test_time_goes_on_where_it_begins_anew(start):
    first = list(range(0, 120, 2))
    second = [start + time for time in range(0, 80, 2)]
    keys = [number in (0, len(first)) for number in range(len(first) + len(second))]
    assert repair_times(first + second, keys, 1) == (list(range(0, 200, 2)), 1)


def test_one_wrong_time_moves_no_other():
    pts = list(range(0, 1000, 10))
    wrong = [*pts[:50], 0, *pts[51:]]
    assert repair_times(wrong, [number % 10 == 0 for number in range(100)], 10) == (pts, 1)


def test_short_parts_are_told_apart_by_their_keyframes():
    assert repair_times([0, 1, 2, 0, 1, 2], [True, False, False] * 2, 1) == (list(range(6)), 1)


def exchange(number, packet):
    packet.pts += 3200 + (640 if number % 2 == 0 else -640)


def pair(number, packet):
    packet.pts = packet.pts // 1280 * 1280 + 3200


@pytest.fixture(scope="module")
def disordered(make_video, remux):
    """Videos of 40 frames, 40 ms each, by what is wrong with their times."""
    plain = make_video(range(40), options=NO_B_FRAMES, time_base=Fraction(1, 16000), pts=range(0, 25600, 640))
    halves = [
        make_video(numbers, container="mpegts", options=B_FRAMES) for numbers in (range(20), range(20, 40))
    ]
    return {
        "exchanged": remux(plain, "matroska", exchange),
        "H.264 with B-frames in AVI": make_video(
            range(40), container="avi", pts=range(40), time_base=Fraction(1, 25), options=B_FRAMES
        ),
        "joined": b"".join(halves),
        "pairs of one time": remux(plain, "mp4", pair),
    }


KINDS = ["exchanged", "H.264 with B-frames in AVI", "joined", "pairs of one time"]
EXPECTED = [0.04 * number for number in range(40)]


def seconds(video: bytes) -> list[float]:
    info = probe_video(video)
    return [float(time * info.time_base) for time in info.pts.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_keeps_all_frames_their_order_and_their_durations(kind, disordered, frame_numbers):
    packed = reencode_video(disordered[kind], max_short_side=None, gop=12, crf=10)
    assert seconds(packed) == pytest.approx(EXPECTED, abs=0.0011)
    shown = decode_clips(packed, probe_video(packed), [range(40)], [WHOLE], 64)[0][0]
    assert frame_numbers(shown) == list(range(40))


@pytest.mark.parametrize("count", [3, 5, 8])
def test_the_last_frames_of_an_avi_have_their_times(count, make_video):
    """FFmpeg makes up one for the last packet, which another frame has already."""
    video = make_video(range(count), container="avi")
    packed = reencode_video(video, max_short_side=None, gop=12, crf=10)
    assert seconds(packed) == pytest.approx(EXPECTED[:count])


@pytest.mark.parametrize("kind", KINDS)
def test_copying_is_refused_with_the_remedy(kind, disordered):
    with pytest.raises(
        UnindexableVideo, match=r"(time stamps go back|one time stamp); pack it with mode reencode"
    ):
        probe_video(disordered[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_packing_views_and_windows_agree(kind, disordered, frame_numbers, tmp_path):
    path = tmp_path / "videos" / "a" / "video.mkv"
    path.parent.mkdir(parents=True)
    path.write_bytes(disordered[kind])
    other = tmp_path / "videos" / "b" / "video.mkv"
    other.parent.mkdir()
    other.write_bytes(disordered[kind])
    clip = ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64))
    views, starts = decode_timed_views(path, clip, 2)
    assert frame_numbers(views.movedim(1, -1).numpy()) == [0, 1, 2, 3, 36, 37, 38, 39]
    assert [start.seconds for start in starts] == pytest.approx([0, 1.44], abs=0.0011)
    with open_frames(str(path)) as frames:
        windows = [window.seconds for window in sliding_clips(frames, clip, hop=1)]
    assert windows == pytest.approx(EXPECTED, abs=0.0011)
    pack_folder(tmp_path / "videos", tmp_path / "shards", options=PackOptions(crf=10), progress=False)
    info = open_shards(tmp_path / "shards").info("train", 0)
    assert [float(t * info.time_base) for t in info.pts.tolist()] == pytest.approx(EXPECTED, abs=0.0011)


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_is_cut_by_the_repaired_times(kind, disordered, frame_numbers):
    packed = reencode_video(disordered[kind], max_short_side=None, gop=12, crf=10, span=(0.99, 1.19))
    shown = decode_clips(packed, probe_video(packed), [range(5)], [WHOLE], 64)[0][0]
    assert frame_numbers(shown) == [25, 26, 27, 28, 29]


@pytest.mark.parametrize(
    ("container", "options"),
    [("mpegts", {"bf": "2", "g": "12"}), ("mpegts", {"bf": "2"}), ("avi", {"bf": "0"})],
)
@pytest.mark.parametrize("first", [0, 25])
def test_a_span_has_its_frames_whatever_the_container_says_of_its_beginning(
    container, options, first, make_video, frame_numbers
):
    video = make_video(range(50), container=container, options=options)
    span = (first / 25, (first + 12) / 25)
    packed = reencode_video(video, max_short_side=None, gop=12, crf=12, span=span)
    with open_video(packed) as (source, stream):
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(stream)])
    assert frame_numbers(shown) == list(range(first, first + 12))


def test_the_length_of_joined_streams_is_that_of_both(disordered, make_video, remux):
    assert video_seconds(disordered["joined"]) == pytest.approx(1.6, abs=0.05)
    for container in ("mpegts", "mp4", "matroska"):
        assert video_seconds(make_video(range(20), container=container)) == pytest.approx(0.8, abs=0.05)


def test_pictures_that_a_container_wrongly_marks_as_keyframes_are_not_sought():
    """H.263 in 3gp, of which every picture is marked and each twentieth is one."""
    rows, columns = np.mgrid[0:144, 0:176]
    plain, marked = io.BytesIO(), io.BytesIO()
    with av.open(plain, "w", format="3gp") as output:
        stream = output.add_stream("h263", rate=25, options={"g": "20", "qscale": "4"})
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        for number in range(60):
            picture = np.stack([rows * 2 + 4 * number, columns + 3 * number, rows + columns], axis=-1) % 256
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        output.mux(stream.encode())
    with av.open(io.BytesIO(plain.getvalue())) as source, av.open(marked, "w", format="3gp") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.stream = stream
                packet.is_keyframe = True
                output.mux(packet)
    video = marked.getvalue()
    with av.open(io.BytesIO(video)) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    info = probe_video(video)
    assert info.keyframes.tolist() == [0, 20, 40]
    box = Box(0, 0, 144, 144)
    whole = decode_clips(video, info, [range(60)], [box], 144)[0][0]
    for number in (15, 33, 59):
        assert np.array_equal(decode_clips(video, info, [[number]], [box], 144)[0][0, 0], whole[number])
    encoded = [
        reencode_video(video, max_short_side=None, gop=12, crf=1, span=span) for span in (None, (1.4, 1.6))
    ]
    shown = [
        decode_clips(content, probe_video(content), [frames], [box], 144)[0][0].astype(int)
        for content, frames in zip(encoded, (range(35, 40), range(5)), strict=True)
    ]
    assert np.abs(shown[0] - shown[1]).mean() < 2


def test_views_of_a_video_without_good_times_show_its_frames_in_order(make_video, frame_numbers):
    video = make_video(range(20), container="avi", pts=range(20), time_base=Fraction(1, 25), options=B_FRAMES)
    clip = ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64))
    views = decode_views(video, clip, 2)
    assert frame_numbers(views.movedim(1, -1).numpy()) == [0, 1, 2, 3, 16, 17, 18, 19]
