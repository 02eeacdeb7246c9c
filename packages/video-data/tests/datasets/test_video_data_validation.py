"""The validation split that is made where a source has none."""

import json
from collections import Counter
from pathlib import Path

import pytest

from video_data import PackOptions, open_shards, pack_csv, pack_folder
from video_data.datasets import Entry, Listing, list_csv, list_folder
from video_data.datasets.validation import split_validation
from video_data.utils.errors import InputError


def listing(sizes: dict[str, int], **fields) -> Listing:
    """Videos `class/0.mp4` and so on, as many of each class as said."""
    names = [(f"{label}/{number}.mp4", label) for label, size in sizes.items() for number in range(size)]
    return Listing([Entry(Path(name), name, "train", label, **fields) for name, label in names], [], "mine")


def of_val(split: Listing) -> set[str]:
    return {entry.source for entry in split.entries if entry.split == "val"}


def per_class(split: Listing) -> Counter[str]:
    return Counter(entry.label for entry in split.entries if entry.split == "val")


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 7])
def test_each_class_gives_its_fraction_within_one_and_keeps_one(fraction, seed):
    sizes = {"two": 2, "three": 3, "ten": 10, "many": 143}
    found = per_class(split_validation(listing(sizes), fraction, seed=seed))
    for label, size in sizes.items():
        assert 1 <= found[label] <= size - 1
        assert abs(found[label] - fraction * size) < 1 or found[label] in (1, size - 1)


def test_the_same_videos_and_seed_give_the_same_split_in_any_order_and_place():
    first = split_validation(listing({"a": 30, "b": 20}), 0.2)
    there = listing({"a": 30, "b": 20})
    moved = [
        Entry(Path("/elsewhere") / entry.path, entry.source, "train", entry.label) for entry in there.entries
    ]
    again = split_validation(Listing(moved[::-1], [], "mine"), 0.2)
    assert of_val(first) == of_val(again)
    assert of_val(first) != of_val(split_validation(there, 0.2, seed=1))


def test_a_few_videos_more_change_one_video_of_their_class_at_most():
    before = of_val(split_validation(listing({"a": 50, "b": 40}), 0.2))
    after = of_val(split_validation(listing({"a": 53, "b": 40, "c": 9}), 0.2))
    old = {name for name in after if name in {entry.source for entry in listing({"a": 50, "b": 40}).entries}}
    assert {name for name in old if name.startswith("b")} == {name for name in before if name.startswith("b")}
    new = len(after - old - {name for name in after if name.startswith("c")})
    assert len(before - old) <= new  # each of them makes room for a new one
    assert len(old - before) <= 1


def test_a_class_of_one_video_stays_in_train_and_is_told():
    split = split_validation(listing({"one": 1, "five": 5}), 0.2)
    assert per_class(split) == {"five": 1}
    assert split.notes == (
        "val gets 1 of the 6 videos of train (val_fraction 0.2, seed 0): five 1 of 5, one 0 of 1",
        "1 classes stay in train alone, since their videos cannot be shared out: one",
    )
    with pytest.raises(InputError, match="no validation split can be made"):
        split_validation(listing({"one": 1, "other": 1}), 0.2)


def test_parts_of_a_file_stay_together_which_is_told():
    parts = [
        Entry(Path(f"{name}.mp4"), f"{name}.mp4", "train", "run", span=(start, start + 1.0))
        for name in ("a", "b")
        for start in (0.0, 1.0, 2.0)
    ]
    split = split_validation(Listing(parts, [], "mine"), 0.2)
    assert [entry.source for entry in split.entries if entry.split == "val"] in (
        [f"{n}.mp4"] * 3 for n in "ab"
    )
    assert split.notes[-1].startswith(
        "val gets 3 of the 6 parts of train (val_fraction 0.2, seed 0), all parts of a"
    )
    with pytest.raises(InputError, match=r"parts of one file, .* a column split"):
        split_validation(Listing(parts[:3], [], "mine"), 0.2)


def test_videos_of_one_group_stay_together_also_across_classes():
    entries = [
        Entry(Path("x"), f"{label}/day{day}-{cut}.mp4", "train", label, group=f"day{day}")
        for label in ("run", "walk")
        for day in range(10)
        for cut in range(4)
    ]
    split = split_validation(Listing(entries, [], "mine"), 0.2)
    days = {
        kind: {entry.group for entry in split.entries if entry.split == kind} for kind in ("train", "val")
    }
    assert not days["train"] & days["val"] and len(days["val"]) == 2
    assert per_class(split) == {"run": 8, "walk": 8}


def test_of_a_class_with_two_large_groups_the_smaller_one_is_taken():
    entries = [
        Entry(Path("x"), f"{label}/{day}{cut}.mp4", "train", label, group=f"{label}{day}")
        for label in ("run", "walk")
        for day, size in (("monday", 9), ("tuesday", 5))
        for cut in range(size)
    ]
    assert per_class(split_validation(Listing(entries, [], "mine"), 0.1)) == {"run": 5, "walk": 5}


