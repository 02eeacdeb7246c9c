"""Inspecting a set: what the indexes say, and small pictures of clips."""

import json

import numpy as np
import pytest

from video_data import PackOptions, inspect_shards, open_shards, pack_csv, pack_folder, sample_thumbnails

COPY = PackOptions(mode="copy", shard_size=10)


@pytest.fixture(scope="module")
def packed(class_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack_folder(class_folder, folder, options=COPY, progress=False)
    return folder


def inspect(folder):
    return inspect_shards(open_shards(folder), progress=False)


def thumbnails(folder, **options):
    return sample_thumbnails(open_shards(folder, verify=True), progress=False, **options)


def test_the_numbers_are_those_of_the_videos(packed):
    result = inspect(packed)
    split = result.splits["train"]
    assert (split.num_samples, split.num_shards, split.num_frames) == (24, 3, 192)
    assert split.seconds == pytest.approx(24 * 8 * 0.04)
    assert split.tar_bytes == sum(path.stat().st_size for path in packed.glob("*.tar"))
    assert split.class_sizes() == (8, 8, 8)
    assert result.sizes == {"64x64": 24} and result.codecs == {"h264": 24} and result.rates == {"25.00": 24}
    assert result.frames.min == result.frames.max == 8 and sum(result.frames.counts) == 24
    assert result.seconds.median == pytest.approx(0.32)
    assert result.keyframe_gap.mean == 8
    assert result.options.mode == "copy" and result.manifest_hash == open_shards(packed).manifest_hash
    assert (result.num_duplicates, result.flow_bytes, result.unreadable) == (0, 0, {})
    coverage = result.coverage["train"]
    assert (coverage.num_listed, coverage.num_packed, coverage.num_missing, coverage.left_out) == (
        24,
        24,
        0,
        {},
    )


def test_videos_are_not_read(packed, tmp_path):
    for path in packed.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(bytes(len(content)) if path.suffix == ".tar" else content)
    assert inspect(tmp_path).model_copy(update={"path": ""}) == inspect(packed).model_copy(
        update={"path": ""}
    )


def test_what_was_left_out_and_what_is_there_twice_is_listed(make_video, tmp_path):
    # An encoder need not give the same bytes twice.
    contents = {number: make_video([number] * 4, size=(64, 32)) for number in (1, 2, 3)}
    for split, label, number in (("train", "a", 1), ("train", "b", 2), ("val", "a", 1), ("val", "b", 3)):
        path = tmp_path / "videos" / split / label / f"{number}.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(contents[number])
    (tmp_path / "videos" / "empty.mp4").touch()
    rows = [
        f"{path.relative_to(tmp_path / 'videos')},{path.parts[-2]},{path.parts[-3]}\n"
        for path in sorted((tmp_path / "videos").glob("*/*/*.mp4"))
    ]
    rows += ["empty.mp4,a,val\n", "gone.mp4,a,train\n", "lost.mp4,b,test\n"]
    (tmp_path / "videos" / "all.csv").write_text("path,label,split\n" + "".join(rows))
    pack_csv(tmp_path / "videos" / "all.csv", tmp_path / "shards", options=COPY, progress=False)
    result = inspect(tmp_path / "shards")
    counts = {
        split: (coverage.num_listed, coverage.num_packed, coverage.num_missing, coverage.left_out)
        for split, coverage in result.coverage.items()
    }
    assert counts == {"train": (3, 2, 1, {}), "val": (3, 2, 0, {"empty file": 1}), "test": (1, 0, 1, {})}
    assert result.num_duplicates == 1
    assert result.duplicates[0].samples == (("train", "train/a/1.mp4"), ("val", "val/a/1.mp4"))
    assert result.sizes == {"64x32": 4}
    assert result.splits["val"].per_class == {"a": 1, "b": 1}


def test_sizes_are_ranked_and_pictures_keep_their_shape_within_reason(make_video, tmp_path):
    sizes = [(96, 64), (64, 96), (64, 96), (320, 64), (64, 320)]
    for number, size in enumerate(sizes):
        path = tmp_path / "videos" / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_video([number] * 2, size=size))
    pack_folder(tmp_path / "videos", tmp_path / "shards", options=COPY, progress=False)
    result = inspect(tmp_path / "shards")
    assert list(result.sizes.items()) == [("64x96", 2), ("320x64", 1), ("64x320", 1), ("96x64", 1)]
    shapes = {
        clip.source: clip.pictures.shape
        for clip in thumbnails(tmp_path / "shards", clips_per_class=9, height=48)
    }
    widths = {"a/0.mp4": 72, "b/1.mp4": 32, "a/2.mp4": 32, "b/3.mp4": 192, "a/4.mp4": 12}
    assert shapes == {source: (2, 48, width, 3) for source, width in widths.items()}


