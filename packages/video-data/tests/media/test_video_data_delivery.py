"""Which stream is taken, what a container promised and what came, damaged frames, and reasons that can be acted on."""

import io
import json
import struct
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from video_data import (
    ClipConfig,
    PackOptions,
    decode_views,
    open_shards,
    pack_folder,
    train_loader,
    verify_shards,
)
from video_data.loading.live import open_frames
from video_data.loading.views import decode_timed_views
from video_data.media.container import open_video, probe_video, video_seconds
from video_data.media.decode import decode_clips
from video_data.media.encode import reencode, reencode_video
from video_data.media.limits import VideoError
from video_data.sampling.clips import Box
from video_data.shards.format import load_manifest
from video_data.shards.inspect import inspect_shards

WHOLE = Box(0, 0, 64, 64)
DISPOSITION = av.stream.Disposition
CLIP = ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64))


def join(container, *parts, sound=False):
    """A file of the streams of several; each part is a video and the disposition of its stream."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        sources = [av.open(io.BytesIO(video)) for video, _ in parts]
        streams = [output.add_stream_from_template(source.streams.video[0]) for source in sources]
        for stream, (_, disposition) in zip(streams, parts, strict=True):
            stream.disposition = disposition
        if sound:
            audio = output.add_stream("aac", rate=16000)
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 16384), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate = 16000
            output.mux([*audio.encode(silence), *audio.encode()])
        for stream, source in zip(streams, sources, strict=True):
            for packet in source.demux(video=0):
                if packet.pts is not None:
                    packet.stream = stream
                    output.mux(packet)
            source.close()
    return buffer.getvalue()


def cover() -> bytes:
    """A file with one JPEG picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuvj420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), dtype=np.uint8), format="rgb24")
        output.mux([*stream.encode(picture.reformat(format="yuvj420p")), *stream.encode()])
    return buffer.getvalue()


NO = DISPOSITION(0)


@pytest.fixture(scope="module")
def programs(make_video):
    """A small video, a large one, and a cover picture, whose frames begin at 0, 100 and 200."""
    return {
        "small": make_video(range(10)),
        "large": make_video(range(100, 110), size=(128, 64)),
        "cover": cover(),
    }


@pytest.mark.parametrize(
    ("container", "parts", "expected"),
    [
        ("mp4", [("small", NO), ("large", DISPOSITION.default)], 100),
        ("matroska", [("large", NO), ("small", DISPOSITION.default)], 0),
        ("mpegts", [("small", NO), ("large", NO)], 100),
        ("matroska", [("large", NO), ("small", NO)], 100),
        ("matroska", [("large", DISPOSITION.visual_impaired), ("small", NO)], 0),
        ("mp4", [("cover", DISPOSITION.default), ("small", NO)], 0),
        ("mp4", [("cover", DISPOSITION.attached_pic), ("small", NO)], 0),
        ("mp4", [("small", NO), ("cover", DISPOSITION.attached_pic)], 0),
    ],
)
def test_the_stream_that_ffmpeg_chooses_is_taken_everywhere(
    container, parts, expected, programs, frame_numbers, tmp_path
):
    video = join(container, *((programs[name], disposition) for name, disposition in parts))
    info = probe_video(video)
    numbers = list(range(expected, expected + 10))
    box = Box(0, 0, info.width, info.height)

    def shown(content, info):
        with open_video(content, stream=info.stream) as (source, stream):
            return frame_numbers(np.stack([f.to_ndarray(format="rgb24") for f in source.decode(stream)]))

    assert shown(video, info) == numbers
    if info.width == info.height:
        assert frame_numbers(decode_clips(video, info, [range(10)], [box], 64)[0][0]) == numbers
    packed = reencode_video(video, max_short_side=None, gop=12, crf=10)
    assert shown(packed, probe_video(packed)) == numbers
    path = tmp_path / "video.mkv"
    path.write_bytes(video)
    with open_frames(str(path)) as frames:
        assert [frame_numbers(frame.to_ndarray(format="rgb24"))[0] for frame, _ in frames] == numbers


