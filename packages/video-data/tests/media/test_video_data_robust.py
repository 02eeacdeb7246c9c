"""Damaged and hostile input is refused or replaced, within limits, and counted."""

import contextlib
import hashlib
import io
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from video_data import (
    ClipConfig,
    PackOptions,
    ShardError,
    eval_loader,
    open_shards,
    pack_folder,
    train_loader,
)
from video_data.media import decode
from video_data.media.container import open_video, probe_video
from video_data.media.decode import decode_clips
from video_data.media.encode import reencode_video
from video_data.media.limits import MAX_BYTES, VideoError
from video_data.media.planes import to_rgb
from video_data.sampling.clips import Box
from video_data.shards.format import SampleRecord

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))
WHOLE = Box(0, 0, 64, 64)
NO_B_FRAMES = {"x264-params": "keyint=5:scenecut=0:bframes=0"}
B_FRAMES = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-pyramid=normal"}
TOOL = Path(__file__).parents[2] / "tools" / "mutate.py"


def audio_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        output.mux([*stream.encode(frame), *stream.encode()])
    return buffer.getvalue()


def without_frames() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        output.start_encoding()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "reason"),
    [(audio_only, "no video stream (only sound)"), (without_frames, "it ends before its first frame")],
    ids=["sound only", "no frames"],
)
def test_a_file_without_pictures_is_refused(make, reason):
    for read in (probe_video, lambda video: reencode_video(video, max_short_side=None, gop=12, crf=20)):
        with pytest.raises(VideoError) as error:
            read(make())
        assert error.value.reason == reason


def gif_of(width: int, height: int) -> bytes:
    """A gif that declares a size and holds next to nothing."""
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\xf0\0\0" + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0" + b"\x02\x02\x4c\x01\0"
    return screen + image + b";"


