"""Packing that is stopped, split into parts or fed with pictures and spans."""

import hashlib
import io
import random
import shutil
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from video_data import (
    ClipConfig,
    PackOptions,
    decode_views,
    inspect_shards,
    merge_parts,
    open_shards,
    pack_csv,
    pack_folder,
    pack_listing,
    verify_shards,
)
from video_data.datasets import MISSING, Entry, Listing, list_csv, list_folder
from video_data.datasets.validation import split_validation
from video_data.loading.live import open_frames
from video_data.loading.views import decode_timed_views
from video_data.media.decode import decode_clips
from video_data.packing._journal import Journal
from video_data.sampling.clips import Box
from video_data.utils.errors import InputError
from video_data.utils.files import locked

WHOLE = Box(0, 0, 64, 64)
COPY = PackOptions(mode="copy", shard_size=5)
SCRIPT = """
import sys
from video_data import PackOptions, pack_folder

if __name__ == "__main__":
    options = PackOptions(shard_size=2, num_workers=2)
    pack_folder(sys.argv[1], sys.argv[2], options=options, progress=False)
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def listing(entries: list[Entry], *dropped: tuple[Entry, str], **fields) -> Listing:
    return Listing(entries, list(dropped), fields.pop("dataset", "mine"), **fields)


def numbers(shards, index: int, frame_numbers, size: int = 64) -> list[int]:
    info = next(iter([shards.sample("train", index)])).video_info()
    box = Box(0, 0, *info.display_size)
    return frame_numbers(
        decode_clips(shards.read("train", index), info, [range(info.num_frames)], [box], size)[0][0]
    )


# --- stopped and started again


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(class_folder, scripts, tmp_path):
    pack_folder(class_folder, tmp_path / "whole", options=PackOptions(shard_size=2), progress=False)
    command = (SCRIPT, class_folder, tmp_path / "killed")
    moments = random.Random(0)
    finished: dict[str, int] = {}
    for _ in range(40):
        process = scripts(*command)
        # Some kills hit starting and some packing, which takes about 0.6 seconds.
        deadline = time.monotonic() + 20
        journal = tmp_path / "killed" / ".packing" / "plan.json"
        while not journal.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.25))
        if process.poll() is None:
            process.kill()
        process.wait()
        tars = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.tar")}
        records = {path.stem for path in (tmp_path / "killed" / ".packing").glob("t*.json")}
        for name, mtime in finished.items():
            assert tars[name] == mtime, f"{name} was made again"
        finished = {name: mtime for name, mtime in tars.items() if name.removesuffix(".tar") in records}
        if process.poll() == 0:
            break
    else:
        assert scripts(*command).wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_is_done_is_not_done_again(class_folder, tmp_path, monkeypatch):
    pack_folder(class_folder, tmp_path / "whole", options=COPY, progress=False)
    from video_data.packing import pack

    calls = []

    def stops_after_12(entry, options):
        calls.append(entry.source)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return load(entry, options)

    load = pack.load
    monkeypatch.setattr(pack, "load", stops_after_12)
    with pytest.raises(KeyboardInterrupt):
        pack_folder(class_folder, tmp_path / "shards", options=COPY, progress=False)
    with pytest.raises(ValueError, match=r"manifest.json is missing"):
        open_shards(tmp_path / "shards")
    first, calls[:] = calls[:10], ["never interrupted"] * 20
    pack_folder(class_folder, tmp_path / "shards", options=COPY, progress=False)
    assert not set(first) & set(calls)
    assert len(calls) == 20 + 14
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def interrupted(folder: Path, class_folder: Path, **options) -> None:
    """Leaves the first of two parts in a folder."""
    pack_folder(
        class_folder, folder, options=COPY.model_copy(update={"part": (1, 2), **options}), progress=False
    )


def test_other_options_or_videos_are_named_and_begin_anew_only_when_asked(class_folder, make_video, tmp_path):
    interrupted(tmp_path / "shards", class_folder)
    before = contents(tmp_path / "shards" / ".packing")
    with pytest.raises(
        ValueError, match=r"a difference: shard_size 5, now 6; seed 0, now 1\. Pack as before"
    ):
        options = COPY.model_copy(update={"shard_size": 6, "seed": 1})
        pack_folder(class_folder, tmp_path / "shards", options=options, progress=False)
    entries = [Entry(tmp_path / f"{label}.mp4", label, "train", label) for label in "ab"]
    for number, entry in enumerate(entries):
        entry.path.write_bytes(make_video([number] * 3))
    with pytest.raises(ValueError, match=f"data set {class_folder.name!r}, now 'mine'"):
        pack_listing(listing(entries), tmp_path / "shards", options=COPY, progress=False)
    with pytest.raises(ValueError, match="the classes or their order"):
        pack_listing(
            listing(entries, dataset=class_folder.name), tmp_path / "shards", options=COPY, progress=False
        )
    assert contents(tmp_path / "shards" / ".packing") == before
    options = COPY.model_copy(update={"overwrite": True})
    pack_listing(listing(entries), tmp_path / "shards", options=options, progress=False)
    assert open_shards(tmp_path / "shards", verify=True).num_samples("train") == 2


def test_videos_that_are_new_gone_or_changed_are_named(class_folder, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(class_folder, videos)
    interrupted(tmp_path / "shards", videos)
    whole = (videos / "class a" / "video 0.mp4").read_bytes()
    (videos / "class a" / "video 0.mp4").write_bytes(whole + b"\0")
    shutil.copy(videos / "class b" / "video 1.mp4", videos / "class b" / "another.mp4")
    for number in (2, 5):
        (videos / "class c" / f"video {number}.mp4").unlink()
    with pytest.raises(
        ValueError,
        match=r"a difference: the videos: 1 new, the first is class b/another.mp4 \(train\); 2 gone, the first is "
        r"class c/video 2.mp4 \(train\); 1 of another size or label, the first is class a/video 0.mp4 \(train\)",
    ):
        pack_folder(videos, tmp_path / "shards", options=COPY, progress=False)
    interrupted(tmp_path / "other", videos)
    with pytest.raises(ValueError, match=r"other holds a part of another packing: the videos: 2 new"):
        merge_parts(tmp_path / "shards", tmp_path / "other", progress=False)


def test_a_lost_shard_is_made_again(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path / "whole", options=COPY, progress=False)
    interrupted(tmp_path / "shards", class_folder)
    (tmp_path / "shards" / "train-000000.tar").unlink()
    damaged = tmp_path / "shards" / "train-000002.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"video", b"audio", 1))
    pack_folder(class_folder, tmp_path / "shards", options=COPY, progress=False)
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_a_damaged_record_is_made_again(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path / "whole", options=COPY, progress=False)
    interrupted(tmp_path / "shards", class_folder)
    record = next((tmp_path / "shards" / ".packing").glob("train-*.json"))
    record.write_bytes(record.read_bytes()[:20])
    pack_folder(class_folder, tmp_path / "shards", options=COPY, progress=False)
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["plan.json", "listing.jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_plan_is_named_with_what_to_do(name, damage, class_folder, tmp_path):
    interrupted(tmp_path / "shards", class_folder)
    path = tmp_path / "shards" / ".packing" / name
    content = bytearray(path.read_bytes())
    content[20] ^= 0x80
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    with pytest.raises(InputError, match=rf"{name}.*remove .*packing to pack all videos anew"):
        merge_parts(tmp_path / "shards", progress=False)


def test_a_cut_shard_is_made_again_and_what_a_kill_left_is_removed(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path / "whole", options=COPY, progress=False)
    shards = tmp_path / "shards"
    interrupted(shards, class_folder)
    tar = shards / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    for left in (".train-000000.tar.x.tmp", ".train-000001.json.x.tmp", ".packing/.train-000001.json.x.tmp"):
        (shards / left).write_bytes(b"half")
    pack_folder(class_folder, shards, options=COPY, progress=False)
    assert contents(shards) == contents(tmp_path / "whole")


def test_an_overwrite_that_is_stopped_leaves_no_finished_set(class_folder, tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    pack_folder(class_folder, folder, options=COPY, progress=False)
    before = contents(folder)
    from video_data.packing import pack

    def stop(entry, options):
        raise KeyboardInterrupt

    overwrite = COPY.model_copy(update={"overwrite": True})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pack, "load", stop)
        pack_folder(class_folder, folder, options=overwrite, progress=False)
    with pytest.raises(ValueError, match=r"manifest.json is missing"):
        open_shards(folder)
    pack_folder(class_folder, folder, options=overwrite, progress=False)
    assert contents(folder).keys() == before.keys()
    assert verify_shards(folder, progress=False).problems == ()


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("found", ["my own", "of a set without its manifest"])
def test_shards_that_no_packing_here_made_are_replaced_only_when_asked(found, class_folder, tmp_path):
    shards = tmp_path / "shards"
    if found == "my own":
        shards.mkdir()
        for name in ("train-000000.tar", "train-000000.json", "val-000007-03.tar"):
            (shards / name).write_bytes(b"mine")
    else:
        pack_folder(class_folder, shards, options=COPY, progress=False)
        (shards / "manifest.json").unlink()
    (shards / "train-1.tar").write_bytes(b"no name of a shard")
    before = all_files(shards)
    refused = (
        r"files with names of shards, as train-000000.json, that no unfinished packing made; choose another"
    )
    for part in (None, (1, 2)):
        options = COPY.model_copy(update={"part": part})
        with pytest.raises(InputError, match=refused):
            pack_folder(tmp_path / "not even listed", shards, options=options, progress=False)
    interrupted(tmp_path / "part", class_folder)
    with pytest.raises(InputError, match=refused):
        merge_parts(shards, tmp_path / "part", progress=False)
    assert all_files(shards) == before
    options = PackOptions(mode="copy", overwrite=True)  # one shard
    pack_folder(class_folder, shards, options=options, progress=False)
    assert set(all_files(shards)) == {"manifest.json", "train-000000.tar", "train-000000.json", "train-1.tar"}
    assert verify_shards(shards, progress=False).problems == ()


def test_own_shards_beside_an_unfinished_packing_are_refused(class_folder, tmp_path):
    shards = tmp_path / "shards"
    interrupted(shards, class_folder)
    (shards / "val-000000.tar").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds 1 files with names of shards, as val-000000.tar"):
        pack_folder(class_folder, shards, options=COPY, progress=False)
    assert (shards / "val-000000.tar").read_bytes() == b"mine"
    done = (shards / "train-000000.tar").stat().st_mtime_ns
    options = COPY.model_copy(update={"overwrite": True})
    pack_folder(class_folder, shards, options=options, progress=False)
    assert not (shards / "val-000000.tar").exists()
    assert (shards / "train-000000.tar").stat().st_mtime_ns == done  # the packing went on


def test_parts_are_not_merged_into_a_finished_set(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path / "shards", options=PackOptions(mode="copy"), progress=False)
    before = all_files(tmp_path / "shards")
    for number in (1, 2):
        interrupted(tmp_path / "parts", class_folder, part=(number, 2))
    with pytest.raises(InputError, match=r"holds a finished shard set; choose another folder$"):
        merge_parts(tmp_path / "shards", tmp_path / "parts", progress=False)
    assert all_files(tmp_path / "shards") == before


def test_the_order_of_the_listing_does_not_matter(class_folder, tmp_path):
    videos = list_folder(class_folder)
    pack_listing(videos, tmp_path / "one", options=COPY, progress=False)
    turned = replace(videos, entries=videos.entries[::-1])
    pack_listing(turned, tmp_path / "two", options=COPY, progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# --- parts


@pytest.mark.parametrize("folders", ["same", "other"])
def test_parts_join_to_what_is_packed_at_once(folders, class_folder, tmp_path):
    pack_folder(class_folder, tmp_path / "whole", options=COPY, progress=False)
    num_packed = 0
    places = []
    for number in (3, 1, 2):
        place = tmp_path / (f"part {number}" if folders == "other" else "joined")
        options = COPY.model_copy(update={"part": (number, 3)})
        report = pack_folder(class_folder, place, options=options, progress=False)
        assert report.manifest is None
        num_packed += report.num_packed
        places.append(place)
    assert num_packed == 24
    report = merge_parts(tmp_path / "joined", *(places if folders == "other" else []))
    assert (report.num_packed, report.dropped) == (24, [])
    assert contents(tmp_path / "joined") == contents(tmp_path / "whole")
    assert verify_shards(tmp_path / "joined", progress=False).problems == ()


def test_missing_and_foreign_parts_are_refused(class_folder, tmp_path):
    interrupted(tmp_path / "one", class_folder)
    with pytest.raises(
        ValueError, match=r"2 of 5 groups of videos are not packed, the first is train-000001"
    ):
        merge_parts(tmp_path / "one")
    with pytest.raises(ValueError, match="none holds no part of a packing"):
        merge_parts(tmp_path / "one", tmp_path / "none")
    with pytest.raises(ValueError, match="new holds no part of a packing"):
        merge_parts(tmp_path / "new")
    interrupted(tmp_path / "two", class_folder, shard_size=4)
    with pytest.raises(ValueError, match=r"two holds a part of another packing: shard_size 4, now 5"):
        merge_parts(tmp_path / "one", tmp_path / "two")
    with pytest.raises(ValueError, match="jobs would remove each other's shards"):
        interrupted(tmp_path / "one", class_folder, overwrite=True)
    with pytest.raises(ValueError, match="part 3 of 2: allowed are 1 to 2"):
        PackOptions(part=(3, 2))


def test_a_part_without_videos_is_no_error(class_folder, tmp_path):
    options = PackOptions(mode="copy", part=(2, 2))  # one group of all videos
    assert pack_folder(class_folder, tmp_path, options=options, progress=False).num_packed == 0


# --- what is in the manifest


def test_the_manifest_says_what_became_of_every_listed_video(make_video, tmp_path):
    good = make_video(range(4))
    (tmp_path / "a.mp4").write_bytes(good)
    (tmp_path / "b.mp4").write_bytes(make_video(range(4, 8)))
    (tmp_path / "copy of a.mp4").write_bytes(good)
    (tmp_path / "broken.mp4").write_bytes(good[:200])
    entries = [
        Entry(tmp_path / "a.mp4", "a.mp4", "train", "swim", other_labels=("dive", "run")),
        Entry(tmp_path / "b.mp4", "b.mp4", "train", "run"),
        Entry(tmp_path / "broken.mp4", "broken.mp4", "train", "run"),
        Entry(tmp_path / "copy of a.mp4", "copy of a.mp4", "val", "swim"),
        Entry(tmp_path / "b again.mp4", "b again.mp4", "train", "dive"),
    ]
    (tmp_path / "b again.mp4").write_bytes((tmp_path / "b.mp4").read_bytes())
    gone = Entry(tmp_path / "gone.mp4", "gone.mp4", "val", "dive")
    lost = replace(gone, split="test")
    wanted = listing(
        entries, (gone, MISSING), (lost, MISSING), dataset="sports 2", classes=("swim", "run", "dive", "sail")
    )
    report = pack_listing(wanted, tmp_path / "shards", options=PackOptions(mode="copy"), progress=False)
    assert (report.num_packed, report.num_duplicates) == (4, 1)
    shards = open_shards(tmp_path / "shards")
    manifest = shards.manifest
    assert manifest.dataset == "sports 2"
    assert manifest.classes == ("swim", "run", "dive", "sail")
    assert manifest.splits["train"].per_class == {"swim": 1, "run": 1, "dive": 1, "sail": 0}
    coverage = {split: counts.model_dump() for split, counts in manifest.coverage.items()}
    reason = next(reason for source, reason in report.dropped if source == "broken.mp4")
    assert coverage == {
        "train": {"num_listed": 4, "num_packed": 3, "num_missing": 0, "left_out": {reason: 1}},
        "val": {"num_listed": 2, "num_packed": 1, "num_missing": 1, "left_out": {}},
        "test": {"num_listed": 1, "num_packed": 0, "num_missing": 1, "left_out": {}},
    }
    assert manifest.duplicates[0].samples == (("train", "a.mp4"), ("val", "copy of a.mp4"))
    assert manifest.repeats[0].samples == (("train", "b again.mp4"), ("train", "b.mp4"))
    record = next(record for record in shards.samples("train") if record.source == "a.mp4")
    assert (record.label, record.other_labels) == (0, (2, 1))
    assert record.source_sha256 == hashlib.sha256(good).hexdigest()
    inspection = inspect_shards(shards, progress=False)
    assert (inspection.dataset, inspection.num_duplicates) == ("sports 2", 1)
    assert (inspection.num_repeats, inspection.repeats) == (1, manifest.repeats)
    assert inspection.coverage == manifest.coverage


# --- spans


def test_a_span_is_cut_to_the_frame(make_video, frame_numbers, tmp_path):
    # 100 frames of 40 ms, a keyframe every 30.
    options = {"x264-params": "keyint=30:min-keyint=30:scenecut=0"}
    (tmp_path / "long.mp4").write_bytes(make_video(range(100), options=options))
    long = Entry(tmp_path / "long.mp4", "long.mp4", "train", "a", span=(0.4, 0.8))
    entries = [long, replace(long, span=(1.2, 2.0)), replace(long, span=(3.6, 9), label="b")]
    report = pack_listing(listing(entries), tmp_path / "shards", progress=False)
    shards = open_shards(tmp_path / "shards")
    found = {
        record.span: numbers(shards, index, frame_numbers)
        for index, record in enumerate(shards.samples("train"))
    }
    assert found == {
        (0.4, 0.8): list(range(10, 20)),
        (1.2, 2.0): list(range(30, 50)),
        (3.6, 9.0): list(range(90, 100)),
    }
    assert all(record.pts[0][0] == 0 for record in shards.samples("train"))
    assert len({record.key for record in shards.samples("train")}) == 3
    assert (report.num_packed, report.num_duplicates) == (3, 0)


@pytest.mark.parametrize("container", ["mpegts", "matroska", "avi"])
def test_a_span_is_cut_where_the_container_has_no_index(container, make_video, frame_numbers, tmp_path):
    codec = {"codec": "mpeg4", "options": {"g": "12", "qscale": "2"}, "time_base": Fraction(1, 25)}
    video = make_video(range(60), container=container, pts=list(range(60)), **codec)
    (tmp_path / "a.ts").write_bytes(video)
    entry = Entry(tmp_path / "a.ts", "a.ts", "train", "a", span=(1.0, 1.6))
    pack_listing(
        listing([entry, replace(entry, label="b", span=(0, 0.4))]), tmp_path / "shards", progress=False
    )
    shards = open_shards(tmp_path / "shards")
    found = sorted(numbers(shards, index, frame_numbers) for index in range(2))
    assert found == [list(range(10)), list(range(25, 40))]


def test_a_csv_may_name_parts_of_videos(make_video, frame_numbers, tmp_path):
    (tmp_path / "long.mp4").write_bytes(make_video(range(100)))
    (tmp_path / "short.mp4").write_bytes(make_video(range(12)))
    rows = (
        "long.mp4,a,0.4,0.8\nlong.mp4,b,0:01,00:00:01.5\nlong.mp4,a,0.6,1\nshort.mp4,b,,\nlong.mp4,b,9,10\n"
    )
    (tmp_path / "list.csv").write_text(f"path,label,start,end\n{rows}")
    report = pack_csv(tmp_path / "list.csv", tmp_path / "shards", progress=False)
    assert report.dropped == [("long.mp4 from 9 to 10 s", "no frames from 9 to 10 seconds")]
    shards = open_shards(tmp_path / "shards")
    found = {
        (record.source, record.span, record.label): numbers(shards, index, frame_numbers)
        for index, record in enumerate(shards.samples("train"))
    }
    assert found == {
        ("long.mp4", (0.4, 0.8), 0): list(range(10, 20)),
        ("long.mp4", (1.0, 1.5), 1): list(range(25, 38)),
        ("long.mp4", (0.6, 1.0), 0): list(range(15, 25)),
        ("short.mp4", None, 1): list(range(12)),
    }


def test_parts_of_a_video_stay_in_one_split(tmp_path):
    rows = "".join(
        f"{name}.mp4,{'ab'[part % 2]},{part},{part + 1}\n" for name in "vwxyz" for part in range(4)
    )
    for name in "vwxyz":
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "list.csv").write_text(f"path,label,start,end\n{rows}")
    listing = split_validation(list_csv(tmp_path / "list.csv"), 0.2)
    splits = {name: {entry.split for entry in listing.entries if entry.source[0] == name} for name in "vwxyz"}
    assert sorted(map(sorted, splits.values())) == [["train"]] * 4 + [["val"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4,a,1,\n", "line 2: end must be a number of seconds or [hours:]minutes:seconds"),
        ("a.mp4,a,-1,2\n", "line 2: start must be a number of seconds"),
        ("a.mp4,a,0,nan\n", "got 'nan'"),
        ("a.mp4,a,2,1:00:00\na.mp4,a,2,2\n", "line 3: start 2 is not before end 2"),
        (
            "a.mp4,a,0,1\n./a.mp4,b,0:00,0:01.0\n",
            "line 3: ./a.mp4 from 0 to 1 s was listed before with another label",
        ),
        ("a,a,0,1\n", "line 2: start and end are for video files, and a is a folder of pictures"),
    ],
)
def test_parts_of_a_csv_that_cannot_be_meant_are_refused_with_the_line(rows, message, tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "list.csv").write_text(f"path,label,start,end\n{rows}")
    with pytest.raises(ValueError) as error:
        list_csv(tmp_path / "list.csv")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("path,label,start", r"there is no end in the header 'path,label,start': .*expected path,label"),
        (
            "path,label,start,stop",
            r"there is no end in the header 'path,label,start,stop': .*is stop meant as end",
        ),
        ("path,label,begin,end", r"there is no start in .*is begin meant as start"),
    ],
)
def test_a_csv_with_one_end_of_parts_is_refused(header, told, tmp_path):
    (tmp_path / "list.csv").write_text(f"{header}\na.mp4,a{',1' * (header.count(',') - 1)}\n")
    with pytest.raises(ValueError, match=told):
        list_csv(tmp_path / "list.csv")


def test_a_column_that_is_not_read_is_told_with_the_one_that_may_be_meant(make_video, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(make_video(range(3)))
    (tmp_path / "list.csv").write_text("path,label,spilt,day\na.mp4,a,val,1\nb.mp4,b,train,2\n")
    told = list_csv(tmp_path / "list.csv").notes[0]
    assert told == "columns that are not read: day, spilt; is spilt meant as split?"


def test_spans_that_cannot_be_cut_are_refused(make_video, tmp_path):
    (tmp_path / "a.mp4").write_bytes(make_video(range(10)))
    entry = Entry(tmp_path / "a.mp4", "a.mp4", "train", "a", span=(5, 6))
    with pytest.raises(ValueError, match="can only be cut by encoding them again"):
        pack_listing(listing([entry]), tmp_path / "shards", options=PackOptions(mode="copy"), progress=False)
    assert not (tmp_path / "shards").exists()
    entries = [entry, replace(entry, label="b", span=(0, 0.2))]
    report = pack_listing(listing(entries), tmp_path / "shards", progress=False)
    assert report.dropped == [("a.mp4 from 5 to 6 s", "no frames from 5 to 6 seconds")]
    left_out = open_shards(tmp_path / "shards").manifest.coverage["train"].left_out
    assert left_out == {"no frames in the span": 1}


# --- folders of pictures


def picture_folder(folder: Path, contents: list[bytes], suffix: str = "jpg") -> Entry:
    folder.mkdir(parents=True)
    for number, content in enumerate(contents, start=1):
        (folder / f"{number:05d}.{suffix}").write_bytes(content)
    return Entry(folder, folder.name, "train", folder.name[0], frame_rate=Fraction(12))


@pytest.mark.parametrize("mode", ["copy", "reencode"])
def test_jpeg_pictures_are_kept_bit_for_bit(mode, make_picture, frame_numbers, tmp_path):
    pictures = {name: [make_picture(first + i) for i in range(7)] for name, first in (("a", 20), ("b", 40))}
    entries = [picture_folder(tmp_path / name, contents) for name, contents in pictures.items()]
    pack_listing(listing(entries), tmp_path / "shards", options=PackOptions(mode=mode), progress=False)
    shards = open_shards(tmp_path / "shards", verify=True)
    for index, record in enumerate(shards.samples("train")):
        content = shards.read("train", index)
        assert (record.codec, record.num_frames) == ("mjpeg", 7)
        assert Fraction(*record.time_base) * record.pts[0][1] == Fraction(1, 12)
        with av.open(io.BytesIO(content)) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        assert packets == pictures[record.source]
        first = {"a": 20, "b": 40}[record.source]
        assert numbers(shards, index, frame_numbers) == list(range(first, first + 7))
        assert record.keyframes == ((0, 1, 7),)


def test_large_or_other_pictures_are_encoded_again(make_picture, frame_numbers, tmp_path):
    entries = [
        picture_folder(tmp_path / "large", [make_picture(i, (128, 96)) for i in range(5)]),
        picture_folder(tmp_path / "png", [make_picture(i, codec="png") for i in range(5)], "png"),
        picture_folder(
            tmp_path / "sizes", [make_picture(i, (64 + 32 * (i % 2), 48 + 24 * (i % 2))) for i in range(5)]
        ),
    ]
    pack_listing(
        listing(entries), tmp_path / "shards", options=PackOptions(max_short_side=64), progress=False
    )
    shards = open_shards(tmp_path / "shards")
    sizes = {}
    for index, record in enumerate(shards.samples("train")):
        assert record.codec == "h264"
        assert numbers(shards, index, frame_numbers) == list(range(5))
        sizes[record.source] = (record.width, record.height)
    assert sizes == {"large": (86, 64), "png": (64, 48), "sizes": (64, 48)}


def test_pictures_that_cannot_be_packed_are_listed_with_the_reason(make_picture, tmp_path):
    good = [make_picture(i) for i in range(4)]
    entries = [
        picture_folder(tmp_path / "good", good),
        picture_folder(tmp_path / "cut", [*good[:2], good[2][:300], good[3]]),
        picture_folder(tmp_path / "full disk", [good[0], b""]),
        picture_folder(tmp_path / "gap", good),
        picture_folder(tmp_path / "text", [b"no picture", *good]),
        picture_folder(tmp_path / "none", []),
        picture_folder(tmp_path / "png", [make_picture(1, codec="png")], "png"),
        replace(picture_folder(tmp_path / "rate", good), frame_rate=None),
    ]
    (tmp_path / "gap" / "00002.jpg").unlink()
    report = pack_listing(
        listing(entries), tmp_path / "shards", options=PackOptions(mode="copy"), progress=False
    )
    reasons = dict(report.dropped)
    assert report.num_packed == 1
    assert reasons["cut"] == "00003.jpg ends early"
    assert reasons["full disk"] == "00002.jpg is empty"
    assert reasons["gap"].startswith("pictures are missing: 1 gap")
    assert reasons["text"] == "00001.jpg is no JPEG or PNG picture"
    assert reasons["none"] == "no pictures in this folder"
    assert reasons["png"] == "pictures that are not all JPEG; mode reencode takes them"
    assert reasons["rate"] == "a folder of pictures, for which the frame rate must be given"


def test_clips_are_cut_from_packed_pictures(make_picture, frame_numbers, tmp_path):
    entry = picture_folder(tmp_path / "a", [make_picture(i, (64, 64)) for i in range(8)])
    pack_listing(listing([entry]), tmp_path / "shards", progress=False)
    content = open_shards(tmp_path / "shards").read("train", 0)
    clip = ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64))
    views = decode_views(content, clip, 1)
    assert views.shape == (1, 3, 4, 64, 64)
    assert frame_numbers(views[0].permute(1, 2, 3, 0).numpy()) == [2, 3, 4, 5]


def test_a_folder_of_pictures_is_a_video_without_packing(make_picture, frame_numbers, tmp_path):
    folders = {
        "jpeg": picture_folder(tmp_path / "jpeg", [make_picture(i, (64, 64)) for i in range(8)]),
        "png": picture_folder(
            tmp_path / "png", [make_picture(i, (64, 64), codec="png") for i in range(8)], "png"
        ),
        "sizes": picture_folder(
            tmp_path / "sizes", [make_picture(i, (64 + i // 4 * 16, 64 + i // 4 * 16)) for i in range(8)]
        ),
    }
    clip = ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64))
    for entry in folders.values():
        views, starts = decode_timed_views(entry.path, clip, 2)
        shown = [frame_numbers(view.permute(1, 2, 3, 0).numpy()) for view in views]
        assert shown == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert starts == [(0, 0.0), (4, pytest.approx(4 / 25))]
        with open_frames(str(entry.path)) as frames:
            assert len(list(frames)) == 8
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: no pictures in this folder"):
        decode_views(tmp_path / "none", clip, 1)


# --- processes that die


@pytest.mark.slow
def test_a_process_that_dies_is_told_with_what_it_worked_on(scripts):
    process = scripts(
        "import os, signal, sys\n"
        "from video_data.utils import pool\n"
        "def work(item):\n"
        "    if item == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return item\n"
        "if __name__ == '__main__':\n"
        "    name = 'video {}'.format\n"
        "    list(pool.map_in_order(work, range(20), num_workers=2, title='', progress=False, describe=name))\n"
    )
    assert process.wait() != 0
    assert process.errors.strip().splitlines()[-1] == (
        "video_data.utils.errors.WorkersError: a worker process died (SIGKILL; out of memory? Try fewer workers) "
        "while it worked on video 5"
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked at in /proc")
def test_worker_processes_end_when_the_main_process_is_killed(scripts):
    process = scripts(
        "import os, time\n"
        "from video_data.utils import pool\n"
        "def work(item):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(pool.map_in_order(work, range(2), num_workers=2, title='', progress=False))\n"
    )
    workers = list(map(int, process.wait_for_lines(2)))
    process.kill()
    deadline = time.monotonic() + 10
    while (left := [pid for pid in workers if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_what_it_lacks(class_folder, scripts, tmp_path):
    process = scripts(
        "import sys\nfrom video_data import PackOptions, pack_folder\n"
        "pack_folder(sys.argv[1], sys.argv[2], options=PackOptions(num_workers=2), progress=False)\n",
        class_folder,
        tmp_path / "shards",
    )
    assert process.wait() != 0
    last = process.errors.strip().splitlines()[-1]
    assert last.startswith("video_data.utils.errors.WorkersError: worker processes cannot start: ")
    assert "inside `if __name__ == '__main__':`" in last


def test_the_journal_is_gone_when_all_is_done(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    assert Journal(tmp_path).plan() is None
    assert not (tmp_path / ".packing").exists()


def test_two_processes_do_not_pack_into_one_folder(class_folder, tmp_path):
    part = COPY.model_copy(update={"part": (2, 2)})
    refused = pytest.raises(
        InputError, match=r"another process packs into .*: wait for it, or choose another"
    )
    with locked(tmp_path / ".lock", wait=False):  # another process packs the whole set
        for options in (COPY, part):
            with refused:
                pack_folder(class_folder, tmp_path, options=options, progress=False)
    with locked(tmp_path / ".lock", wait=False, shared=True):  # it packs a part
        with refused:
            pack_folder(class_folder, tmp_path, options=COPY, progress=False)
        with locked(tmp_path / ".lock-1", wait=False):
            pack_folder(class_folder, tmp_path, options=part, progress=False)
        with locked(tmp_path / ".lock-2", wait=False), pytest.raises(InputError, match="packs part 2 into"):
            pack_folder(class_folder, tmp_path, options=part, progress=False)
        with refused:
            merge_parts(tmp_path)
    pack_folder(class_folder, tmp_path, options=COPY, progress=False)
    assert not list(tmp_path.glob(".lock*[!12]"))


def test_another_process_is_told_before_videos_are_listed(tmp_path):
    with locked(tmp_path / ".lock", wait=False):
        for pack in (pack_folder, pack_csv):
            with pytest.raises(InputError, match="another process packs into"):
                pack(tmp_path / "no videos", tmp_path, progress=False)