def test_the_choice_is_in_the_index_and_indexes_without_it_mean_the_first(programs, frame_numbers, tmp_path):
    video = join("mp4", (programs["small"], NO), (programs["large"], DISPOSITION.default))
    for name in "ab":
        path = tmp_path / "videos" / name / "video.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(video)
    pack_folder(tmp_path / "videos", tmp_path / "shards", options=PackOptions(mode="copy"), progress=False)
    shards = open_shards(tmp_path / "shards")
    record = shards.sample("train", 0)
    assert (record.stream, record.width) == (1, 128)
    assert verify_shards(tmp_path / "shards", progress=False).problems == ()
    (batch,) = train_loader(shards, "train", CLIP, batch_size=2, seed=0)
    assert not batch.replaced
    old = record.model_dump(exclude={"stream", "delivery"})
    info = type(record)(**{**old, "width": 64}).video_info()
    assert (info.stream, info.delivery) == (0, None)
    assert frame_numbers(decode_clips(video, info, [range(10)], [WHOLE], 64)[0][0]) == list(range(10))
    assert probe_video(video, stream=0).width == 64
    with pytest.raises(VideoError, match="no video stream 2, there are 2"):
        probe_video(video, stream=2)


@pytest.mark.parametrize(
    ("with_cover", "reason"), [(True, "only a cover or other still pictures"), (False, "only sound")]
)
def test_sound_is_no_video(with_cover, reason, programs):
    covers = [(programs["cover"], DISPOSITION.attached_pic)] if with_cover else []
    with pytest.raises(VideoError, match=rf"no video stream \({reason}\)"):
        probe_video(join("mp4", *covers, sound=True))


def cut(video: bytes, share: float) -> bytes:
    return video[: int(len(video) * share)]


SHORT_GROUPS = {
    "x264-params": "keyint=5:min-keyint=5:scenecut=0"
}  # so that the bytes are spread over the frames


@pytest.mark.parametrize("container", ["matroska", "webm", "flv", "avi", "mp4"])
def test_a_video_that_ends_early_is_kept_and_told(container, make_video):
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(container, "libx264")
    video = make_video(
        range(50),
        container=container,
        codec=codec,
        pts=range(50),
        time_base=Fraction(1, 25),
        options=SHORT_GROUPS if codec == "libx264" else {"g": "5"},
        container_options={"moov_size": "3000"} if container == "mp4" else {},  # the header comes first
    )
    whole = reencode(video, max_short_side=None, gop=12, crf=20)[1]
    assert not whole.is_flawed and (whole.num_frames, whole.missing_seconds) == (50, 0)
    assert whole.promised_seconds == pytest.approx(2, abs=0.1)
    short = cut(video, 0.9 if container == "mp4" else 0.75)
    content, delivery = reencode(short, max_short_side=None, gop=12, crf=20)
    count = probe_video(content).num_frames
    assert 10 < count < 45 and delivery.num_frames == count
    assert delivery.is_incomplete and delivery.promised_seconds == whole.promised_seconds
    assert delivery.missing_seconds == pytest.approx((50 - count) / 25, abs=0.1)
    assert probe_video(short).delivery == delivery
    assert f"ends after {delivery.promised_seconds - delivery.missing_seconds:.2f}" in str(delivery)


def with_sound(container, seconds, untagged, make_video) -> bytes:
    """A video of 2 seconds and a sound of another length; without the length of each track where it is untagged."""
    x264 = {"x264-params": "keyint=5:min-keyint=5:scenecut=0:bframes=0"}
    picture = make_video(
        range(50), container=container, pts=range(50), time_base=Fraction(1, 25), options=x264
    )
    buffer = io.BytesIO()
    with (
        av.open(buffer, "w", format=container) as output,
        av.open(io.BytesIO(picture)) as source,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        audio = output.add_stream("aac", rate=16000)
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, (1, round(16000 * seconds))).astype(np.float32)
        noise = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        noise.sample_rate, noise.pts, noise.time_base = 16000, 0, Fraction(1, 16000)
        packets = [*audio.encode(noise), *audio.encode()]
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.stream = stream
                packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return buffer.getvalue().replace(b"DURATION", b"DURATIOM") if untagged else buffer.getvalue()