def test_parts_of_one_file_stay_together():
    entries = [
        Entry(Path("x"), f"{number}.mp4", "train", label, span=(start, start + 1))
        for number in range(10)
        for start, label in ((0.0, "run"), (1.0, "walk"))
    ]
    split = split_validation(Listing(entries, [], "mine"), 0.3)
    assert per_class(split) == {"run": 3, "walk": 3}
    assert len(of_val(split)) == 3


def test_a_split_that_is_there_is_not_made_again(class_folder, tmp_path):
    there = listing({"a": 4, "b": 4})
    entry = Entry(Path("v"), "v.mp4", "val", "a")
    for with_val in (
        Listing([*there.entries, entry], [], "mine"),
        Listing(there.entries, [(entry, "missing")], "mine"),
    ):
        with pytest.raises(InputError, match="there is a split val already, with 1 videos: leave out"):
            split_validation(with_val, 0.2)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return folder


def test_groups_of_a_folder_are_found_in_the_path(tmp_path):
    folder = touch(tmp_path, "run/s1_a.mp4", "run/s2_a.mp4", "walk/s1_b.mp4", "walk/other.mp4")
    for pattern in ("(s[0-9])_", "s[0-9]"):
        listing = list_folder(folder, group_by=pattern)
        assert {entry.source: entry.group for entry in listing.entries} == {
            "run/s1_a.mp4": "s1",
            "run/s2_a.mp4": "s2",
            "walk/s1_b.mp4": "s1",
            "walk/other.mp4": "",
        }
        assert listing.notes[-1].endswith(
            "finds 2 groups of videos; 1 videos have none and stay alone: walk/other.mp4"
        )
    with pytest.raises(InputError, match=r"'\(s' \(--group-by\) is no regular expression"):
        list_folder(folder, group_by="(s")
    with pytest.raises(
        InputError, match=r"'day' \(--group-by\) finds no group for any video, as for run/s1_a.mp4"
    ):
        list_folder(folder, group_by="day")


def test_groups_of_a_csv_are_a_column(tmp_path):
    folder = touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    (folder / "list.csv").write_text("path,label,Camera,note\n1.mp4,a,north,x\n2.mp4,b,south,x\n3.mp4,b,,x\n")
    listing = list_csv(folder / "list.csv", group_by="camera")
    assert [entry.group for entry in listing.entries] == ["north", "south", ""]
    assert listing.notes[0] == "columns that are not read: note"
    with pytest.raises(InputError, match="no column day in the header"):
        list_csv(folder / "list.csv", group_by="day")


def test_packing_makes_the_split_and_the_manifest_tells_it(class_folder, tmp_path):
    options = PackOptions(mode="copy", val_fraction=0.25, seed=3)
    pack_folder(class_folder, tmp_path / "shards", options=options, progress=False)
    shards = open_shards(tmp_path / "shards")
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    wanted = split_validation(list_folder(class_folder), 0.25, seed=3)
    assert {shards.sample("val", i).source for i in range(shards.num_samples("val"))} == of_val(wanted)
    assert manifest["options"]["val_fraction"] == 0.25 and manifest["options"]["seed"] == 3
    assert wanted.notes[-1] in manifest["notes"] and "val_fraction 0.25, seed 3" in wanted.notes[-1]


def test_parts_and_a_second_packing_make_the_same_split(class_folder, tmp_path):
    from video_data import merge_parts

    options = PackOptions(mode="copy", val_fraction=0.25, shard_size=5)
    pack_folder(class_folder, tmp_path / "whole", options=options, progress=False)
    for part in ((1, 2), (2, 2)):
        pack_folder(
            class_folder,
            tmp_path / "parts",
            options=options.model_copy(update={"part": part}),
            progress=False,
        )
    merge_parts(tmp_path / "parts", progress=False)
    read = [(tmp_path / name / "manifest.json").read_bytes() for name in ("whole", "parts")]
    assert read[0] == read[1]


def test_packing_keeps_recordings_together(class_folder, tmp_path):
    options = PackOptions(mode="copy", val_fraction=0.5)
    sources = [entry.source for entry in list_folder(class_folder).entries]
    rows = "".join(
        f"{source},{source.split('/')[0]},day{number % 3}\n" for number, source in enumerate(sources)
    )
    (tmp_path / "list.csv").write_text(f"path,label,day\n{rows}")
    arguments = (tmp_path / "list.csv", tmp_path / "shards")
    with pytest.raises(InputError, match=r"'day' \(--group-by\) keeps videos together in a validation split"):
        pack_csv(*arguments, root=class_folder, group_by="day", progress=False)
    pack_csv(*arguments, root=class_folder, group_by="day", options=options, progress=False)
    shards = open_shards(tmp_path / "shards")
    days = {
        split: {sources.index(shards.sample(split, i).source) % 3 for i in range(shards.num_samples(split))}
        for split in ("train", "val")
    }
    assert days["train"] and days["val"] and not days["train"] & days["val"]
