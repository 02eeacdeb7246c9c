"""Sets whose videos have several labels each."""

import pytest
import torch

from video_data import ClipConfig, eval_loader, open_shards, pack_csv, train_loader, verify_shards
from video_data.datasets import list_csv
from video_data.datasets.validation import split_validation

CLIP = ClipConfig(num_frames=2, crop_size=16, short_side=(16, 16))
ROWS = "a.mp4,run|jump,train\nb.mp4,jump,train\nc.mp4,sit|jump|run,val\nd.mp4,-1,train\n"


@pytest.fixture
def table(make_video, tmp_path):
    for number, name in enumerate("abcd"):
        (tmp_path / f"{name}.mp4").write_bytes(make_video(range(number, number + 8)))
    path = tmp_path / "list.csv"
    path.write_text(f"path,labels,split\n{ROWS}")
    return path


@pytest.fixture
def shards(table):
    report = pack_csv(table, table.parent / "shards", progress=False)
    assert report.dropped == [("d.mp4", "no label")]
    return open_shards(table.parent / "shards")


def test_a_csv_with_the_column_labels_is_a_multilabel_set(shards):
    assert shards.task == "multilabel" and shards.classes == ("jump", "run", "sit")
    counts = shards.manifest.splits["train"]
    assert (counts.num_samples, counts.per_class) == (2, {"jump": 2, "run": 1, "sit": 0})
    assert shards.manifest.splits["val"].per_class == {"jump": 1, "run": 1, "sit": 1}
    assert verify_shards(shards.path, progress=False).problems == ()


def test_a_listing_says_where_no_video_has_several_labels(table):
    assert "several" not in " ".join(list_csv(table).notes)
    table.write_text("path,labels\na.mp4,run;jump\nb.mp4,run\n")
    assert list_csv(table).notes == ("no video has several labels; a cell has them with | between them",)


def test_batches_of_a_multilabel_set_have_a_1_for_each_label(shards):
    batch = next(iter(train_loader(shards, "train", CLIP, batch_size=2, seed=0)))
    labels = dict(zip((key[0] for key in batch.keys), batch.label.tolist(), strict=True))
    assert batch.label.dtype == torch.float32 and labels == {"a": [1, 1, 0], "b": [1, 0, 0]}
    views = next(iter(eval_loader(shards, "val", CLIP, num_clips=1, batch_size=2, world_size=1)))
    assert views.label[views.valid].tolist() == [[1, 1, 1]] and not views.label[~views.valid].any()


def test_samples_of_several_classes_cannot_be_balanced(shards):
    with pytest.raises(ValueError, match="balanced is for sets whose samples are of one class each"):
        train_loader(shards, "train", CLIP, batch_size=2, seed=0, balanced=True)


def test_other_libraries_get_all_labels_too(shards):
    pytest.importorskip("datasets")
    pytest.importorskip("webdataset")
    from video_data.integrations.huggingface import to_hf_dataset
    from video_data.integrations.webdataset import webdataset_pipeline

    examples = {example["source"]: example["labels"] for example in to_hf_dataset(shards, "train")}
    assert {source: sorted(labels) for source, labels in examples.items()} == {"a.mp4": [0, 1], "b.mp4": [0]}
    found = {
        sample["__key__"][0]: sample["label"].tolist()
        for sample in webdataset_pipeline(shards, "train", CLIP, seed=0)
    }
    assert found == {"a": [1, 1, 0], "b": [1, 0, 0]}


def test_a_validation_split_has_its_share_of_each_label(tmp_path):
    rows = "".join(f"{number}.mp4,{'x|' * (number % 2)}{'yz'[number % 3 == 0]}\n" for number in range(60))
    for number in range(60):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "list.csv").write_text(f"path,labels\n{rows}")
    split = split_validation(list_csv(tmp_path / "list.csv"), 0.2)
    assert split.task == "multilabel"
    for label, total in (("x", 30), ("y", 40), ("z", 20)):
        in_val = sum(label in entry.labels for entry in split.entries if entry.split == "val")
        assert abs(in_val - total / 5) <= 1
    in_val = sum(entry.split == "val" for entry in split.entries)
    assert any(note.startswith(f"val gets {in_val} of the 60 videos of train ") for note in split.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,labels\na.mp4,x||y\n", "line 2: labels 'x||y': expected different labels with | between them"),
        ("path,labels\na.mp4,x|x\n", "line 2: labels 'x|x'"),
        ("path,labels\na.mp4,x|-1\n", "line 2: labels 'x|-1'"),
        (
            "path,labels\na.mp4,x|y\n./a.mp4,y\n",
            "line 3: ./a.mp4 was listed before with another label or split",
        ),
        ("path,label,labels\na.mp4,x,y\n", "there are columns label and labels"),
        (
            "path,tags\na.mp4,x\n",
            "no column label in the header 'path,tags', nor labels of several for each video",
        ),
        ("path,labl\na.mp4,x\n", "is labl meant as label?"),
        ("path,labels\na.mp4,x|X\nb.mp4,y\n", "differ in case"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(content, message, table):
    table.write_text(content)
    with pytest.raises(ValueError) as error:
        list_csv(table)
    assert message in str(error.value)


def test_one_order_of_labels_is_as_good_as_another(table):
    table.write_text("path,labels\na.mp4,x|y\n./a.mp4,y|x\nb.mp4,z\n")
    (listed_twice,) = list_csv(table).dropped
    assert listed_twice[1] == "listed twice"


def test_equal_videos_with_equal_labels_do_not_contradict_each_other(table):
    (table.parent / "b.mp4").write_bytes((table.parent / "a.mp4").read_bytes())
    (table.parent / "c.mp4").write_bytes((table.parent / "a.mp4").read_bytes())
    table.write_text("path,labels\na.mp4,x|y\nb.mp4,y|x\nd.mp4,z\n")
    assert pack_csv(table, table.parent / "same", progress=False).num_conflicts == 0
    table.write_text("path,labels\na.mp4,x|y\nb.mp4,x\nd.mp4,z\n")
    assert pack_csv(table, table.parent / "other", progress=False).num_conflicts == 1
    (repeat,) = open_shards(table.parent / "other").manifest.repeats
    assert repeat.labels == (1,)


def test_labels_with_a_separator_in_a_column_of_one_are_told(table):
    table.write_text("path,label\na.mp4,x|y\nb.mp4,z\n")
    listing = list_csv(table)
    assert listing.class_names == ("x|y", "z")
    assert any("'x|y' is taken for one class: for several labels" in note for note in listing.notes)
    table.write_text("path,label\na.mp4,x\nb.mp4,z\n")
    assert not any("taken for one class" in note for note in list_csv(table).notes)
