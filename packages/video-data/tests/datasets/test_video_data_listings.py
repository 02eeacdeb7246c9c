"""What listings take for a split, a class and a label, what they refuse, and what they count as passed over."""

import json
import os
import socket
import unicodedata
from fractions import Fraction
from pathlib import Path

import pytest

from video_data import PackOptions, inspect_shards, open_shards, pack_csv, pack_folder, pack_listing
from video_data.datasets import (
    MISSING,
    Entry,
    Listing,
    list_csv,
    list_diving48,
    list_folder,
    list_hmdb51,
    list_kinetics,
    list_something,
    list_sports1m,
    list_ucf101,
)
from video_data.datasets.finder import Finder
from video_data.utils.errors import WorkError

COPY = PackOptions(mode="copy")


def touch(root: Path, *names: str) -> Path:
    """Makes empty files: listing reads no video."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def listed(listing: Listing) -> dict[str, tuple[str, str]]:
    """Split and class of each source."""
    return {entry.source: (entry.split, entry.label) for entry in listing.entries}


def dropped(listing: Listing) -> list[tuple[str, str]]:
    return [(entry.source, reason) for entry, reason in listing.dropped]


def passed_over(listing: Listing) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {entry.reason: (entry.count, entry.first) for entry in listing.passed_over}


# --- labels of a csv


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,label\na.mp4,throw, then catch\nb.mp4,x\n",
            "line 2: 3 cells, the header names 2; a cell with a comma needs quotes: 'a.mp4,throw,then catch'",
        ),
        ("path,label,split\na.mp4,x,train\nb.mp4,y\n", "line 3: 2 cells, the header names 3"),
        ('path,label\na.mp4,"x\nb.mp4,y\nc.mp4,x\n', "line 2: unexpected end of data; a quote within"),
        ('path,label\na.mp4,"x" y\nb.mp4,y\n', "line 2: ',' expected after"),
        ("path,label,\na.mp4,x,\nb.mp4,y,z\n", "line 3: 3 cells, the header names 2"),
        ("path,label,Label\na.mp4,x,y\n", "the column label is twice in the header"),
        (
            "path,label\na.mp4,x\nb.mp4,y\n./a.mp4,y\n",
            "line 4: ./a.mp4 was listed before with another label or split, in line 2 as a.mp4: 'y' in train, and 'x'",
        ),
        ("path,label\na.mp4,x\nb.mp4,y\nc/../a.mp4,y\n", "line 4: c/../a.mp4 was listed before"),
        ("path,label\na.mp4,x\nb.mp4,y\nlink.mp4,y\n", "line 4: link.mp4 was listed before"),
        ("path,label\na.mp4,x\nb.mp4,y\nlinked/a.mp4,y\n", "line 4: linked/a.mp4 was listed before"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,train\n./a.mp4,x,dev\n", "line 4: ./a.mp4 was listed before"),
        ("path,label\ngone.mp4,x\nb.mp4,y\n./gone.mp4,y\n", "line 4: ./gone.mp4 was listed before"),
        ("path,label\na.mp4,Run\nb.mp4,run\n", r"classes 'Run' (line 2) and 'run' (line 3) differ in case"),
        ("path,label\na.mp4,go up\nb.mp4,go  up\n", "'go up' (line 2) and 'go  up' (line 3)"),
        ("path,label\na.mp4,\u00e9t\u00e9\nb.mp4,e\u0301te\u0301\n", r"'\xe9t\xe9' (line 2) and 'e\u0301te"),
        ("path,label\na.mp4,-1\nb.mp4,-1\n", "no row of"),
    ],
)  # fmt: skip
def test_labels_of_a_csv_that_do_not_fit_are_refused_with_the_line(content, message, tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "linked").symlink_to(".")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError) as error:
        list_csv(text(tmp_path / "list.csv", content))
    assert message in str(error.value)


def test_a_video_under_two_spellings_with_one_label_is_listed_once(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    table = text(tmp_path / "list.csv", "Path,label,,\na.mp4,x,,\n./a.mp4,x,,\n\nb.mp4,y,,,,\n")
    listing = list_csv(str(table), str(tmp_path))
    assert listed(listing) == {"a.mp4": ("train", "x"), "b.mp4": ("train", "y")}
    assert dropped(listing) == [("./a.mp4", "listed twice")]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0", "2", "10"], tuple(map(str, range(11)))),
        (["1", "10", "9"], ("1", "9", "10")),
        (["07", "1", "10"], ("1", "07", "10")),
        (["b", "2", "10"], ("10", "2", "b")),
        (["2024", "0", "99999"], ("0", "2024", "99999")),
    ],
)
def test_labels_that_are_numbers_keep_their_order(labels, classes, tmp_path):
    rows = "".join(f"{number}.mp4,{label}\n" for number, label in enumerate(labels))
    touch(tmp_path, *(f"{number}.mp4" for number in range(3)))
    assert list_csv(text(tmp_path / "list.csv", f"path,label\n{rows}")).class_names == classes


def test_numbers_that_do_not_begin_with_0_are_told(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = "path,label\na.mp4,{}\nb.mp4,5\n"
    (note,) = list_csv(text(tmp_path / "list.csv", rows.format(3))).notes
    assert note.endswith("the label of class 3 is 0")
    assert list_csv(text(tmp_path / "list.csv", rows.format(0))).notes == ()


@pytest.mark.parametrize(
    ("names", "order", "notes"),
    [
        (["-1", "0", "1"], ("-1", "0", "1"), ["the label of class -1 is 0"]),
        (["1", "2", "10"], ("1", "2", "10"), ["the label of class 1 is 0"]),
        (["0", "2"], ("0", "1", "2"), []),
        (["0", "1", "cat"], ("0", "1", "cat"), []),
    ],
)
def test_folders_that_are_numbers_and_do_not_begin_with_0_are_told(names, order, notes, tmp_path):
    """A folder named -1 is a class, since somebody has made it, and its videos are packed."""
    touch(tmp_path, *(f"{name}/{name}.mp4" for name in names))
    listing = list_folder(tmp_path)
    assert listing.class_names == order
    assert [note.rpartition(": ")[2] for note in listing.notes[1:]] == notes
    assert len(listing.entries) == len(names)


def test_numbers_that_do_not_begin_with_0_are_told_of_data_sets_too(tmp_path):
    rows = "label,youtube_id,time_start,time_end,split\n1,a,1,11,train\n2,b,1,11,train\n"
    text(tmp_path / "train.csv", rows)
    touch(tmp_path, "a_000001_000011.mp4", "b_000001_000011.mp4")
    assert any(note.endswith("the label of class 1 is 0") for note in list_kinetics(tmp_path).notes)


def test_one_number_in_two_spellings_is_refused(tmp_path):
    table = text(tmp_path / "list.csv", "path,label\na.mp4,1\nb.mp4,01\nc.mp4,2\n")
    with pytest.raises(
        ValueError, match=r"the classes '1' \(line 2\) and '01' \(line 3\) differ in .* a number"
    ):
        list_csv(table)


def test_no_label_is_no_class_and_missing_videos_keep_theirs(make_video, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(make_video([1]))
    table = text(
        tmp_path / "list.csv", "path,label\na.mp4,0\nb.mp4,2\nc.mp4,-1\nc.mp4,-1\ngone.mp4,1\nmore.mp4,4\n"
    )
    listing = list_csv(table)
    assert listing.class_names == ("0", "1", "2", "3", "4")
    assert dropped(listing) == [
        ("c.mp4", "no label"), ("c.mp4", "listed twice"), ("gone.mp4", MISSING), ("more.mp4", MISSING)
    ]  # fmt: skip
    report = pack_listing(listing, tmp_path / "shards", options=COPY, progress=False)
    shards = open_shards(tmp_path / "shards")
    assert {record.source: record.label for record in shards.samples("train")} == {"a.mp4": 0, "b.mp4": 2}
    assert ("c.mp4", "no label") in report.dropped
    assert shards.manifest.coverage["train"].left_out == {"no label": 1, "listed twice": 1}


def test_one_path_that_no_system_takes_does_not_end_packing(make_video, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(make_video([1]))
    long = "x" * 300 + ".mp4"
    table = text(
        tmp_path / "list.csv", f"path,label\na.mp4,a\nb.mp4,b\n{long},b\nnul\0.mp4,b\na.mp4/c.mp4,b\n"
    )
    report = pack_csv(table, tmp_path / "shards", options=COPY, progress=False)
    reasons = dict(report.dropped)
    assert report.num_packed == 2
    assert reasons[long] == "OSError: File name too long"
    assert "null" in reasons["nul\0.mp4"] and reasons["a.mp4/c.mp4"] == MISSING


def test_the_header_of_a_csv_may_have_capitals_and_other_columns_are_named(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    table = text(tmp_path / "list.csv", "PATH, Label,day,Split,Note\na.mp4,x,1,val,\nb.mp4,y,2,train,z\n")
    listing = list_csv(table)
    assert listed(listing) == {"a.mp4": ("val", "x"), "b.mp4": ("train", "y")}
    assert listing.notes[0] == "columns that are not read: day, note"


def test_folders_and_csv_files_give_the_data_set_their_names(tmp_path, monkeypatch):
    folder = touch(tmp_path / "my\nvideos", "a/1.mp4", "b/2.mp4")
    (tmp_path / "link").symlink_to(folder)
    assert list_folder(folder).dataset == "my\\x0avideos"
    assert list_folder(tmp_path / "link").dataset == "link"
    monkeypatch.chdir(folder / "a")
    assert list_folder("..").dataset == "my\\x0avideos"
    listing = text(folder / "my.list.csv", "path,label\na/1.mp4,a\nb/2.mp4,b\n")
    assert list_csv(listing).dataset == "my.list"


def test_splits_of_a_csv_have_their_common_names(tmp_path):
    names = {"Training": "train", "dev": "val", "eval": "val", "validate": "val", "TESTING": "test"}
    touch(tmp_path, *(f"{name}.mp4" for name in names))
    rows = "".join(f"{name}.mp4,{'ab'[number % 2]},{name}\n" for number, name in enumerate(names))
    listing = list_csv(text(tmp_path / "list.csv", f"path,label,split\n{rows}"))
    assert {entry.source: entry.split for entry in listing.entries} == {
        f"{name}.mp4": split for name, split in names.items()
    }


# --- labels of data sets


def test_one_video_with_two_labels_is_refused_in_every_data_set(tmp_path):
    kinetics = touch(tmp_path / "kinetics", "abc_000001_000011.mp4", "d_000001_000011.mp4")
    header = "label,youtube_id,time_start,time_end,split\n"
    text(kinetics / "train.csv", f"{header}run,abc,1,11,train\nwalk,d,1,11,train\nwalk,abc,1,11,train\n")
    something = touch(tmp_path / "something", "1.webm", "2.webm")
    text(something / "labels.json", json.dumps({"a": "0", "b": "1"}))
    rows = [{"id": "1", "template": "a"}, {"id": "2", "template": "b"}, {"id": "1", "template": "b"}]
    text(something / "train.json", json.dumps(rows))
    text(something / "validation.json", "[]")
    diving = touch(tmp_path / "diving", "x.mp4")
    text(diving / "Diving48_train.json", json.dumps([{"vid_name": "x", "label": label} for label in (0, 1)]))
    text(diving / "Diving48_test.json", "[]")
    sports = touch(tmp_path / "sports", "x.mp4")
    text(sports / "labels.txt", "a\nb\n")
    text(sports / "train_partition.txt", "https://youtu.be/x 0\nhttps://youtu.be/x 0,1\n")
    text(sports / "test_partition.txt", "")
    ucf = touch(tmp_path / "ucf", "v.avi")
    text(ucf / "classInd.txt", "1 A\n2 B\n")
    text(ucf / "trainlist01.txt", "A/v.avi 1\nB/v.avi 2\n")
    text(ucf / "testlist01.txt", "")
    hmdb = touch(tmp_path / "hmdb", "v.avi")
    text(hmdb / "a_test_split1.txt", "v.avi 1\n")
    text(hmdb / "b_test_split1.txt", "v.avi 2\n")
    for list_videos, folder, line, other in (
        (list_kinetics, kinetics, "train.csv, line 4", "train.csv, line 2"),
        (list_something, something, "train.json, entry 2", "train.json, entry 0"),
        (list_diving48, diving, "Diving48_train.json, entry 1", "Diving48_train.json, entry 0"),
        (list_sports1m, sports, "train_partition.txt, line 2", "train_partition.txt, line 1"),
        (list_ucf101, ucf, "trainlist01.txt, line 2", "trainlist01.txt, line 1"),
        (list_hmdb51, hmdb, "b_test_split1.txt, line 1", "a_test_split1.txt, line 1"),
    ):
        with pytest.raises(ValueError, match="one video, two labels") as error:
            list_videos(str(folder))
        assert line in str(error.value).split("has the label")[0]
        assert other in str(error.value).split("has the label")[1]


def test_a_video_in_the_folder_of_another_class_is_not_taken(tmp_path):
    """Videos of two classes have one name, and one of them is not there."""
    hmdb = touch(tmp_path / "hmdb", "walk/same.avi", "run/own.avi")
    text(hmdb / "walk_test_split1.txt", "same.avi 1\n")
    text(hmdb / "run_test_split1.txt", "same.avi 1\nown.avi 2\n")
    listing = list_hmdb51(hmdb)
    assert listed(listing) == {"walk/same.avi": ("train", "walk"), "run/own.avi": ("test", "run")}
    assert dropped(listing) == [("run/same.avi", MISSING)]
    ucf = touch(tmp_path / "ucf", "A/same.avi", "B/own.avi")
    text(ucf / "classInd.txt", "1 A\n2 B\n")
    text(ucf / "trainlist01.txt", "A/same.avi 1\nB/same.avi 2\n")
    text(ucf / "testlist01.txt", "B/own.avi\n")
    assert dropped(list_ucf101(ucf)) == [("B/same.avi", MISSING)]


def test_wrong_numbers_of_classes_are_refused(tmp_path):
    ucf = touch(tmp_path / "ucf", "A/a b.avi", "B/c.avi")
    text(ucf / "classInd.txt", "1 A\n2 B\n")
    text(ucf / "testlist01.txt", "B/c.avi\n")
    text(ucf / "trainlist01.txt", "A/a b.avi 1\n")
    assert listed(list_ucf101(ucf)) == {"A/a b.avi": ("train", "A"), "B/c.avi": ("test", "B")}
    text(ucf / "trainlist01.txt", "A/a b.avi 2\n")
    with pytest.raises(ValueError, match=r"trainlist01.txt, line 1: 'A/a b.avi 2' is not"):
        list_ucf101(ucf)
    diving = touch(tmp_path / "diving", "x.mp4")
    text(diving / "Diving48_train.json", json.dumps([{"vid_name": "x", "label": -1}]))
    text(diving / "Diving48_test.json", "[]")
    with pytest.raises(ValueError, match=r"Diving48_train.json, entry 0: expected .*'label': -1"):
        list_diving48(diving)


def test_classes_of_data_sets_that_are_spelled_almost_alike_are_refused(tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    text(tmp_path / "k" / "train.csv", f"{header}Run,a,1,11,train\nrun,b,1,11,train\n")
    with pytest.raises(ValueError, match=r"'Run' \(.*line 2\) and 'run' \(.*line 3\) differ in case"):
        list_kinetics(tmp_path / "k")
    for label in ("Run", "run"):
        text(tmp_path / "h" / f"{label}_test_split1.txt", "a.avi 1\n")
    with pytest.raises(ValueError, match=r"'Run' .* and 'run' .* differ in case"):
        list_hmdb51(tmp_path / "h")


def test_names_in_another_form_of_unicode_are_found(tmp_path):
    composed, apart = (unicodedata.normalize(form, "\u00c9t\u00e9") for form in ("NFC", "NFD"))
    hmdb = touch(tmp_path, f"{apart}/{apart}.avi", "other/x.avi")
    text(hmdb / f"{composed}_test_split1.txt", f"{composed}.avi 1\n")
    text(hmdb / "other_test_split1.txt", "x.avi 1\n")
    assert listed(list_hmdb51(hmdb)) == {
        f"{apart}/{apart}.avi": ("train", composed),
        "other/x.avi": ("train", "other"),
    }


# --- equal contents


def test_equal_videos_with_different_labels_are_named_first(make_video, tmp_path):
    videos = {
        "train/a/0": 0, "train/a/2": 0,  # one label
        "train/a/1": 1, "train/b/1": 1,  # two
        "train/b/3": 3, "val/b/3": 3,  # two splits, one label
        "train/a/4": 4, "val/b/4": 4,  # two splits and labels
    }  # fmt: skip
    for name, number in videos.items():
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_video([number]))
    report = pack_folder(tmp_path / "videos", tmp_path / "shards", options=COPY, progress=False)
    manifest = open_shards(tmp_path / "shards").manifest
    assert (report.num_conflicts, manifest.num_conflicts) == (2, 2)

    def named(groups):
        return [
            ([source.removesuffix(".mp4") for _, source in group.samples], group.labels) for group in groups
        ]

    assert named(manifest.repeats) == [
        (["train/a/1", "train/b/1"], (0, 1)),
        (["train/a/0", "train/a/2"], ()),
    ]
    assert named(manifest.duplicates) == [
        (["train/a/4", "val/b/4"], (0, 1)),
        (["train/b/3", "val/b/3"], ()),
    ]
    assert inspect_shards(open_shards(tmp_path / "shards"), progress=False).num_conflicts == 2


def test_listings_of_others_are_checked_before_work(tmp_path):
    entries = [
        Entry(tmp_path / "a.mp4", "a", "train", "x"),
        Entry(str(tmp_path / "b.mp4"), "b", "train", "y"),
    ]
    for listing, message in (
        (Listing([*entries, entries[0]], [], "mine"), r"two videos .* the same name: \('train', 'a', None\)"),
        (Listing(entries, [], "mine", ("x", "y", "x")), "two classes of the listing have the same name: x"),
        (Listing(entries, [], "mine", ("x", "z")), "the label 'y' is none of the 2 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            pack_listing(listing, tmp_path / "shards", options=COPY, progress=False)
    assert not (tmp_path / "shards").exists()


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_differ_in_raw_bytes_alone_are_two_videos(make_video, tmp_path):
    for label in "ab":
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number, name in enumerate([b"\xff.mp4", rb"\xff.mp4", b"\\\xff.mp4", rb"\\xff.mp4"]):
            with open(os.fsencode(tmp_path / "videos" / label) + b"/" + name, "wb") as file:  # noqa: PTH123
                file.write(make_video([number]))
    report = pack_folder(tmp_path / "videos", tmp_path / "shards", options=COPY, progress=False)
    assert (report.num_packed, report.dropped) == (8, [])
    assert len({record.source for record in open_shards(tmp_path / "shards").samples("train")}) == 8


# --- layout of folders


@pytest.mark.parametrize(
    "splits",
    [
        {"training": "train", "testing": "test"},
        {"Train": "train", "dev": "val", "TEST": "test"},
        {"train": "train", "eval": "val"},
        {"training_set": "train", "Test set": "test", "validation-videos": "val"},
        {"videos_train": "train", "rawframes_val": "val"},
        {"train2017": "train", "val_256": "val"},
        {"train": "train", "valid": "val", "validation": "val", "evaluation": "val", "development": "val"},
    ],
)
def test_folders_with_the_common_names_of_splits_are_splits(splits, tmp_path):
    touch(tmp_path, *(f"{name}/{label}/x/v.mp4" for name in splits for label in ("run", "walk")))
    touch(tmp_path, "annotations/train.csv", "labels.txt")
    (tmp_path / "empty").mkdir()
    listing = list_folder(tmp_path)
    assert listed(listing) == {
        f"{name}/{label}/x/v.mp4": (split, label)
        for name, split in splits.items()
        for label in ("run", "walk")
    }
    assert listing.class_names == ("run", "walk")
    (note,) = listing.notes
    assert all(f"{name} ({split})" in note for name, split in splits.items())
    assert note.endswith("in them 2 folders for classes: run, walk")
    assert passed_over(listing)["folders without videos"] == (2, ("annotations", "empty"))


def test_classes_are_told(tmp_path):
    (note,) = list_folder(touch(tmp_path, "run/a.mp4", "walk/b.mp4")).notes
    assert note == "taken 2 folders for classes: run, walk; all videos for the split train"


def test_classes_that_training_never_sees_are_told(tmp_path):
    names = ["train/run/1.mp4", "train/walk/2.mp4", "val/run/3.mp4", "val/walking/4.mp4"]
    listing = list_folder(touch(tmp_path, *names))
    note = "1 classes have videos in val or test and none in train: walking"
    assert listing.notes[1:] == (note,) and listing.class_names == ("run", "walk", "walking")
    rows = "".join(f"{name},{name.split('/')[1]},{name.split('/')[0]}\n" for name in names)
    assert list_csv(text(tmp_path / "list.csv", f"path,label,split\n{rows}")).notes == (note,)
    assert list_folder(tmp_path / "val").notes[1:] == ()


def test_two_folders_of_frames_with_one_name_are_refused(tmp_path):
    text(tmp_path / "something-something-v1-labels.csv", "a\nb\n")
    text(tmp_path / "something-something-v1-train.csv", "7;a\n8;b\n")
    text(tmp_path / "something-something-v1-validation.csv", "")
    touch(tmp_path, "rgb/7/1.jpg", "rgb/8/1.jpg", "flow/7/1.jpg")
    with pytest.raises(ValueError, match=r"several folders of pictures are named 7: .*flow/7, .*rgb/7; give"):
        list_something(tmp_path)
    assert len(list_something(tmp_path / "rgb", annotations=tmp_path).entries) == 2


def test_single_pictures_and_those_beside_videos_are_no_video(tmp_path):
    touch(tmp_path, "a/1/1.jpg", "a/1/2.jpg", "a/cover.jpg", "b/v.mp4", "b/1.jpg", "b/2.jpg")
    listing = list_folder(tmp_path, frame_rate=Fraction(25))
    assert listed(listing) == {"a/1": ("train", "a"), "b/v.mp4": ("train", "b")}
    assert passed_over(listing) == {"files with the ending .jpg": (3, ("a/cover.jpg", "b/1.jpg", "b/2.jpg"))}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.mp4", "test/b/1.mp4", "run/1.mp4"], "holds test, train, named as splits are, beside run, which"),
        (["train/1.mp4", "plane/1.mp4"], "holds train, named as splits are, beside plane"),
        (["rgb/train/a/1.mp4", "flow/train/a/1.mp4"], "flow would be the folder of a class, and 'train' is named"),
        (["run/train/1.mp4", "run/test/2.mp4", "walk/1.mp4"], "'test', 'train' is named as splits are"),
        (["train/train/1.mp4", "train/run/1.mp4"], "'train' is named as splits are"),
        (["train/1.mp4", "test/2.mp4"], "no videos in .*; videos beside the folders of classes: 2"),
        (["train/Run/1.mp4", "val/run/2.mp4"], r"classes 'Run' \(.*train/Run'\) and 'run' \(.*val/run'\) differ"),
        (["run/1.mp4", "run /2.mp4"], "'run' .* and 'run ' .* differ in case, spaces"),
        (["\u00e9t\u00e9/1.mp4", "e\u0301te\u0301/2.mp4"], "differ in case, spaces, Unicode form"),
    ],
)  # fmt: skip
def test_ambiguous_layouts_are_refused(names, message, tmp_path):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        list_folder(tmp_path)


def test_folders_of_pictures_with_several_sequences_take_a_pattern(make_picture, tmp_path):
    for label in "ab":
        for name in ("img_1", "img_2", "img_3", "flow_x_1", "flow_x_2"):
            path = tmp_path / "videos" / label / "clip" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_picture(len(name)))
    rate = Fraction(25)
    report = pack_listing(
        list_folder(tmp_path / "videos", frame_rate=rate, pictures="img_*.jpg"),
        tmp_path / "s",
        progress=False,
    )
    assert report.dropped == []
    samples = {record.source: record.num_frames for record in open_shards(tmp_path / "s").samples("train")}
    assert samples == {"a/clip": 3, "b/clip": 3}
    table = text(
        tmp_path / "list.csv", "path,label\nvideos/a/clip/flow_x_*.jpg,a\nvideos/b/clip/flow_x_*.jpg,b\n"
    )
    pack_listing(list_csv(table, frame_rate=rate), tmp_path / "csv", progress=False)
    assert [record.num_frames for record in open_shards(tmp_path / "csv").samples("train")] == [2, 2]
    table = text(tmp_path / "list.csv", "path,label\nvideos/a/clip,a\nvideos/b/clip,b\n")
    pack_listing(list_csv(table, frame_rate=rate, pictures="img_*.jpg"), tmp_path / "all", progress=False)
    assert [record.num_frames for record in open_shards(tmp_path / "all").samples("train")] == [3, 3]
    with pytest.raises(
        WorkError, match=r"none of 2 videos .*several sequences of pictures: img_\*.jpg \(3\), flow_x"
    ):
        pack_listing(list_folder(tmp_path / "videos", frame_rate=rate), tmp_path / "no", progress=False)
    for pattern in ("img_.jpg", "img_*_*.jpg", "*/img_*.jpg", "img_*.mp4"):
        with pytest.raises(ValueError, match=r"expected a name with one \* for the number"):
            list_folder(tmp_path / "videos", frame_rate=rate, pictures=pattern)
    with pytest.raises(ValueError, match="give the frame rate too"):
        list_csv(table, pictures="img_*.jpg")
    patterns = "videos/*/clip/img_*.jpg,a\nvideos/a/clip/*_*.jpg,a\nvideos/a/none/img_*.jpg,a"
    table = text(tmp_path / "list.csv", f"path,label\nvideos/b/clip/img_*.jpg,b\n{patterns}\n")
    reasons = [reason for _, reason in list_csv(table, frame_rate=rate).dropped]
    assert reasons[2] == MISSING
    assert all("needs one *, which stands for the number in the names" in reason for reason in reasons[:2])


# --- what is passed over


def test_what_is_not_taken_is_counted_by_reason(make_video, tmp_path):
    root = tmp_path / "videos"
    for name in ("a/x.mp4", "b/x.mp4"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(make_video([1, ord(name[0])]))
    touch(
        root,
        "a/x.divx",
        "a/deep/y.DIVX",
        "b/x.m2ts",
        "b/README",
        "b/.hidden.mp4",
        ".git/z.mp4",
        "loose.mp4",
        "note.txt",
    )
    (root / "c" / "deeper").mkdir(parents=True)
    (root / "a" / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "b" / "itself").symlink_to("itself")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root / "b")  # the path of a socket is short
        server.bind("s.mp4")
        os.chdir(here)
    expected = {
        "files with the ending .divx": (2, ("a/x.divx", "a/deep/y.DIVX")),
        "files with the ending .m2ts": (1, ("b/x.m2ts",)),
        "files with the ending .txt": (1, ("note.txt",)),
        "files with no or another ending": (1, ("b/README",)),
        "hidden files and folders": (2, (".git", "b/.hidden.mp4")),
        "videos beside the folders of classes": (1, ("loose.mp4",)),
        "folders without videos": (1, ("c",)),
        "links that lead nowhere": (2, ("a/gone.mp4", "b/itself")),
        "neither files nor folders": (1, ("b/s.mp4",)),
    }
    listing = list_folder(root)
    assert passed_over(listing) == expected
    report = pack_listing(listing, tmp_path / "shards", options=COPY, progress=False)
    manifest = open_shards(tmp_path / "shards").manifest
    assert report.passed_over == manifest.passed_over == listing.passed_over
    assert manifest.notes == listing.notes


def test_linked_folders_are_followed_without_loops(tmp_path):
    root = touch(tmp_path / "videos", "run/1.mp4", "walk/2.mp4", "walk/more/3.mp4")
    touch(tmp_path / "other", "4.mp4")
    (root / "jump").symlink_to("../other")
    (root / "run" / "part2").symlink_to("../../other")
    (root / "run" / "again").symlink_to("part2")
    (root / "run" / "up").symlink_to("..")
    (root / "walk" / "more" / "loop").symlink_to("..")
    (root / "walk" / "link.mp4").symlink_to("2.mp4")
    listing = list_folder(root)
    assert listed(listing) == {
        "run/1.mp4": ("train", "run"),
        "run/again/4.mp4": ("train", "run"),
        "walk/2.mp4": ("train", "walk"),
        "walk/more/3.mp4": ("train", "walk"),
        "jump/4.mp4": ("train", "jump"),
    }
    assert dropped(listing) == [("walk/link.mp4", "listed twice")]
    assert (
        "1 videos are in two classes or splits through links, the first is run/again/4.mp4 and jump/4.mp4"
        in listing.notes
    )
    assert passed_over(listing)["linked folders that are listed elsewhere"] == (
        3, ("run/part2", "run/up", "walk/more/loop"),
    )  # fmt: skip


def test_a_link_from_one_split_into_another_is_told(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/b/3.mp4")
    (tmp_path / "val" / "a").symlink_to("../train/a")
    listing = list_folder(tmp_path)
    assert sorted((entry.source, entry.split) for entry in listing.entries)[2:] == [
        ("val/a/1.mp4", "val"),
        ("val/b/3.mp4", "val"),
    ]
    told = "1 videos are in two classes or splits through links, the first is val/a/1.mp4 and train/a/1.mp4"
    assert told in listing.notes


def test_the_finder_follows_links_without_loops_and_prefers_what_is_no_link(tmp_path):
    root = touch(tmp_path / "videos", "walk/1.mp4")
    touch(tmp_path / "other", "2.mp4")
    (root / "a link").symlink_to("walk")
    (root / "walk" / "up").symlink_to("..")
    (root / "walk" / "other").symlink_to("../../other")
    finder = Finder(root)
    assert finder.video("1") == root / "walk" / "1.mp4"
    assert finder.video("2") == root / "walk" / "other" / "2.mp4"
    (links,) = finder.passed_over()
    assert (links.reason, links.count) == ("linked folders that are listed elsewhere", 2)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder")
def test_folders_that_cannot_be_read_are_counted(tmp_path):
    root = touch(tmp_path, "a/1.mp4", "b/2.mp4", "b/closed/3.mp4")
    (root / "b" / "closed").chmod(0)
    try:
        assert passed_over(list_folder(root)) == {
            "folders that cannot be read (Permission denied)": (1, ("b/closed",))
        }
    finally:
        (root / "b" / "closed").chmod(0o755)


def test_a_missing_file_of_annotations_is_told_with_what_was_passed_over(tmp_path):
    root = touch(tmp_path, "A/v1.avi", "B/v2.avi")
    (root / "lists").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"no file classInd\.txt in .*; links that lead nowhere: 1$"):
        list_ucf101(root)


def test_what_the_annotations_do_not_name_is_counted(tmp_path):
    ucf = touch(
        tmp_path,
        "videos/A/v1.avi",
        "videos/copy/v1.avi",
        "videos/B/v2.avi",
        "videos/B/v3.avi",
        "videos/B/v4.m2ts",
    )
    touch(tmp_path, "frames/v1/1.jpg", "frames/v1/2.jpg")
    text(tmp_path / "classInd.txt", "1 A\n2 B\n")
    text(tmp_path / "trainlist01.txt", "A/v1.avi 1\nB/v2.avi 2\n")
    text(tmp_path / "testlist01.txt", "B/v4.avi\n")
    listing = list_ucf101(ucf)
    assert dropped(listing) == [("B/v4.avi", MISSING)]
    assert passed_over(listing) == {
        "videos with the name of another one that is taken": (1, ("videos/copy/v1.avi",)),
        "videos that the annotations do not name": (1, ("videos/B/v3.avi",)),
        "folders of pictures that the annotations do not name": (1, ("frames/v1",)),
        "files with the ending .m2ts": (1, ("videos/B/v4.m2ts",)),
        "files with the ending .txt": (3, ("classInd.txt", "testlist01.txt", "trainlist01.txt")),
    }