@pytest.mark.parametrize("seconds", [1, 4])
@pytest.mark.parametrize(
    ("container", "untagged"),
    [("mp4", False), ("matroska", False), ("matroska", True), ("flv", False), ("avi", False)],
)
def test_the_length_of_the_sound_makes_no_video_incomplete(container, untagged, seconds, make_video):
    video = with_sound(container, seconds, untagged, make_video)
    for delivery in (
        probe_video(video).delivery,
        reencode(video, max_short_side=None, gop=12, crf=20)[1],
        reencode(video, max_short_side=None, gop=12, crf=20, span=(0.5, 1.5))[1],
        reencode(video, max_short_side=None, gop=12, crf=20, span=(1.5, 2.5))[1],
    ):
        assert delivery.num_frames and not delivery.is_incomplete, delivery
    if container != "mp4":  # which has its header at the end
        with av.open(io.BytesIO(video)) as opened:
            middle = [packet.pos for packet in opened.demux(video=0) if packet.size][25]
        assert probe_video(video[:middle]).delivery.is_incomplete
    assert video_seconds(video) == pytest.approx(2, abs=0.1)


def test_trimmed_and_late_videos_and_transport_streams_are_complete(make_video, remux):
    late = make_video(range(30), container="matroska", pts=[60_000 + 40 * i for i in range(30)])
    stream = cut(make_video(range(50), container="mpegts"), 0.5)  # states no length
    for video in (late, stream):
        assert not probe_video(video).delivery.is_incomplete
    part = reencode(late, max_short_side=None, gop=12, crf=20, span=(0.4, 5.0))[1]
    assert part.num_frames == 20 and not part.is_incomplete


def test_a_span_is_measured_by_itself(make_video):
    video = make_video(range(50), container="matroska", options=SHORT_GROUPS)
    half = cut(video, 0.7)
    for span, is_incomplete in (((0.2, 0.6), False), ((0.2, 1.8), True), ((1.6, 5.0), False)):
        content = video if span[1] == 5.0 else half
        assert (
            reencode(content, max_short_side=None, gop=12, crf=20, span=span)[1].is_incomplete
            is is_incomplete
        )


def without_the_middle(container: str, make_video, remux) -> bytes:
    """A video of 8 seconds that lacks what is between 3 and 6 seconds."""
    codec = {"webm": "libvpx", "asf": "wmv2"}.get(container, "libx264")
    options = {"x264-params": "keyint=25:min-keyint=25:scenecut=0:bframes=0"}
    video = make_video(
        range(200),
        container="mp4" if container == "fragments" else container,
        codec=codec,
        pts=range(200),
        time_base=Fraction(1, 25),
        options=options if codec == "libx264" else {"g": "25"},
    )
    if container == "mpegts":
        with av.open(io.BytesIO(video)) as opened:
            places = [packet.pos for packet in opened.demux(video=0) if packet.size]
        return video[: places[75]] + video[places[150] :]
    if container == "fragments":
        boxes = boxes_of(remux(video, "mp4", movflags="frag_keyframe+empty_moov+default_base_moof"))
        boxes = [box for box in boxes if box[4:8] != b"mfra"]  # a table of places, which would be wrong
        first = next(number for number, box in enumerate(boxes) if box[4:8] == b"moof")
        return b"".join(
            boxes[: first + 6] + boxes[first + 12 :]
        )  # three and three of eight, each of two boxes
    buffer = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(buffer, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and not 75 <= number < 150:
                packet.stream = stream
                output.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["matroska", "webm", "flv", "asf", "mpegts", "fragments"])
