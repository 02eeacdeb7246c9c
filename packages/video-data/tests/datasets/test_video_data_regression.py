"""Sets whose videos have a number each."""

import json

import pytest
import torch

from video_data import ClipConfig, eval_loader, open_shards, pack_csv, train_loader, verify_shards
from video_data.datasets import Entry, Listing, list_csv
from video_data.datasets.validation import split_validation
from video_data.packing._journal import listing_line
from video_data.packing.pack import pack_listing
from video_data.shards.thumbnails import read_thumbnails

CLIP = ClipConfig(num_frames=2, crop_size=16, short_side=(16, 16))
ROWS = "a.mp4,1.5,train\nb.mp4,-3e2,train\nc.mp4,0,val\n"


@pytest.fixture
def table(make_video, tmp_path):
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.mp4").write_bytes(make_video(range(number, number + 8)))
    path = tmp_path / "list.csv"
    path.write_text(f"path,value,split\n{ROWS}")
    return path


@pytest.fixture
def shards(table):
    pack_csv(table, table.parent / "shards", progress=False)
    return open_shards(table.parent / "shards")


def test_a_csv_with_the_column_value_is_a_set_for_regression(shards):
    assert shards.task == "regression" and shards.classes == ("value",)
    assert {sample.source: sample.value for sample in shards.samples("train")} == {
        "a.mp4": 1.5,
        "b.mp4": -300,
    }
    assert verify_shards(shards.path, progress=False).problems == ()
    (thumbnails,) = read_thumbnails(shards, [("val", 0)], num_frames=1, height=8)
    assert thumbnails.class_name == "0"


def test_batches_of_a_set_for_regression_have_a_column_of_values(shards):
    batch = next(iter(train_loader(shards, "train", CLIP, batch_size=2, seed=0)))
    values = dict(zip((key[0] for key in batch.keys), batch.label.tolist(), strict=True))
    assert batch.label.dtype == torch.float32 and values == {"a": [1.5], "b": [-300]}
    views = next(iter(eval_loader(shards, "val", CLIP, num_clips=1, batch_size=2)))
    assert views.label.tolist() == [[0]]


def test_other_libraries_get_the_values_too(shards):
    pytest.importorskip("datasets")
    pytest.importorskip("webdataset")
    from video_data.integrations.huggingface import to_hf_dataset
    from video_data.integrations.webdataset import webdataset_pipeline

    assert {example["source"]: example["value"] for example in to_hf_dataset(shards, "train")} == {
        "a.mp4": 1.5,
        "b.mp4": -300,
    }
    found = {
        sample["__key__"][0]: sample["label"].tolist()
        for sample in webdataset_pipeline(shards, "train", CLIP, seed=0)
    }
    assert found == {"a": [1.5], "b": [-300]}


def test_a_validation_split_takes_its_share_of_the_videos(tmp_path):
    rows = "".join(f"{number}.mp4,{number}\n" for number in range(20))
    for number in range(20):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "list.csv").write_text(f"path,value\n{rows}")
    split = split_validation(list_csv(tmp_path / "list.csv"), 0.2)
    assert [entry.split for entry in split.entries].count("val") == 4
    assert split.notes[-1].endswith("val gets 4 of the 20 videos of train (val_fraction 0.2, seed 0)")
    assert all(entry.value == float(entry.source.removesuffix(".mp4")) for entry in split.entries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,value\na.mp4,1_5\n", "line 2: value must be a finite number, as 12.5 or -3e-2, got '1_5'"),
        ("path,value\na.mp4,fast\n", "line 2: value must be a finite number, as 12.5 or -3e-2, got 'fast'"),
        ("path,value\na.mp4,nan\n", "got 'nan'"),
        ("path,value\na.mp4,1_000\n", "got '1_000'"),
        ('path,value\na.mp4,"1,5"\n', "got '1,5'"),
        ("path,value\na.mp4,infinity\n", "got 'infinity'"),
        ("path,value\na.mp4,1e999\n", "got '1e999'"),
        ("path,value\na.mp4,\n", "path and value must not be empty"),
        ("path,value\na.mp4,1\n./a.mp4,2\n", "with another value or split, in line 2 as a.mp4: '2' in train"),
        ("path,label,value\na.mp4,x,1\n", "there are columns label and value"),
        ("path,value\na.mp4,1\nb.mp4,1.0\n", "only one value in"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(content, message, table):
    table.write_text(content)
    with pytest.raises(ValueError) as error:
        list_csv(table)
    assert message in str(error.value)


def test_equal_videos_with_other_values_contradict_each_other(table):
    (table.parent / "b.mp4").write_bytes((table.parent / "a.mp4").read_bytes())
    assert pack_csv(table, table.parent / "shards", progress=False).num_conflicts == 1
    (repeat,) = open_shards(table.parent / "shards").manifest.repeats
    assert repeat.labels == (0,)


def test_a_value_in_another_kind_of_set_is_refused(table):
    entries = [Entry(table.parent / f"{name}.mp4", f"{name}.mp4", "train", name) for name in "ab"]
    listing = Listing(entries, [], "mine", task="regression")
    with pytest.raises(ValueError, match=r"a\.mp4 has no value, and the task of the listing is regression"):
        pack_listing(listing, table.parent / "out", progress=False)


def test_a_changed_value_is_another_listing(table):
    before = [listing_line(entry) for entry in list_csv(table).entries]
    assert before == [listing_line(entry) for entry in list_csv(table).entries]
    table.write_text(table.read_text().replace("1.5", "2.5"))
    after = [listing_line(entry) for entry in list_csv(table).entries]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]


def test_an_index_without_its_values_is_refused(shards):
    manifest = json.loads((shards.path / "manifest.json").read_text())
    manifest["task"] = "multiclass"
    (shards.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has a value in a multiclass set"):
        open_shards(shards.path).sample("train", 0)


def test_sets_of_older_versions_say_to_pack_again(shards):
    manifest = json.loads((shards.path / "manifest.json").read_text())
    manifest |= {"format_version": 3, "multi_label": False}
    del manifest["task"]
    (shards.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"format 3 was written by another version .* pack the videos again"):
        open_shards(shards.path)
