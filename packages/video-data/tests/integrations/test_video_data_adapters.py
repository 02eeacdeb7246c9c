"""Our shards through `webdataset` and `datasets`, and data sets of `datasets` as shards."""

import builtins
import logging
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from video_data import ClipConfig, PackOptions, open_shards, pack_folder
from video_data.integrations.huggingface import pack_hf_dataset, to_hf_dataset
from video_data.integrations.webdataset import webdataset_pipeline

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))


@pytest.fixture
def shard_path(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy", shard_size=5), progress=False)
    return tmp_path


def test_a_pipeline_gives_every_sample_once(shard_path):
    shards = open_shards(shard_path)
    labels = {record.key: record.label for record in shards.samples("train")}
    samples = list(webdataset_pipeline(shards, "train", CLIP))
    assert [sample["__key__"] for sample in samples] == [record.key for record in shards.samples("train")]
    for sample in samples:
        assert sample["label"] == labels[sample["__key__"]]
        assert sample["video"].shape == (3, 4, 16, 16)
        assert sample["video"].dtype == torch.uint8


def test_clips_depend_on_seed_epoch_and_key_alone(shard_path):
    shards = open_shards(shard_path)

    def clips(**options):
        return torch.stack(
            [sample["video"] for sample in webdataset_pipeline(shards, "train", CLIP, **options)]
        )

    first = clips(seed=1)
    assert torch.equal(clips(seed=1), first)
    assert not torch.equal(clips(seed=2), first)
    assert not torch.equal(clips(seed=1, epoch=1), first)


def test_workers_share_the_shards_of_a_pipeline(shard_path):
    pipeline = webdataset_pipeline(open_shards(shard_path), "train", CLIP)
    loader = DataLoader(pipeline, batch_size=None, num_workers=2)
    keys = Counter(sample["__key__"] for sample in loader)
    assert len(keys) == 24 and set(keys.values()) == {1}


def test_a_pipeline_leaves_out_what_cannot_be_read(shard_path, caplog):
    shards = open_shards(shard_path)
    record = shards.sample("train", 7)
    tar = shard_path / "train-000001.tar"
    with tar.open("r+b") as file:
        file.seek(record.offset)
        file.write(bytes(record.size))
    cut = shard_path / "train-000003.tar"
    cut.write_bytes(cut.read_bytes()[: shards.sample("train", 17).offset + 10])
    with caplog.at_level(logging.WARNING, logger="video_data"):
        samples = list(webdataset_pipeline(shards, "train", CLIP, error_budget=0.25))
    left = {record.key for record in list(shards.samples("train"))[17:20]} | {record.key}
    assert {record.key for record in shards.samples("train")} - {s["__key__"] for s in samples} == left
    assert len(caplog.records) == 4
    with pytest.raises(RuntimeError, match="2 samples could not be read, the error budget allows 1"):
        list(webdataset_pipeline(shards, "train", CLIP, error_budget=0.05))
    with pytest.raises(ValueError, match="no split 'val'"):
        webdataset_pipeline(shards, "val", CLIP)


def test_shards_as_a_streaming_data_set(shard_path):
    datasets = pytest.importorskip("datasets")
    shards = open_shards(shard_path)
    streamed = to_hf_dataset(shards, "train")
    assert isinstance(streamed, datasets.IterableDataset)
    assert streamed.num_shards == 5
    assert streamed.features["video"] == datasets.Video(decode=False)
    assert streamed.features["label"].names == list(shards.classes)
    examples = list(streamed)
    assert [example["key"] for example in examples] == [record.key for record in shards.samples("train")]
    for index in (0, 11, 23):
        assert examples[index]["video"]["bytes"] == shards.read("train", index)
        assert examples[index]["label"] == shards.sample("train", index).label
        assert examples[index]["source"] == shards.sample("train", index).source
    keys = Counter(example["key"] for example in DataLoader(streamed, batch_size=None, num_workers=2))
    assert len(keys) == 24 and set(keys.values()) == {1}
    with pytest.raises(ValueError, match="no split 'test'"):
        to_hf_dataset(shards, "test")


def test_a_data_set_goes_round_through_shards(shard_path, tmp_path):
    pytest.importorskip("datasets")
    shards = open_shards(shard_path)
    report = pack_hf_dataset(
        to_hf_dataset(shards, "train"), tmp_path / "again", options=PackOptions(mode="copy"), progress=False
    )
    assert (report.num_packed, report.dropped) == (24, [])
    again = open_shards(tmp_path / "again")
    assert again.classes == shards.classes

    def content(opened):
        return sorted((opened.read("train", i), opened.sample("train", i).label) for i in range(24))

    assert content(again) == content(shards)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".video-data")]