def test_a_hole_in_the_middle_of_a_video_is_told(container, make_video, remux):
    video = without_the_middle(container, make_video, remux)
    probed = probe_video(video).delivery
    encoded = reencode(video, max_short_side=None, gop=12, crf=20)[1]
    for delivery in (probed, encoded):
        assert (delivery.num_frames, delivery.is_incomplete, delivery.is_flawed) == (125, False, True)
        assert delivery.gap == pytest.approx((2.96, 6.0), abs=0.002)
        assert "no frames from 2.96 to 6.00 seconds" in str(delivery)
    part = reencode(video, max_short_side=None, gop=12, crf=20, span=(2.0, 7.0))[1]
    assert part.gap == pytest.approx((0.96, 4.0), abs=0.002)
    assert not reencode(video, max_short_side=None, gop=12, crf=20, span=(6.0, 7.5))[1].is_flawed


@pytest.mark.parametrize(
    ("container", "steps"),
    [
        ("matroska", [1900] + [40] * 50),  # a short pause
        ("matroska", [5000, 3000, 7000] * 4),  # a slide show
        ("matroska", ([40] * 30 + [5000]) * 4),  # a recording of a screen that changes at times
        ("matroska", [2000, 15000] + [2000] * 20),  # filmed in time lapse
        ("mp4", [40] * 30 + [60000] + [40] * 30),  # an mp4 states how long a frame is shown
        ("matroska", [33, 34, 67, 100, 400, 33] * 8),  # filmed by a phone in the dark
    ],
)
def test_a_changing_frame_rate_is_no_hole(container, steps, make_video):
    times = np.cumsum([0, *steps]).tolist()
    video = make_video(range(len(times)), container=container, pts=times)
    for delivery in (
        probe_video(video).delivery,
        reencode(video, max_short_side=None, gop=12, crf=20)[1],
    ):
        assert not delivery.is_flawed, delivery


def test_parts_of_which_the_second_begins_earlier_have_no_hole(make_video):
    late, early = (
        make_video(range(25), container="mpegts", pts=[first + 40 * i for i in range(25)])
        for first in (10_000, 0)
    )
    assert reencode(late + early, max_short_side=None, gop=12, crf=20)[1].gap is None


