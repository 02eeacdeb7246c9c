"""Packing: what is in the shards, what is left out and why, and what remains after a failure."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from fractions import Fraction
from pathlib import Path

import pytest

from video_data import (
    PackOptions,
    ShardError,
    VideoError,
    WorkError,
    decode_views,
    inspect_shards,
    open_shards,
    pack_csv,
    pack_folder,
    pack_listing,
    sample_thumbnails,
    verify_shards,
)
from video_data.datasets import list_folder
from video_data.loading.live import open_frames
from video_data.media.decode import decode_clips
from video_data.packing._shard_writer import sample_key
from video_data.sampling.clips import Box, ClipConfig
from video_data.shards.format import from_runs, to_runs

COPY = PackOptions(mode="copy")


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_split_folder(root, make_video, splits=("train", "val")):
    for split in splits:
        for label in ("a", "b"):
            for number in range(2):
                write(root / split / label / f"{number}.mp4", make_video([number] * 4))
    return root


def test_shards_index_and_manifest_describe_each_other(class_folder, tmp_path, frame_numbers):
    report = pack_folder(class_folder, tmp_path, options=PackOptions(shard_size=10), progress=False)
    assert (report.num_packed, report.dropped) == (24, [])
    shards = open_shards(tmp_path, verify=True)
    assert shards.classes == ("class a", "class b", "class c")
    assert shards.splits == ("train",)
    assert shards.shard_sizes("train") == [10, 10, 4]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["splits"]["train"]["per_class"] == {"class a": 8, "class b": 8, "class c": 8}
    assert hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest() == shards.manifest_hash
    for shard in manifest["shards"]:
        tar = tmp_path / f"{shard['name']}.tar"
        assert hashlib.sha256(tar.read_bytes()).hexdigest() == shard["sha256"]
        index = json.loads(tar.with_suffix(".json").read_text())["samples"]
        with tarfile.open(tar) as archive:
            members = {member.name: member for member in archive}
            assert {(m.mtime, m.uid, m.gid) for m in members.values()} == {(0, 0, 0)}
            for sample in index:
                member = members[f"{sample['key']}.mp4"]
                assert (member.offset_data, member.size) == (sample["offset"], sample["size"])
                metadata = json.load(archive.extractfile(f"{sample['key']}.json"))
                assert metadata["source"] == sample["source"]
                assert metadata["class"] == manifest["classes"][sample["label"]]
            assert len(members) == 2 * len(index)
    for index, record in enumerate(shards.samples("train")):
        video = int(record.source.split()[-1].split(".")[0])
        assert record.label == video % 3
        info = record.video_info()
        frames = decode_clips(shards.read("train", index), info, [range(8)], [Box(0, 0, 64, 64)], 64)[0]
        assert frame_numbers(frames[0]) == [8 * video + i for i in range(8)]


def test_shards_mix_the_classes(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy", shard_size=12), progress=False)
    labels = [record.label for record in open_shards(tmp_path).samples("train")]
    assert all(len(set(labels[i : i + 12])) == 3 for i in (0, 12))
    assert labels != sorted(labels)


def test_the_tars_are_readable_by_webdataset(class_folder, tmp_path):
    import webdataset

    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    samples = list(webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [
        r.key for r in open_shards(tmp_path).samples("train")
    ]
    assert all(set(sample) >= {"mp4", "json"} for sample in samples)


@pytest.mark.parametrize(("mode", "num_workers"), [("reencode", 2), ("copy", 1)])
def test_the_same_input_gives_the_same_bytes(mode, num_workers, class_folder, tmp_path):
    options = PackOptions(mode=mode, shard_size=9)
    pack_folder(class_folder, tmp_path / "one", options=options, progress=False)
    pack_folder(
        class_folder,
        tmp_path / "two",
        options=options.model_copy(update={"num_workers": num_workers}),
        progress=False,
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = options.model_copy(update={"seed": 1})
    pack_folder(class_folder, tmp_path / "three", options=other, progress=False)
    assert contents(tmp_path / "one") != contents(tmp_path / "three")


@pytest.mark.slow
def test_encoding_does_not_depend_on_what_memory_held_before(make_video, tmp_path):
    for label in "ab":
        write(tmp_path / "videos" / label / "video.mp4", make_video(range(20), size=(160, 96)))
    script = "import sys; from video_data import pack_folder; pack_folder(*sys.argv[1:], progress=False)"
    for fill in ("85", "255"):
        # The GNU C library fills new memory with this byte.
        environment = {**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.perturb={fill}"}
        command = [sys.executable, "-c", script, str(tmp_path / "videos"), str(tmp_path / fill)]
        subprocess.run(command, env=environment, check=True)
    assert contents(tmp_path / "85") == contents(tmp_path / "255")


def test_copying_keeps_the_bytes(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    shards = open_shards(tmp_path)
    for index, record in enumerate(shards.samples("train")):
        assert shards.read("train", index) == (class_folder / record.source).read_bytes()


def test_a_shard_is_closed_when_it_has_enough_bytes(class_folder, tmp_path):
    options = PackOptions(mode="copy", max_shard_bytes=4096)
    pack_folder(class_folder, tmp_path, options=options, progress=False)
    sizes = open_shards(tmp_path).shard_sizes("train")
    assert len(sizes) > 3
    assert sum(sizes) == 24


def test_folders_named_after_splits_are_splits(make_video, tmp_path):
    make_split_folder(tmp_path / "videos", make_video, ("Train", "validation", "test"))
    pack_folder(tmp_path / "videos", tmp_path / "shards", options=COPY, progress=False)
    shards = open_shards(tmp_path / "shards")
    assert shards.splits == ("train", "val", "test")
    assert [shards.num_samples(split) for split in shards.splits] == [4, 4, 4]
    assert sorted(p.name for p in (tmp_path / "shards").glob("*.tar")) == [
        "test-000000.tar",
        "train-000000.tar",
        "val-000000.tar",
    ]


def test_a_csv_gives_labels_and_splits(make_video, tmp_path):
    for name in "abcd":
        write(tmp_path / "videos" / f"{name}.mp4", make_video(range(4)))
    csv = tmp_path / "list.csv"
    csv.write_text(
        "\ufeffpath,note,label,split\r\nvideos/a.mp4,x,cat,train\r\nvideos/b.mp4,,dog,train\r\n"
        'videos/c.mp4,,"cat, big",valid\r\nvideos/d.mp4,,dog,test\r\nvideos/gone.mp4,,dog,test\r\n'
        "videos/a.mp4,again,cat,train\r\n"
    )
    report = pack_csv(csv, tmp_path / "shards", options=COPY, progress=False)
    assert sorted(report.dropped) == [("videos/a.mp4", "listed twice"), ("videos/gone.mp4", "missing")]
    shards = open_shards(tmp_path / "shards")
    assert shards.classes == ("cat", "cat, big", "dog")
    assert {(r.source, split, r.label) for split in shards.splits for r in shards.samples(split)} == {
        ("videos/a.mp4", "train", 0),
        ("videos/b.mp4", "train", 2),
        ("videos/c.mp4", "val", 1),
        ("videos/d.mp4", "test", 2),
    }
    plain = tmp_path / "plain.csv"
    plain.write_text("path,label\na.mp4,cat\nb.mp4,dog\n")
    pack_csv(plain, tmp_path / "plain", root=tmp_path / "videos", options=COPY, progress=False)
    assert open_shards(tmp_path / "plain").num_samples("train") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "no column path"),
        ("a.mp4,x\nb.mp4,y\n", "no column path"),
        ("", "no column path"),
        ("path,label\n", "no rows"),
        ("path,label\na.mp4,\n", "line 2: path and label"),
        ("path,label,split\na.mp4,x,dav\n", "line 2: split 'dav', allowed are train"),
        ("path,label\na.mp4,x\nb.mp4,x\n", "only one class in .*'x'"),
        ("path,label\na.mp4,x\na.mp4,y\n", "line 3: a.mp4 was listed before"),
        ("path;label\na.mp4;x\n", "no column path .*; cells are separated by commas, not by semicolons"),
        (
            "path,label\na.mp4,x\nb.mp4,y\n",
            r"none of 2 listed videos is there; the first, a.mp4, is looked for at .*a\.mp4",
        ),
    ],
)
def test_a_wrong_csv_is_refused(text, message, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        pack_csv(tmp_path / "list.csv", tmp_path / "shards", progress=False)
    assert not list((tmp_path / "shards").glob("*")) if (tmp_path / "shards").exists() else True


def test_wrong_folders_are_refused(make_video, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        pack_folder(tmp_path / "none", tmp_path / "shards", progress=False)
    with pytest.raises(ValueError, match="no csv file"):
        pack_csv(tmp_path / "none.csv", tmp_path / "shards", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no videos in"):
        pack_folder(tmp_path / "empty", tmp_path / "shards", progress=False)
    write(tmp_path / "one" / "only" / "a.mp4", make_video(range(3)))
    with pytest.raises(ValueError, match=r"only one class in .*'only'"):
        pack_folder(tmp_path / "one", tmp_path / "shards", progress=False)
    write(tmp_path / "bad" / "a" / "a.mp4", b"")
    write(tmp_path / "bad" / "b" / "b.mp4", b"text")
    with pytest.raises(WorkError, match=r"none of 2 videos can be read; [ab]/[ab]\.mp4: (empty|no video)"):
        pack_folder(tmp_path / "bad", tmp_path / "shards", progress=False)
    (tmp_path / "bad" / "list.csv").write_text("path,label\ngone.mp4,a\nb/b.mp4,b\na/a.mp4,a\n")
    with pytest.raises(WorkError, match=r"none of 3 videos can be read; [ab]/[ab]\.mp4: (empty|no video)"):
        pack_csv(tmp_path / "bad" / "list.csv", tmp_path / "shards", progress=False)


@pytest.mark.parametrize("mode", ["reencode", "copy"])
def test_broken_videos_are_listed_with_their_reason(mode, make_video, tmp_path):
    src = tmp_path / "videos"
    good = make_video(range(20))
    write(src / "a" / "good.mp4", good)
    write(src / "b" / "good.mp4", good)
    write(src / "b" / "empty.mp4", b"")
    write(src / "b" / "text.avi", b"this is not a video")
    write(src / "b" / "cut.mp4", good[: len(good) // 2])
    write(src / "b" / "notes.txt", b"passed over")
    write(src / "b" / ".hidden.mp4", b"passed over")
    (src / "c").mkdir()
    report = pack_folder(src, tmp_path / "shards", options=PackOptions(mode=mode), progress=False)
    assert report.num_packed == 2
    reasons = dict(report.dropped)
    assert set(reasons) == {"b/empty.mp4", "b/text.avi", "b/cut.mp4"}
    assert reasons["b/empty.mp4"] == "empty file"
    assert reasons["b/text.avi"] == "no video in a known container, or damaged at its start"
    assert reasons["b/cut.mp4"].startswith("cut off: it ends before its header")
    manifest = json.loads(report.manifest.read_text())
    assert {entry["source"]: entry["reason"] for entry in manifest["dropped"]} == reasons
    passed_over = {entry["reason"]: entry["first"] for entry in manifest["passed_over"]}
    assert passed_over == {
        "files with the ending .txt": ["b/notes.txt"],
        "hidden files and folders": ["b/.hidden.mp4"],
        "folders without videos": ["c"],
    }


def test_odd_file_names_keep_their_samples_apart(make_video, tmp_path):
    names = [
        "#1 (a) & b; c!.mp4",
        "-dash.mp4",
        "v.1.mp4",
        "v.2.mp4",
        "v.avi",
        "v.mp4",
        "日本.mp4",
        "x" * 200 + ".mp4",
    ]
    names += ["sub/v.mp4", " .mp4", "line\nbreak.mp4", "it's.MP4"]
    for number, name in enumerate(names):
        write(tmp_path / "videos" / f"class {number % 2}" / name, make_video([number] * 2))
    bad_bytes = os.fsencode(tmp_path / "videos" / "class 0") + b"/\xff\xfe.mp4"
    with open(bad_bytes, "wb") as file:  # noqa: PTH123  (a name that is not UTF-8)
        file.write(make_video([99] * 2))
    report = pack_folder(tmp_path / "videos", tmp_path / "shards", options=COPY, progress=False)
    assert (report.num_packed, report.dropped) == (len(names) + 1, [])
    records = list(open_shards(tmp_path / "shards").samples("train"))
    assert len({record.key for record in records}) == len(names) + 1
    assert any("\\xff\\xfe.mp4" in record.source for record in records)
    for record in records:
        assert "." not in record.key and not record.key.startswith("-") and record.key.isascii()
    assert sample_key("a/v.mp4") != sample_key("a/v.avi")


@pytest.mark.parametrize(
    "name",
    ["-i.mp4", "file:x.mp4", "http:x.mp4", "rtp:x.mp4", "camera:0.mp4", "pipe:0.mp4", "concat:a|b.mp4", "s3:x.mp4",
     "a?b.mp4", "a#b.mp4", "[1].mp4", "a*b.mp4", "%05d.mp4", "$HOME.mp4", "~.mp4", "line\nbreak.mp4", "a\x1b[2Jb.mp4"],
)  # fmt: skip
def test_a_name_is_nothing_but_a_name_to_all_that_opens_videos(
    name, make_video, make_picture, frame_numbers, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for number, label in enumerate("ab"):
        write(tmp_path / "videos" / label / name, make_video([number] * 4))
        for picture in range(2):
            path = tmp_path / "pictures" / label / name / f"{name}{picture}.jpg"
            write(path, make_picture(number, (64, 64)))
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((f"videos/{label}/{name}", label) for label in "ab")]
        )
    pack_folder(tmp_path / "videos", tmp_path / "folder", options=COPY, progress=False)
    pack_csv(tmp_path / "list.csv", tmp_path / "csv", progress=False)
    frames = list_folder(tmp_path / "pictures", frame_rate=Fraction(25))
    pack_listing(frames, tmp_path / "frames", progress=False)
    clip = ClipConfig(num_frames=2, crop_size=64, short_side=(64, 64))
    for dest in ("folder", "csv", "frames"):
        shards = open_shards(tmp_path / dest)
        shown = {}
        for index, record in enumerate(shards.samples("train")):
            views = decode_views(shards.read("train", index), clip, 1)
            shown[shards.classes[record.label]] = frame_numbers(views[0].permute(1, 2, 3, 0).numpy())[0]
        assert shown == {"a": 0, "b": 1}
        assert dest == "csv" or not any(
            set(record.source) & set("\n\x1b") for record in shards.samples("train")
        )
    monkeypatch.chdir(tmp_path / "videos" / "b")
    assert frame_numbers(decode_views(name, clip, 1)[0].permute(1, 2, 3, 0).numpy()) == [1] * 2
    with open_frames(name) as opened:
        assert [frame_numbers(frame.to_ndarray(format="rgb24"))[0] for frame, _ in opened] == [1] * 4


def test_a_finished_set_is_replaced_only_when_asked(class_folder, make_video, tmp_path):
    pack_folder(
        class_folder, tmp_path / "shards", options=PackOptions(mode="copy", shard_size=5), progress=False
    )
    before = contents(tmp_path / "shards")
    with pytest.raises(ValueError, match="finished shard set"):
        pack_folder(class_folder, tmp_path / "shards", progress=False)
    assert contents(tmp_path / "shards") == before
    options = PackOptions(mode="copy", overwrite=True)
    pack_folder(class_folder, tmp_path / "shards", options=options, progress=False)
    assert set(contents(tmp_path / "shards")) == {"manifest.json", "train-000000.tar", "train-000000.json"}


def test_a_missing_encoder_is_told_before_any_work(class_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("video_data.media.encode._ENCODER", "libx264_that_is_not_there")
    with pytest.raises(ValueError, match="no libx264_that_is_not_there encoder"):
        pack_folder(class_folder, tmp_path / "shards", progress=False)
    assert not (tmp_path / "shards").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_no_unfinished_file(class_folder, scripts, tmp_path):
    """The size of files is limited as a full disk limits it: writing fails in the middle of a tar."""
    script = (
        "import resource, signal, sys\nfrom video_data import PackOptions, pack_folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))\n"
        "options = PackOptions(mode='copy', shard_size=8)\n"
        "pack_folder(sys.argv[1], sys.argv[2], options=options, progress=False)\n"
    )
    small = min(path.stat().st_size for path in class_folder.rglob("*.mp4"))
    process = scripts(script, class_folder, tmp_path / "shards", 4 * small)
    assert process.wait() != 0
    assert "OSError" in process.errors
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [".packing"]
    pack_folder(class_folder, tmp_path / "shards", options=COPY, progress=False)
    assert open_shards(tmp_path / "shards").num_samples("train") == 24


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_ctrl_c_leaves_no_unfinished_file(num_workers, make_video, scripts, tmp_path):
    video = make_video(range(60), size=(160, 128))
    for number in range(300):
        write(tmp_path / "videos" / "ab"[number % 2] / f"{number}.mp4", video)
    script = (
        "import sys\nfrom video_data import PackOptions, pack_folder\n"
        "if __name__ == '__main__':\n"
        f"    options = PackOptions(shard_size=10, num_workers={num_workers}, crf=1)\n"
        "    pack_folder(sys.argv[1], sys.argv[2], options=options, progress=False)\n"
    )
    shards = tmp_path / "shards"
    process = scripts(script, tmp_path / "videos", shards)
    deadline = time.monotonic() + 60
    while not list(shards.glob("*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill(signal.SIGINT)
    assert process.wait() != 0 and "KeyboardInterrupt" in process.errors
    names = {path.name for path in shards.iterdir()}
    assert "manifest.json" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    for tar in shards.glob("*.tar"):
        with tarfile.open(tar) as archive:
            assert len(archive.getnames()) == 20
    with pytest.raises(ValueError, match=r"manifest.json is missing"):
        open_shards(shards)


def damage(folder, file, change):
    path = folder / file
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("manifest.json", lambda b: b[:50], r"manifest.json: content"),
        (
            "manifest.json",
            lambda b: b.replace(b'"format_version": 4', b'"format_version": 2'),
            "format 2 was written by another version of video-data, this one reads 4: pack the videos again",
        ),
        ("manifest.json", lambda b: b.replace(b'"size"', b'"length"'), r"manifest.json: shards.0"),
        ("manifest.json", lambda b: b.replace(b"train-000000", b"../../000000"), r"shards.0.name"),
        (
            "manifest.json",
            lambda b: b.replace(b'"num_samples": 24', b'"num_samples": 23', 1),
            "counts 23 samples",
        ),
        ("train-000000.tar", lambda b: b[:-512], "bytes, the manifest says"),
        ("train-000000.json", lambda b: b.replace(b'"offset":', b'"offset":1'), "does not have the hash"),
    ],
)
def test_a_damaged_set_is_refused_with_the_place(file, change, message, class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    damage(tmp_path, file, change)
    with pytest.raises(ValueError, match=message):
        open_shards(tmp_path).sample("train", 0)


@pytest.mark.parametrize("file", ["train-000000.tar", "train-000000.json", "manifest.json"])
def test_a_missing_file_is_named(file, class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=f"{file}.*missing"):
        open_shards(tmp_path)


def test_a_tar_that_is_cut_after_opening_ends_early(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    shards = open_shards(tmp_path)
    last = max(range(24), key=lambda index: shards.sample("train", index).offset)
    record = shards.sample("train", last)
    os.truncate(tmp_path / "train-000000.tar", record.offset + 10)
    with pytest.raises(ShardError, match=rf"10 of {record.size} bytes of '{record.key}'") as error:
        shards.read("train", last)
    assert error.value.reason == "a shard ends early"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists open files")
def test_a_set_that_is_given_up_leaves_no_file_open(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)

    def open_tars():
        links = (str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return [link for link in links if link.startswith(str(tmp_path))]

    shards = open_shards(tmp_path)
    shards.read("train", 0)
    assert open_tars() == [str(tmp_path / "train-000000.tar")]
    del shards
    assert open_tars() == []


def test_unknown_splits_and_samples_are_refused(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    shards = open_shards(tmp_path)
    with pytest.raises(ValueError, match=r"no split 'val' .* it has train"):
        shards.num_samples("val")
    with pytest.raises(ValueError, match="allowed are 0 to 23"):
        shards.read("train", 24)
    with pytest.raises(ValueError, match="no folder of shards"):
        open_shards(tmp_path / "none")


@pytest.mark.parametrize("values", [[], [5], [0, 3, 6, 9], [0, 1, 5, 6, 7, 100], [-4, -2, 7]])
def test_runs_give_their_numbers_back(values):
    assert from_runs(to_runs(values)).tolist() == values


def test_regular_times_are_one_run():
    assert to_runs(range(100, 400, 3)) == ((100, 3, 100),)
    assert to_runs([0, 1, 2, 10, 14]) == ((0, 1, 3), (10, 4, 2))


@pytest.fixture(scope="module")
def filmed_shards(filmed_videos, tmp_path_factory):
    """Filmed videos packed as they are: (report, folder of shards)."""
    folder = tmp_path_factory.mktemp("filmed-shards")
    return pack_folder(filmed_videos, folder, options=COPY, progress=False), folder


@pytest.mark.slow
def test_a_folder_of_real_videos_is_packed_and_read(filmed_shards, filmed_videos):
    report, folder = filmed_shards
    shards = open_shards(folder, verify=True)
    assert report.num_packed == shards.num_samples("train") > 0
    verified = verify_shards(folder, progress=False)
    assert verified.problems == ()
    inspection = inspect_shards(shards, progress=False)
    assert inspection.splits["train"].num_frames == verified.num_frames > 1000
    thumbnails = sample_thumbnails(shards, clips_per_class=100, num_frames=3, progress=False)
    assert len(thumbnails) == report.num_packed and not [clip.problem for clip in thumbnails if clip.problem]
    clip = ClipConfig(num_frames=8, crop_size=112)
    for index in range(shards.num_samples("train")):
        views = decode_views(shards.read("train", index), clip, 3)
        assert views.shape == (3, 3, 8, 112, 112)
    for source, reason in report.dropped:
        assert reason
        path = filmed_videos / source
        if path.is_file():
            with pytest.raises(VideoError):
                decode_views(path, clip, 1)


@pytest.mark.slow
def test_a_folder_of_real_videos_is_encoded_anew(filmed_shards, filmed_videos, tmp_path):
    """All of them, and small, which takes less time and says as much of the reading."""
    options = PackOptions(max_short_side=128)
    report = pack_folder(filmed_videos, tmp_path, options=options, progress=False)
    copied, _ = filmed_shards
    assert (report.num_packed, {source for source, _ in report.dropped}) == (
        copied.num_packed,
        {source for source, _ in copied.dropped},
    )
    verified = verify_shards(tmp_path, progress=False)
    assert verified.problems == () and verified.num_frames > 1000
    shards = open_shards(tmp_path)
    clip = ClipConfig(num_frames=8, crop_size=112)
    for index in range(shards.num_samples("train")):
        assert decode_views(shards.read("train", index), clip, 1).shape == (1, 3, 8, 112, 112)