def test_data_sets_with_splits_paths_texts_and_broken_videos_are_packed(class_folder, tmp_path, make_video):
    datasets = pytest.importorskip("datasets")
    paths = sorted(class_folder.rglob("*.mp4"))[:4]
    features = datasets.Features({"clip": datasets.Video(decode=False), "name": datasets.Value("string")})

    def made(videos):
        rows = {"clip": videos, "name": [f"class {number % 2}" for number in range(len(videos))]}
        return datasets.Dataset.from_dict(rows, features=features)

    webm = make_video(range(8), codec="libvpx-vp9", container="webm", options={"deadline": "realtime"})
    parts = datasets.DatasetDict(
        {
            "train": made([{"bytes": None, "path": str(path)} for path in paths]),
            "validation": made(
                [
                    {"bytes": webm, "path": None},
                    {"bytes": b"broken", "path": "x.mp4"},
                    {"bytes": None, "path": "no.mp4"},
                ]
            ),
        }
    )
    options = PackOptions(mode="copy")
    report = pack_hf_dataset(
        parts, tmp_path / "s", video="clip", label="name", options=options, progress=False
    )
    assert report.num_packed == 5
    assert sorted(reason for _, reason in report.dropped) == [
        "missing",
        "no video in a known container, or damaged at its start",
    ]
    shards = open_shards(tmp_path / "s")
    assert (shards.manifest.dataset, shards.classes) == ("datasets", ("class 0", "class 1"))
    assert {shards.read("train", i) for i in range(4)} == {path.read_bytes() for path in paths}
    assert shards.sample("val", 0).suffix == "mkv"
    assert all(not record.source.startswith("/") for record in shards.samples("train"))
    with pytest.raises(ValueError, match="no column video and label in split 'train'; it has clip, name"):
        pack_hf_dataset(parts, tmp_path / "t")
    with pytest.raises(ValueError, match=r"splits \['dav'\], allowed are"):
        pack_hf_dataset({"dav": parts["train"]}, tmp_path / "t")


def packed_labels(folder):
    shards = open_shards(folder)
    return {
        record.source: shards.classes[record.label]
        for split in shards.splits
        for record in shards.samples(split)
    }


@pytest.mark.parametrize("none", [-1, None])
def test_a_class_label_keeps_its_order_and_no_label_is_no_class(none, make_video, tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["walk", "run", "unused", "jump"]
    features = datasets.Features(
        {"video": datasets.Value("binary"), "label": datasets.ClassLabel(names=names)}
    )
    rows = {"video": [make_video([number]) for number in range(4)], "label": [0, none, 3, 1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data.info.dataset_name = "gaits"  # as load_dataset has it
    report = pack_hf_dataset(data, tmp_path / "s", options=PackOptions(mode="copy"), progress=False)
    manifest = open_shards(tmp_path / "s").manifest
    assert (manifest.dataset, manifest.classes) == ("gaits", tuple(names))
    assert packed_labels(tmp_path / "s") == {
        "train/00000000.mp4": "walk",
        "train/00000002.mp4": "jump",
        "train/00000003.mp4": "run",
    }
    assert report.dropped == [("train/00000001.mp4", "no label")]


def test_numbers_texts_and_names_of_splits_of_a_data_set(make_video, tmp_path):
    datasets = pytest.importorskip("datasets")

    def made(labels, **features):
        rows = {"video": [make_video([number]) for number in range(len(labels))], "label": labels}
        features = {"video": datasets.Value("binary"), "label": datasets.Value("int64"), **features}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

    options = PackOptions(mode="copy")
    parts = {"Training": made([10, 2, -1]), "dev": made([0]), "testing": made([2])}
    pack_hf_dataset(parts, tmp_path / "numbers", options=options, progress=False)
    shards = open_shards(tmp_path / "numbers")
    assert shards.classes == tuple(map(str, range(11)))
    assert [record.label for split in ("val", "test") for record in shards.samples(split)] == [0, 2]
    pack_hf_dataset(made([1, 2, 3]), tmp_path / "from 1", options=options, progress=False)
    (note,) = open_shards(tmp_path / "from 1").manifest.notes
    assert note.endswith("the label of class 1 is 0")
    text = datasets.Value("string")
    texts = made(["b", "a", "", "c" * 300], label=text)
    pack_hf_dataset(texts, tmp_path / "texts", options=options, progress=False)
    assert open_shards(tmp_path / "texts").classes == ("a", "b", "c" * 300)
    for data, message in (
        ({"train": made([0, 1]), "test": made([0], label=datasets.ClassLabel(names=["a"]))}, "different class names"),
        (made(["Run", "run"], label=text), r"'Run' \(train, row 0\) and 'run' \(train, row 1\) differ in case"),
        (made([[0], [1]], label=datasets.List(datasets.Value("int64"))), r"row 0: the label \[0\] is neither"),
        (made([-1, -1]), "no video with a label; its rows: 2 no label"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            pack_hf_dataset(data, tmp_path / "no", options=options, progress=False)
    assert not (tmp_path / "no").exists()


def test_a_long_name_of_a_video_does_not_end_packing(make_video, tmp_path):
    datasets = pytest.importorskip("datasets")
    long = "x" * 300 + ".mp4"
    videos = [{"bytes": make_video([number]), "path": long} for number in range(2)]
    rows = {"video": [*videos, {"bytes": None, "path": long}], "label": ["a", "b", "b"]}
    features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("string")})
    data = datasets.Dataset.from_dict(rows, features=features)
    report = pack_hf_dataset(data, tmp_path / "s", options=PackOptions(mode="copy"), progress=False)
    assert report.num_packed == 2
    assert [reason for _, reason in report.dropped] == ["missing"]


def test_a_missing_package_is_named(shard_path, monkeypatch):
    really = builtins.__import__

    def without(name, *arguments, **options):
        if name == "datasets":
            raise ImportError("No module named 'datasets'")
        return really(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"video-data\[hf\]"):
        to_hf_dataset(open_shards(shard_path), "train")