def damage(video: bytes, numbers) -> bytes:
    """Overwrite the packets of these numbers, in the order of decoding."""
    damaged = bytearray(video)
    with av.open(io.BytesIO(video)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number in numbers and packet.pos is not None:
                damaged[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    return bytes(damaged)


NO_B_FRAMES = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"}


def test_few_damaged_frames_are_counted_and_many_refused(make_video, frame_numbers):
    video = make_video(range(40), options=NO_B_FRAMES)
    few = damage(video, {17, 18})
    for delivery in (probe_video(few).delivery, reencode(few, max_short_side=None, gop=12, crf=20)[1]):
        assert delivery.num_damaged == 2 and delivery.is_flawed and not delivery.is_incomplete
        assert str(delivery).startswith("2 of ")
    info = probe_video(few)
    frames = [0, 5, info.num_frames - 1]
    assert frame_numbers(decode_clips(few, info, [frames], [WHOLE], 64)[0][0]) == [0, 5, 39]
    with pytest.raises(VideoError, match=r"damaged at 0\.68 seconds: InvalidDataError"):
        decode_clips(few, probe_video(video), [[16, 17]], [WHOLE], 64)
    many = damage(video, set(range(12, 18)))
    for read in (probe_video, lambda v: reencode_video(v, max_short_side=None, gop=12, crf=20)):
        with pytest.raises(VideoError, match="6 of 40 frames are damaged, from frame 12 on") as error:
            read(many)
        assert error.value.reason == "too many frames are damaged"


def test_videos_left_out_for_one_reason_are_counted_together(make_video, tmp_path):
    videos = {f"{label}/{number}": make_video(range(10)) for number, label in enumerate("ab")}
    video = make_video(range(40), options=NO_B_FRAMES)
    videos |= {f"a/damaged{count}": damage(video, set(range(12, 12 + count))) for count in (6, 7, 8)}
    for name, content in videos.items():
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    report = pack_folder(tmp_path / "videos", tmp_path / "shards", progress=False)
    manifest, _ = load_manifest(tmp_path / "shards")
    assert manifest.coverage["train"].left_out == {"too many frames are damaged": 3}
    messages = dict(report.dropped)
    assert len(set(messages.values())) == 3
    assert messages["a/damaged7.mp4"].startswith("7 of 40 frames are damaged, from frame 12 on")
    assert [(entry.reason, entry.message) for entry in manifest.dropped] == [
        ("too many frames are damaged", messages[f"a/damaged{count}.mp4"]) for count in (6, 7, 8)
    ]


def test_what_was_damaged_after_packing_is_an_error_also_where_the_decoder_conceals_it(make_video):
    options = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0:slices=4"}
    video = make_video(range(40), options=options, size=(128, 128))
    with av.open(io.BytesIO(video)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][15]
    concealed = bytearray(video)
    concealed[place + size - 10] ^= 0xFF
    found = probe_video(bytes(concealed))
    assert (found.num_frames, found.delivery.num_damaged) == (40, 1)
    box = Box(0, 0, 128, 128)
    for original in (probe_video(video).delivery, found.delivery):
        info = replace(probe_video(video), delivery=original)
        with pytest.raises(VideoError, match="1 of 2 wanted frames could not be decoded"):
            decode_clips(bytes(concealed), info, [[5, 15]], [box], 64)
    assert decode_clips(bytes(concealed), found, [[5, 15]], [box], 64).shape[2] == 2


def test_packets_that_repeat_the_last_frame_are_no_damage(frame_numbers):
    """The file is ten frames of Theora, 24 a second, by FFmpeg's libtheora that show 0, 0, 1, 1, 1, 2, 3, 3, 3, 3."""
    video = (Path(__file__).parent / "repeated.ogv").read_bytes()
    with av.open(io.BytesIO(video)) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.pts is not None]
    assert [number for number, size in enumerate(sizes) if size] == [0, 2, 5, 6]
    content, delivery = reencode(video, max_short_side=None, gop=12, crf=10)
    for source, found in ((video, probe_video(video).delivery), (content, delivery)):
        assert (found.num_frames, found.num_damaged, found.is_flawed) == (4, 0, False)
        info = probe_video(source)
        assert [float(time * info.time_base) for time in info.pts] == pytest.approx(
            [0, 2 / 24, 5 / 24, 6 / 24]
        )
        assert frame_numbers(decode_clips(source, info, [range(4)], [WHOLE], 64)[0][0]) == [0, 1, 2, 3]


KEY = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def test_encrypted_video_is_refused_as_such(make_video, remux):
    video = remux(make_video(range(40)), "mp4", **KEY)
    hidden = video.replace(b"senc", b"free")  # without what would tell FFmpeg which bytes are encrypted
    tagged = bytearray(hidden)
    if b"encv" not in hidden:
        tagged = hidden.replace(b"avc1", b"encv")
    for content in (video, bytes(tagged)):
        for read in (probe_video, lambda v: reencode_video(v, max_short_side=None, gop=12, crf=20)):
            with pytest.raises(VideoError, match="encrypted: it plays with a key alone"):
                read(content)


def scrambled(video: bytes) -> bytes:
    """The same with the content of its packets changed, as if it were encrypted."""
    content = bytearray(video)
    with av.open(io.BytesIO(video)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                start, end = packet.pos + 12, packet.pos + packet.size
                content[start:end] = bytes(byte ^ 0x5A for byte in content[start:end])
    return bytes(content)


def element(number: str, *parts: bytes) -> bytes:
    """An element of Matroska; its number is in hexadecimal digits."""
    body = b"".join(parts)
    return bytes.fromhex(number) + bytes([0x80 | len(body)]) + body


def matroska_with_encryption(video: bytes, *, has_key_id: bool) -> bytes:
    """Scramble a Matroska file as FFmpeg writes it and put ContentEncodings at the end of its only track."""
    key_id = element("47e2", bytes(range(16))) if has_key_id else b""
    encryption = element("5035", element("47e1", b"\5"), key_id)
    kind = element("5033", b"\1")
    added = element("6d80", element("6240", element("5031", b"\0"), element("5032", b"\1"), kind, encryption))
    head, rest = scrambled(video).split(bytes.fromhex("1654ae6b40"), 1)
    before, track = rest[1:].split(b"\xae\x01" + bytes(6), 1)
    size, end = track[0], track[0] + 1
    tracks = (0x4000 + rest[0] + len(added)).to_bytes(2)
    track = bytes([size + len(added)]) + track[1:end] + added + track[end:]
    start, void = head.split(b"\xec\x01" + bytes(6), 1)  # empty room before, which shrinks as much
    head = start + b"\xec\x01" + bytes(6) + bytes([void[0] - len(added)]) + void[1 + len(added) :]
    return head + bytes.fromhex("1654ae6b") + tracks + before + b"\xae\x01" + bytes(6) + track


def asf_with(video: bytes, guid: str, *parts: bytes) -> bytes:
    """An ASF file with one more object in its header, made of texts of stated length."""
    body = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    added = bytes.fromhex(guid) + struct.pack("<Q", 24 + len(body)) + body
    size, count = struct.unpack("<QI", video[16:28])
    return video[:16] + struct.pack("<QI", size + len(added), count + 1) + video[28:30] + added + video[30:]


def scrambled_packets(stream: bytes, start_share: float = 0) -> bytes:
    """A transport stream whose packets of video are encrypted from a share of it on."""
    packets = []
    for place in range(0, len(stream), 188):
        packet = bytearray(stream[place : place + 188])
        if (
            packet[1] & 0x1F == 1 and packet[2] == 0 and place >= start_share * len(stream)
        ):  # of the first stream
            packet[3] |= 0x80
            start = 5 + packet[4] if packet[3] & 0x20 else 4
            packet[start:] = bytes(byte ^ 0x5A for byte in packet[start:])
        packets.append(bytes(packet))
    return b"".join(packets)


@pytest.mark.parametrize(
    "kind", ["mkv", "mkv without key id", "wmv", "wmv extended", "ts", "ts later", "iTunes"]
)
def test_what_other_containers_mark_as_encrypted_is_refused_as_such(kind, make_video):
    if kind.startswith("mkv"):
        plain = make_video(range(30), container="matroska")
        video = matroska_with_encryption(plain, has_key_id=kind == "mkv")
    elif kind.startswith("wmv"):
        plain = make_video(range(30), container="asf", codec="wmv2")
        if kind == "wmv":
            texts = (b"secret", b"DRM\0", b"key\0", b"https://example.org\0")
            video = asf_with(plain, "fbb3112223bdd211b4b700a0c955fc6e", *texts)
        else:
            video = asf_with(plain, "14e68a292226174cb935dae07ee9289c", b"<WRMHEADER/>")
    elif kind.startswith("ts"):
        plain = make_video(range(30), container="mpegts")
        video = scrambled_packets(plain, 0.5 if kind == "ts later" else 0)
    else:
        plain = make_video(range(30))
        video = scrambled(plain).replace(b"avc1", b"drmi")
    assert probe_video(plain).num_frames == 30
    for read in (probe_video, lambda v: reencode_video(v, max_short_side=None, gop=12, crf=20)):
        with pytest.raises(VideoError, match="encrypted: it plays with a key alone"):
            read(video)


def test_flawed_videos_are_in_index_manifest_report_and_inspection(make_video, remux, tmp_path):
    whole = make_video(range(50), container="matroska", options=SHORT_GROUPS)
    hole = without_the_middle("matroska", make_video, remux)
    for name, content in (
        ("a/whole", whole),
        ("a/half", cut(whole, 0.7)),
        ("b/whole", whole),
        ("b/hole", hole),
    ):
        path = tmp_path / "videos" / f"{name}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for mode in ("copy", "reencode"):
        dest = tmp_path / mode
        report = pack_folder(tmp_path / "videos", dest, options=PackOptions(mode=mode), progress=False)
        assert report.num_packed == 4
        assert sorted(video.source for video in report.flawed) == ["a/half.mkv", "b/hole.mkv"]
        assert load_manifest(dest)[0].flawed == report.flawed
        samples = json.loads((dest / "train-000000.json").read_text())["samples"]
        missing = {sample["source"]: sample["delivery"]["missing_seconds"] for sample in samples}
        assert missing["a/half.mkv"] > 0.5 and missing["a/whole.mkv"] == missing["b/whole.mkv"] == 0
        inspection = inspect_shards(open_shards(dest), progress=False)
        assert (inspection.num_flawed, inspection.flawed) == (2, report.flawed)


def test_views_and_windows_of_a_flawed_video_say_so(make_video, tmp_path, caplog):
    path = tmp_path / "half.mkv"
    path.write_bytes(cut(make_video(range(50), container="matroska", options=SHORT_GROUPS), 0.7))
    decode_views(path, CLIP, 1)
    with open_frames(str(path)) as frames:
        next(frames)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and messages[0] == messages[1]
    assert messages[0].startswith(f"{path}: ") and "of 2.0" in messages[0]
    decode_timed_views(path.read_bytes(), CLIP, 1, name="https://host/half.mkv")
    assert caplog.records[-1].getMessage().startswith("https://host/half.mkv: ends after")


def boxes_of(video: bytes) -> list[bytes]:
    """The outermost boxes of an mp4."""
    places = [0]
    while places[-1] < len(video):
        (size,) = struct.unpack(">I", video[places[-1] : places[-1] + 4])
        places.append(places[-1] + size)
    return [video[start:end] for start, end in pairwise(places)]


def fragments(video: bytes) -> list[bytes]:
    """Header and fragments of a fragmented mp4."""
    boxes = boxes_of(video)
    first = next(number for number, box in enumerate(boxes) if box[4:8] == b"moof")
    return [b"".join(boxes[:first]), b"".join(boxes[first:])]


def test_reasons_say_what_can_be_done(make_video, make_picture, remux, tmp_path):
    video = make_video(range(20))
    header, segment = fragments(remux(video, "mp4", movflags="frag_keyframe+empty_moov"))
    media = video.index(b"moov") - 4
    files = {
        b"": "empty file",
        bytes(5000): "nothing but zeros",
        segment: "a segment of a stream without its header",
        header: r"header of a stream alone \(initialization segment\)",
        video[:media]: r"without a header \(moov\)",
        video[: media - 50]: r"cut off: it ends before its header \(moov\)",
        make_picture(1): "a picture, not a video",
        b"<!DOCTYPE html><html>sign in</html>": "a web page",
        b"#EXTM3U\n#EXTINF:1,\na.ts\n": "a playlist, which names other files",
        b"version https://git-lfs.github.com/spec/v1\n": "a pointer of Git LFS",
        b"PK\x03\x04" + bytes(100): "a zip archive",
        b"something else": "no video in a known container",
    }
    for content, reason in files.items():
        path = tmp_path / "video.mp4"
        path.write_bytes(content)
        for read in (
            probe_video,
            lambda video: reencode_video(video, max_short_side=None, gop=12, crf=20),
            lambda video: decode_views(video, CLIP, 1),
        ):
            with pytest.raises(VideoError, match=reason):
                read(path)


def test_a_codec_that_cannot_be_opened_the_fast_way_is_read_the_other_way(make_video, frame_numbers):
    video = make_video(range(10), container="matroska", codec="vc2", options={"b": "20000000"})
    shown = decode_clips(video, probe_video(video), [[2, 7]], [WHOLE], 64)[0][0]
    assert frame_numbers(shown) == [2, 7]