def jpegs_of(width: int, height: int) -> bytes:
    """Motion JPEG whose pictures declare a size that they do not have."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
        output.mux([*stream.encode(frame.reformat(format="yuvj420p")), *stream.encode()])
    video = bytearray(buffer.getvalue())
    start = video.index(b"\xff\xc0") + 5
    video[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(video)


@pytest.mark.slow
def test_absurd_declared_sizes_are_refused_before_memory_is_taken(tmp_path):
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from video_data.media.container import probe_video; from video_data.media.limits import VideoError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: probe_video(Path(path))\n"
        "    except VideoError as error: print(error.reason)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    videos = (gif_of(65535, 65535), gif_of(30000, 2000), jpegs_of(60000, 60000), jpegs_of(12000, 12000))
    paths = [tmp_path / str(number) for number in range(len(videos))]
    for path, video in zip(paths, videos, strict=True):
        path.write_bytes(video)
    run = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    *reasons, megabytes = run.stdout.splitlines()
    assert len(reasons) == len(videos)
    assert all(
        r.startswith(
            ("frames are too", "no packet can be decoded", "too many frames are damaged", "no frame")
        )
        for r in reasons
    )
    assert int(megabytes) < 60


def test_a_declared_number_of_frames_is_not_believed(make_video):
    video = bytearray(make_video(range(10)))
    count = video.index(b"stsz") + 12
    assert struct.unpack(">I", video[count : count + 4]) == (10,)
    for declared in (0x7FFFFFFF, 0xFFFFFFFF, 11, 0):
        video[count : count + 4] = struct.pack(">I", declared)
        with contextlib.suppress(VideoError):
            assert probe_video(bytes(video)).num_frames <= 10


def test_decoding_stops_when_its_time_is_over(make_video, monkeypatch):
    video = make_video(range(40))
    info = probe_video(video)
    monkeypatch.setattr("video_data.media.decode.MAX_CLIP_SECONDS", 0.0)
    with pytest.raises(VideoError, match="more than 0 seconds of processor time") as error:
        decode_clips(video, info, [[1, 30]], [WHOLE], 64)[0]
    assert error.value.reason == "too much time"
    monkeypatch.setattr("video_data.media.container.MAX_SECONDS", 0.0)
    with pytest.raises(VideoError) as error:
        probe_video(video)
    assert error.value.reason == "too much time"


def test_a_sample_that_takes_too_long_is_replaced(class_folder, tmp_path, monkeypatch):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    shards = open_shards(tmp_path)
    slow = shards.read("train", 4)
    really = decode.read_frames

    def delayed(source, info, frames):
        if source == slow:
            monkeypatch.setattr(decode, "MAX_CLIP_SECONDS", 0.0)
        yield from really(source, info, frames)

    def restoring(source, info, frames):
        monkeypatch.setattr(decode, "MAX_CLIP_SECONDS", 120.0)
        return delayed(source, info, frames)

    monkeypatch.setattr(decode, "read_frames", restoring)
    loader = train_loader(shards, "train", CLIP, batch_size=24, seed=0, error_budget=1)
    (batch,) = list(loader)
    assert loader.replaced == {"too much time": 1}
    assert batch.replaced[0].key == shards.sample("train", 4).key


def test_a_demuxer_that_reads_on_and_on_is_stopped(make_video):
    with (
        pytest.raises(VideoError) as error,
        open_video(make_video(range(40)), max_seconds=-1) as (container, stream),
    ):
        list(container.demux(stream))
    assert error.value.reason == "too much time"


def test_an_index_with_more_bytes_than_allowed_is_refused(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    record = open_shards(tmp_path).sample("train", 0).model_dump()
    with pytest.raises(ValueError, match="size"):
        SampleRecord(**{**record, "size": MAX_BYTES + 1})


@pytest.fixture
def canary(make_video, tmp_path):
    """A good video, and a server that counts its visitors, both of which a sample could name."""
    path = tmp_path / "canary.mp4"
    path.write_bytes(make_video(range(5)))
    visitors = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                visitors.append(address)
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield path, f"http://127.0.0.1:{server.getsockname()[1]}/canary.mp4", visitors
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def naming_samples(target: str) -> dict[str, str]:
    """Samples of the formats that FFmpeg knows for naming other files."""
    return {
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" minBufferTime="PT1S"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "imf": f'<?xml version="1.0"?><AssetMap><Path>{target}</Path></AssetMap>',
        "rtsp": f"RTSPtext\n{target}\n",
        "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    }


def test_a_sample_that_names_other_files_opens_none(canary, tmp_path, make_video):
    path, url, visitors = canary
    info = probe_video(path)
    for target in (str(path), path.as_uri(), url, f"concat:{path}", f"subfile,,start,0,end,9999,,:{path}"):
        for name, text in naming_samples(target).items():
            sample = tmp_path / f"{name}.mp4"
            sample.write_text(text)
            for source in (sample, text.encode()):
                with pytest.raises(VideoError):
                    probe_video(source)
                for format_name in (name, "concat", "hls", "image2", "lavfi", "mov"):
                    with pytest.raises(VideoError):
                        wrong = type(info)(**{**info.__dict__, "format": format_name})
                        decode_clips(source, wrong, [[0]], [WHOLE], 64)[0]
    assert not visitors


def test_a_movie_whose_data_lie_in_another_file_opens_it_not(canary):
    """The data reference of an mp4 is exchanged for one that names the canary."""
    path, url, visitors = canary
    video = path.read_bytes()
    for kind, name in ((b"url ", path.as_uri()), (b"url ", url), (b"alis", str(path))):
        entry = name.encode() + b"\0"
        entry = struct.pack(">I4sI", 12 + len(entry), kind, 0) + entry
        start = video.index(b"dref") - 4
        dref = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
        grown = len(dref) - struct.unpack(">I", video[start : start + 4])[0]
        changed = bytearray(video)
        changed[start : start + len(dref) - grown] = dref
        for box in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
            at = video.index(box) - 4
            changed[at : at + 4] = struct.pack(">I", struct.unpack(">I", video[at : at + 4])[0] + grown)
        media = bytes(changed).index(b"mdat") + 4
        changed[media:] = bytes(len(changed) - media)  # nothing of its own is left to show
        with pytest.raises(VideoError):
            decode_clips(bytes(changed), probe_video(path), [[0]], [WHOLE], 64)[0]
    assert not visitors


@pytest.fixture
def broken_set(class_folder, tmp_path):
    """Shards in which two samples are zeros, one index is damaged and one tar is gone."""
    pack_folder(class_folder, tmp_path, options=PackOptions(shard_size=4), progress=False)
    shards = open_shards(tmp_path)
    for index in (1, 6):
        record = shards.sample("train", index)
        with (tmp_path / f"train-{index // 4:06d}.tar").open("r+b") as file:
            file.seek(record.offset)
            file.write(bytes(record.size))
    shards = open_shards(tmp_path)
    index_file = tmp_path / "train-000003.json"
    index_file.write_bytes(index_file.read_bytes()[:-20])
    (tmp_path / "train-000005.tar").unlink()
    return shards


REASONS = {
    "nothing but zeros: it was not copied or downloaded to its end": 2,
    "an index does not have the hash in the manifest": 4,
    "a shard cannot be read": 4,
}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_read_is_replaced_counted_and_logged_once_a_reason(num_workers, broken_set, caplog):
    options = {"batch_size": 4, "seed": 0, "num_workers": num_workers, "error_budget": 1}
    loader = train_loader(broken_set, "train", CLIP, **options)
    with caplog.at_level(logging.WARNING, logger="video_data"):
        batches = list(loader)
        again = list(loader)
    kept = [key for batch in batches for key in batch.keys]
    replaced = [sample for batch in batches for sample in batch.replaced]
    assert len(kept) == 24
    assert loader.replaced.keys() == REASONS.keys() and loader.replaced.total() >= 10
    by_reason = {reason: {s.key for s in replaced if s.reason == reason} for reason in REASONS}
    assert {reason: len(keys) for reason, keys in by_reason.items()} == REASONS
    assert not {s.key for s in replaced} & set(kept)
    assert len(again) == 6
    assert Counter(record.levelname for record in caplog.records) == {"WARNING": 3}
    other = train_loader(broken_set, "train", CLIP, **{**options, "num_workers": 0})
    assert [key for batch in other for key in batch.keys] == kept


@pytest.mark.parametrize("pixels", ["rgb", "yuv"])
def test_a_test_goes_on_past_what_cannot_be_read_where_it_is_told_to(pixels, broken_set):
    options = {"num_clips": 2, "batch_size": 5, "pixels": pixels}
    batches = list(eval_loader(broken_set, "train", CLIP, **options, skip_unreadable=True))
    unreadable = {entry.number: entry for batch in batches for entry in batch.unreadable}
    assert sorted(unreadable) == [1, 6, 12, 13, 14, 15, 20, 21, 22, 23]
    assert Counter(entry.reason for entry in unreadable.values()) == REASONS
    assert unreadable[1].key == broken_set.sample("train", 1).key and unreadable[1].source
    assert (unreadable[12].key, unreadable[12].source) == ("train/12", "")  # its index is damaged
    counted = [index for batch in batches for index in batch.index[batch.valid].tolist()]
    assert sorted([*counted, *unreadable]) == list(range(24))
    for batch in batches:
        video = batch.video if pixels == "rgb" else to_rgb(batch.video)
        assert video.shape[1:] == (2, 3, 4, 16, 16)
        assert [bool(row.any()) for row in video] == batch.valid.tolist()
        assert [bool(key) for key in batch.keys] == batch.valid.tolist()
        assert (batch.index[~batch.valid] == -1).all() and (batch.label[~batch.valid] == -1).all()
    with pytest.raises(RuntimeError, match=r"test video .* of split train cannot be read"):
        list(eval_loader(broken_set, "train", CLIP, **options))


def test_a_run_stops_with_a_summary_when_the_budget_is_passed(broken_set):
    loader = train_loader(broken_set, "train", CLIP, batch_size=4, seed=0, error_budget=0.2)
    with pytest.raises(RuntimeError, match="5 samples could not be read, the error budget allows 4") as error:
        list(loader)
    for reason in loader.replaced:
        assert f"{loader.replaced[reason]} x {reason}" in str(error.value)


def test_an_index_that_was_changed_together_with_the_manifest_is_an_error_of_its_samples(
    class_folder, tmp_path
):
    pack_folder(class_folder, tmp_path, options=PackOptions(shard_size=12), progress=False)
    path = tmp_path / "train-000000.json"
    index = json.loads(path.read_text())
    index["samples"][0]["pts"] = [[0, 1, 3]]
    index["samples"][1]["keyframes"] = [[8, 1, 1]]  # one behind the last frame
    index["samples"][2]["width"] = 1 << 20
    index["samples"][3]["format"] = "concat"
    path.write_text(json.dumps(index))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    loader = train_loader(open_shards(tmp_path), "train", CLIP, batch_size=24, seed=0, error_budget=1)
    (batch,) = list(loader)
    keys = {sample["key"] for sample in index["samples"][:4]}
    assert {sample.key for sample in batch.replaced} == keys
    with pytest.raises(ShardError, match="must list"):
        open_shards(tmp_path).info("train", 0)


@pytest.mark.slow
def test_damaged_inputs_are_read_or_refused(tmp_path):
    """A small run of the tool; thousands of inputs take minutes."""
    command = [sys.executable, TOOL, "--inputs", "60", "--seed", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    report = json.loads(result.stdout)
    assert report["bad"] == []
    assert result.returncode == 0
    assert sum(report["outcomes"].values()) == 60
    assert any(outcome.startswith("refused") for outcome in report["outcomes"])
    assert report["outcomes"]["read"] > 5


RESIDENT = """
import ctypes, gc, os, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # small pages alone: large ones come and go
import torch
from video_data import ClipConfig, open_shards, train_loader
torch.set_num_threads(1)
clip = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))
options = {"batch_size": 8, "seed": 0, "num_samples": 2400}
loaders = [train_loader(open_shards(sys.argv[1]), "train", clip, pixels=kind, **options) for kind in ("rgb", "yuv")]
for number, _ in enumerate(zip(*loaders)):
    if number in (100, 299):  # the heap has settled
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # pages between objects that live, which come and go by chance
        with open("/proc/self/statm") as file:
            print(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat_over_many_clips(class_folder, tmp_path):
    """4,800 clips, half of them as planes; python -m bench.data.memory decodes 10,000."""
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    command = [sys.executable, "-c", RESIDENT, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    first, last = map(int, result.stdout.split())
    assert last - first < 400  # KiB over 1592 clips of each kind: less than 0.3 KiB a clip of one kind