def test_turned_videos_count_and_are_shown_as_they_are_displayed(make_video, tmp_path):
    for label, rotation in (("a", 0), ("b", 90), ("c", 180)):
        (tmp_path / "videos" / label).mkdir(parents=True)
        video = make_video([0b11110000] * 2, size=(96, 64), rotation=rotation)
        (tmp_path / "videos" / label / "video.mp4").write_bytes(video)
    pack_folder(tmp_path / "videos", tmp_path / "shards", options=COPY, progress=False)
    assert inspect(tmp_path / "shards").sizes == {"96x64": 2, "64x96": 1}
    straight, turned, _ = (clip.pictures for clip in thumbnails(tmp_path / "shards", height=48))
    assert (straight.shape, turned.shape) == ((2, 48, 72, 3), (2, 48, 32, 3))
    assert straight[:, :, :30].min() > 200 and straight[:, :, -30:].max() < 60  # white is on the left
    assert turned[:, -20:].min() > 200 and turned[:, :20].max() < 60  # and comes to be at the bottom


def test_single_frames_have_no_rate(make_video, tmp_path):
    for label in "ab":
        (tmp_path / "videos" / label).mkdir(parents=True)
        (tmp_path / "videos" / label / "still.mp4").write_bytes(make_video([3]))
    pack_folder(tmp_path / "videos", tmp_path / "shards", progress=False)
    result = inspect(tmp_path / "shards")
    assert result.rates == {"single frame": 2} and result.seconds.max == 0
    assert [len(clip.pictures) for clip in thumbnails(tmp_path / "shards")] == [1, 1]


def test_a_damaged_index_is_reported_and_does_not_stop(packed, tmp_path):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train-000001.json").write_text("{}")
    result = inspect(tmp_path)
    assert list(result.unreadable) == ["train-000001"]
    assert (result.splits["train"].num_samples, sum(result.frames.counts)) == (24, 14)
    assert {clip.problem for clip in thumbnails(tmp_path, clips_per_class=20)} == {""}


def test_pictures_show_frames_spaced_over_the_video(packed, frame_numbers):
    clips = thumbnails(packed, clips_per_class=3, num_frames=4, height=64)
    assert [clip.class_name for clip in clips] == [
        name for name in ("class a", "class b", "class c") for _ in range(3)
    ]
    for clip in clips:
        video = int(clip.source.split()[-1].split(".")[0])
        assert frame_numbers(clip.pictures) == [8 * video + frame for frame in (0, 2, 5, 7)]
        assert (clip.num_frames, clip.split, clip.problem) == (8, "train", "")
    assert len({clip.key for clip in clips}) == 9


def test_the_seed_chooses(packed):
    def keys(**options):
        return [clip.key for clip in thumbnails(packed, height=8, **options)]

    assert keys(seed=1) == keys(seed=1) != keys(seed=2)
    clips = thumbnails(packed, height=8, clips_per_class=3, seed=7)
    videos = [int(clip.source.split()[-1].removesuffix(".mp4")) for clip in clips]
    assert videos == [12, 9, 15, 10, 1, 4, 23, 8, 5]  # on every machine
    assert len(keys(num_classes=2, clips_per_class=1)) == 2
    assert len(keys(clips_per_class=100)) == 24


def test_damaged_samples_are_shown_with_the_reason(packed, tmp_path):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = open_shards(tmp_path).sample("train", 4)
    tar = tmp_path / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[record.offset + 200 : record.offset + 300] = bytes(100)
    tar.write_bytes(content)
    clips = thumbnails(tmp_path, clips_per_class=100, num_workers=2)
    (broken,) = [clip for clip in clips if clip.problem]
    assert broken.key == record.key and "hash" in broken.problem and not len(broken.pictures)
    assert all(clip.pictures.shape == (8, 96, 96, 3) for clip in clips if not clip.problem)


def test_wrong_numbers_and_splits_are_refused(packed):
    with pytest.raises(ValueError, match="clips_per_class must be at least 1, got 0"):
        thumbnails(packed, clips_per_class=0)
    with pytest.raises(ValueError, match="no split 'val'"):
        thumbnails(packed, splits=["val"])


def test_an_inspection_is_plain_json(packed):
    values = json.loads(inspect(packed).model_dump_json())
    assert values["splits"]["train"]["per_class"]["class a"] == 8
    assert np.sum(values["frames"]["counts"]) == 24
