"""Optical flow: what it says of known motion, how it is packed, and that clips of it match those of RGB."""

import contextlib
import io
import json
import sys
import tarfile
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import webdataset
from av.video.frame import VideoFrame

from video_data import (
    ClipConfig,
    PackOptions,
    VideoError,
    decode_views,
    eval_loader,
    normalize,
    open_shards,
    pack_folder,
    train_loader,
    verify_shards,
)
from video_data.integrations.huggingface import to_hf_dataset
from video_data.integrations.webdataset import webdataset_pipeline
from video_data.media.container import probe_video
from video_data.media.flow import FLOW_LIMIT, decode_flow, flow_video, quantize_flow
from video_data.sampling.clips import Box
from video_data.shards.format import load_index

pytest.importorskip("cv2")

MOTIONS = {"left": (-2.0, 0.0), "right": (2.0, 0.0), "down": (0.0, 3.0)}
CLIP = ClipConfig(num_frames=4, crop_size=48, short_side=(64, 64), modality="flow")
BOTH = CLIP.model_copy(update={"modality": "both"})


def moving_video(motion, *, num_frames=8, size=(64, 64), seed=0, rotation=0):
    """A smooth texture that moves by `motion` pixels a frame in x and y."""
    random = np.random.default_rng(seed)
    waves = random.uniform(-0.5, 0.5, (12, 2)), random.uniform(0, 6, 12)
    y, x = np.mgrid[: size[1], : size[0]]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            places = np.stack([x - motion[0] * number, y - motion[1] * number], -1)
            picture = np.sin(places @ waves[0].T + waves[1]).sum(-1) * 20 + 128
            gray = np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, -1)
            frame = VideoFrame.from_ndarray(gray, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def pixels(values):
    """Bytes of flow as pixels of motion."""
    return (np.asarray(values).astype(float) - 128) * FLOW_LIMIT / 127


def flow_clip(content, frames, box, size, *, flip=False):
    """Motion in pixels [L, size, size, 2] of one clip."""
    flow = flow_video(content, gop=12)
    out = np.zeros((1, 1, len(frames), size, size, 2), dtype=np.uint8)
    decode_flow(flow, probe_video(flow), [frames], [box], size, flip=flip, out=out)
    return pixels(out[0, 0])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moving")
    for label, motion in MOTIONS.items():
        (folder / label).mkdir()
        for seed in range(3):
            (folder / label / f"{seed}.mp4").write_bytes(moving_video(motion, seed=seed))
    return folder


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow shards")
    pack_folder(videos, folder, options=PackOptions(flow=True, shard_size=4), progress=False)
    return folder


@pytest.fixture(scope="module")
def without_flow(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rgb shards")
    pack_folder(videos, folder, options=PackOptions(shard_size=4), progress=False)
    return folder


@pytest.mark.parametrize("motion", [(3.0, 0.0), (-1.5, 2.0), (0.0, 0.0)])
@pytest.mark.parametrize("size", [32, 48, 72])
def test_a_known_translation_comes_back_in_pixels_of_the_clip(motion, size):
    box = Box(24, 16, 48, 48)  # away from the border, where what comes in has no match
    measured = flow_clip(moving_video(motion, size=(96, 80)), range(8), box, size)
    assert measured.shape == (8, size, size, 2)
    expected = np.array(motion) * size / 48
    assert np.abs(measured.mean((0, 1, 2)) - expected).max() < 0.15
    assert np.quantile(np.abs(measured - expected), 0.95) < 0.5


def test_flow_is_that_of_the_turned_picture(tmp_path):
    for label in "ab":
        (tmp_path / "videos" / label).mkdir(parents=True)
        content = moving_video((3.0, 0.0), size=(96, 64), rotation=90)
        (tmp_path / "videos" / label / "turned.mp4").write_bytes(content)
    for mode in ("copy", "reencode"):
        options = PackOptions(mode=mode, flow=True)
        pack_folder(tmp_path / "videos", tmp_path / mode, options=options, progress=False)
        shards = open_shards(tmp_path / mode)
        assert shards.info("train", 0).display_size == (64, 96)
        assert shards.flow_info("train", 0).display_size == (64, 192)
        (batch,) = eval_loader(shards, "train", CLIP, num_clips=1, batch_size=2)
        motion = pixels(batch.video[0, 0, :, :, 12:-12, 12:-12]).mean((1, 2, 3))
        assert np.abs(motion - (0, -3)).max() < 0.6, mode


def test_mirroring_turns_x_around_and_mirrors_the_places():
    content = moving_video((3.0, -2.0), size=(96, 80))
    box = Box(10, 8, 64, 64)
    plain, mirrored = (flow_clip(content, [1, 4], box, 64, flip=flip) for flip in (False, True))
    assert np.array_equal(mirrored[..., 0], -plain[:, :, ::-1, 0])
    assert np.array_equal(mirrored[..., 1], plain[:, :, ::-1, 1])


def test_frame_i_is_the_motion_from_i_to_the_next_and_the_last_repeats_the_one_before():
    still, moving = moving_video((0, 0), num_frames=4), moving_video((3, 0), num_frames=2)
    joined = io.BytesIO()
    with av.open(joined, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frames = [f for c in (still, moving) for f in av.open(io.BytesIO(c)).decode(video=0)]
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, 25), 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    x = flow_clip(joined.getvalue(), range(6), Box(16, 16, 32, 32), 32)[..., 0].mean((1, 2))
    assert np.abs(x[:4]).max() < 0.3
    assert x[4] == pytest.approx(3, abs=0.4)
    assert x[5] == pytest.approx(x[4], abs=0.05)


def test_a_single_frame_has_no_motion():
    assert not flow_clip(moving_video((3, 0), num_frames=1), [0, 0], Box(0, 0, 64, 64), 64).any()


def test_a_picture_size_that_changes_is_an_error(make_video):
    parts = [make_video(range(4), size=size, container="mpegts") for size in ((64, 64), (96, 64))]
    with pytest.raises(VideoError, match="picture size changes"):
        flow_video(b"".join(parts), gop=12)


def test_large_motion_is_cut_to_the_limit_and_no_motion_is_exact():
    flow = np.array([0.0, 20.0, -20.0, 300.0, -1e9, 0.05], dtype=np.float32)
    assert quantize_flow(flow).tolist() == [128, 255, 1, 255, 1, 128]


@pytest.mark.parametrize("mode", ["reencode", "copy"])
def test_the_index_says_where_flow_lies_and_other_readers_find_it(videos, mode, tmp_path):
    pack_folder(videos, tmp_path, options=PackOptions(mode=mode, flow=True), progress=False)
    with tarfile.open(tmp_path / "train-000000.tar") as archive:
        members = {member.name: (member.offset_data, member.size) for member in archive}
    samples = json.loads((tmp_path / "train-000000.json").read_text())["samples"]
    assert len(members) == 3 * len(samples) == 27
    for sample in samples:
        assert members[f"{sample['key']}.mp4"] == (sample["offset"], sample["size"])
        assert members[f"{sample['key']}.flow.mp4"] == (sample["flow"]["offset"], sample["flow"]["size"])
    shards = open_shards(tmp_path, verify=True)
    for number, sample in enumerate(
        webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False)
    ):
        assert sample["__key__"] == shards.sample("train", number).key
        assert sample["flow.mp4"] == shards.read_flow("train", number)
        assert sample["mp4"] == shards.read("train", number)
    report = verify_shards(tmp_path, progress=False)
    assert (report.problems, report.num_frames) == ((), 2 * 9 * 8)


def test_the_same_videos_give_the_same_bytes(videos, packed, tmp_path):
    options = PackOptions(flow=True, shard_size=4, num_workers=2)
    pack_folder(videos, tmp_path, options=options, progress=False)
    for path in packed.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_an_index_with_flow_behind_the_end_of_the_tar_is_refused(packed):
    manifest = open_shards(packed).manifest
    shard, path = manifest.shards[0], packed / f"{manifest.shards[0].name}.json"
    index = json.loads(path.read_text())
    flow = index["samples"][-1]["flow"]
    limits = {
        "num_samples": shard.num_samples,
        "num_classes": 3,
        "task": manifest.task,
        "tar_size": shard.size,
    }
    for offset, is_inside in ((shard.size - flow["size"], True), (shard.size - flow["size"] + 1, False)):
        flow["offset"] = offset
        content = json.dumps(index).encode()
        with (
            contextlib.nullcontext() if is_inside else pytest.raises(ValueError, match="ends after the tar's")
        ):
            load_index(path, content, **limits)


def test_verify_finds_damaged_flow(packed, tmp_path):
    assert verify_shards(packed, progress=False).num_frames == 2 * 9 * 8  # of nine videos and of their flow
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = open_shards(tmp_path).sample("train", 5)
    tar = tmp_path / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[record.flow.offset : record.flow.offset + record.flow.size] = bytes(record.flow.size)
    tar.write_bytes(content)
    problems = [p for p in verify_shards(tmp_path, progress=False).problems if p.key]
    assert {problem.key for problem in problems} == {record.key}
    assert all(problem.message.startswith("flow: ") for problem in problems) and len(problems) == 2


def test_damaged_flow_replaces_its_sample_where_flow_is_read_and_nowhere_else(packed, tmp_path):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = open_shards(tmp_path).sample("train", 5)
    tar = tmp_path / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[record.flow.offset : record.flow.offset + record.flow.size] = bytes(record.flow.size)
    tar.write_bytes(content)
    shards = open_shards(tmp_path)
    for clip, expected in (
        (BOTH, [record.key]),
        (CLIP, [record.key]),
        (BOTH.model_copy(update={"modality": "rgb"}), []),
    ):
        (batch,) = train_loader(shards, "train", clip, batch_size=9, seed=0, error_budget=1)
        assert [replacement.key for replacement in batch.replaced] == expected


def test_mutated_flow_is_an_error_of_the_video_or_a_picture(packed):
    shards = open_shards(packed)
    info, original = shards.flow_info("train", 0), shards.read_flow("train", 0)
    random = np.random.default_rng(0)
    out = np.zeros((1, 1, 4, 32, 32, 2), dtype=np.uint8)
    outcomes = set()
    for _ in range(200):
        content = bytearray(original)
        for place in random.integers(len(content), size=random.integers(1, 12)):
            content[place] = random.integers(256)
        if random.random() < 0.1:
            del content[random.integers(len(content)) :]
        try:
            decode_flow(bytes(content), info, [[0, 1, 4, 7]], [Box(10, 10, 40, 40)], 32, out=out)
            outcomes.add("decoded")
        except VideoError as error:
            outcomes.add(error.reason)
    assert "decoded" in outcomes and len(outcomes) > 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_clips_of_flow_match_those_of_rgb(packed, without_flow, num_workers):
    shards = open_shards(packed)
    options = {"batch_size": 9, "seed": 3, "num_workers": num_workers}
    both = next(iter(train_loader(shards, "train", BOTH, **options)))
    flow = next(iter(train_loader(shards, "train", CLIP, **options)))
    rgb_clip = CLIP.model_copy(update={"modality": "rgb"})
    rgb = next(iter(train_loader(open_shards(without_flow), "train", rgb_clip, **options)))
    assert both.video.shape == (9, 5, 4, 48, 48) and both.keys == rgb.keys == flow.keys
    assert both.video.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(both.video[:, :3], rgb.video)
    assert torch.equal(both.video[:, 3:], flow.video)
    for clip, label in zip(flow.video, flow.label, strict=True):
        motion = pixels(clip[:, :, 12:-12, 12:-12]).mean((1, 2, 3))
        assert np.abs(motion - MOTIONS[shards.classes[label]]).max() < 0.6


def test_flow_of_mirrored_training_clips_is_mirrored(packed):
    shards = open_shards(packed)
    mirrored_clip = BOTH.model_copy(update={"flip": True})
    plain, mirrored = (
        next(iter(train_loader(shards, "train", clip, batch_size=9, seed=1))).video
        for clip in (BOTH, mirrored_clip)
    )
    turned = plain.flip(-1)
    turned[:, 3] = 256 - turned[:, 3].int()
    flipped = [bool((m != p).any()) for m, p in zip(mirrored, plain, strict=True)]
    assert 0 < sum(flipped) < 9
    for number, is_flipped in enumerate(flipped):
        expected = turned if is_flipped else plain
        assert torch.equal(mirrored[number, 3:], expected[number, 3:])


def test_views_of_a_set_and_of_a_file_are_the_same(packed, videos):
    shards = open_shards(packed)
    (batch,) = eval_loader(shards, "train", BOTH, num_clips=2, num_crops=3, batch_size=9)
    assert batch.video.shape == (9, 6, 5, 4, 48, 48)
    source = videos / shards.sample("train", 2).source
    assert torch.equal(decode_views(source, BOTH, 2, num_crops=3), batch.video[2])
    assert torch.equal(decode_views(source, CLIP, 2, num_crops=3), batch.video[2, :, 3:])


def test_pipelines_of_other_libraries_read_sets_with_flow(packed):
    shards = open_shards(packed)
    samples = list(webdataset_pipeline(shards, "train", BOTH, error_budget=0))
    assert len(samples) == 9 and samples[0]["video"].shape == (5, 4, 48, 48)
    label = shards.classes[samples[0]["label"]]
    motion = pixels(samples[0]["video"][3:, :, 12:-12, 12:-12]).mean((1, 2, 3))
    assert np.abs(motion - MOTIONS[label]).max() < 0.6
    pytest.importorskip("datasets")
    examples = list(to_hf_dataset(shards, "train"))
    assert [example["key"] for example in examples] == [record.key for record in shards.samples("train")]
    assert [example["flow"]["bytes"] for example in examples] == [
        shards.read_flow("train", number) for number in range(9)
    ]


def test_normalize_takes_no_motion_to_zero():
    video = torch.full((2, 5, 3, 4, 4), 128, dtype=torch.uint8)
    video[:, 4] = 255
    scaled = normalize(video, clip=ClipConfig(modality="both"))
    assert torch.allclose(scaled[:, :3], normalize(video[:, :3]))
    assert not scaled[:, 3].any()
    assert scaled[0, 4, 0, 0, 0].item() == pytest.approx(127 / 255 / 0.225)
    assert not normalize(video[:, [3, 3]], clip=ClipConfig(modality="flow")).any()
    for wrong in (video, video[0, 0]):
        with pytest.raises(ValueError, match="clips of modality flow have 2 channels, video has the shape"):
            normalize(wrong, clip=ClipConfig(modality="flow"))


def test_flow_of_a_set_without_it_is_refused(without_flow, packed):
    shards = open_shards(without_flow)
    for modality in ("flow", "both"):
        clip = CLIP.model_copy(update={"modality": modality})
        for make in (
            lambda clip=clip: train_loader(shards, "train", clip, batch_size=1, seed=0),
            lambda clip=clip: eval_loader(shards, "train", clip),
            lambda clip=clip: webdataset_pipeline(shards, "train", clip),
        ):
            with pytest.raises(
                ValueError, match=f"modality '{modality}' needs optical flow, .* packed without"
            ):
                make()
    with pytest.raises(ValueError, match="needs pixels 'rgb', got 'yuv'"):
        eval_loader(open_shards(packed), "train", CLIP, pixels="yuv")


def test_without_opencv_packing_names_the_extra(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"video-data\[flow\]"):
        pack_folder(videos, tmp_path / "shards", options=PackOptions(flow=True), progress=False)
    assert not (tmp_path / "shards").exists()


def test_views_of_the_flow_of_a_flawed_video_say_so(make_video, tmp_path, caplog):
    groups = {"x264-params": "keyint=5:min-keyint=5:scenecut=0"}  # the bytes are spread over the frames
    path = tmp_path / "half.mkv"
    video = make_video(range(50), container="matroska", options=groups)
    path.write_bytes(video[: len(video) * 7 // 10])
    decode_views(path, CLIP, 1)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: ends after ")
