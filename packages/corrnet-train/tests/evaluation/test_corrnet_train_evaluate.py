"""What an evaluation promises beside its figures: each video once, and a fingerprint of all that they depend on."""

import pytest
import torch

from corrnet_models import create_model
from corrnet_train.evaluation import evaluate as module
from corrnet_train.evaluation.evaluate import evaluate, fingerprint
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.targets import Targets
from video_data import ClipConfig, open_shards, pack_csv, pack_listing
from video_data.datasets import list_csv


@pytest.fixture
def classifier(model_folder):
    classifier = VideoClassifier.from_checkpoint(model_folder, device="cpu")
    classifier.clip = ClipConfig(num_frames=8, crop_size=32, short_side=(36, 46))
    return classifier


def changed(name, value):
    return lambda c: setattr(c, "clip", c.clip.model_copy(update={name: value}))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda c: setattr(c, "precision", "bf16"), "precision"),
        (lambda c: setattr(c, "pixels", "yuv"), "pixels"),
        (changed("frame_stride", 2), "clip"),
        (changed("fps", 12.5), "clip"),
        (changed("num_frames", 4), "clip"),
        (changed("crop_size", 16), "clip"),
        (changed("modality", "flow"), "clip"),
        (changed("short_side", (40, 46)), "resize"),
        (lambda c: torch.nn.init.ones_(c.video_model.fc.bias), "weights"),
    ],
)
def test_the_fingerprint_changes_with_what_a_figure_depends_on(change, name, classifier, motionbench):
    shards, counts = open_shards(motionbench[1]), {"num_clips": 2, "num_crops": 1, "num_videos": 16}
    before = fingerprint(classifier, shards, "test", **counts)
    change(classifier)
    after = fingerprint(classifier, shards, "test", **counts)
    assert {key for key in before if before[key] != after[key]} == {name}


def test_parts_of_one_video_are_told_apart(classifier, motionbench, tmp_path):
    rows = (motionbench[0] / "test.csv").read_text().splitlines()[1:3]
    paths = [row.split(",")[0] for row in rows]
    table = ["path,label,split,start,end"]
    table += [f"{path},{classifier.classes[i]},val,0.{i},0.{i + 4}" for path in paths for i in range(2)]
    (tmp_path / "parts.csv").write_text("\n".join(table))
    pack_csv(tmp_path / "parts.csv", tmp_path / "shards", root=motionbench[0], progress=False)
    classifier.classes = classifier.classes[:2]
    classifier.model = create_model("r2d_tiny", num_classes=2, num_frames=8)
    result = evaluate(classifier, open_shards(tmp_path / "shards"), "val", num_clips=1, num_workers=0)
    sources = [prediction.source for prediction in result.predictions]
    assert sorted(sources) == sorted(
        f"{path} from 0{s} to 0.{e} s" for path in paths for s, e in (("", 4), (".1", 5))
    )


def test_labels_are_matched_by_name(classifier, motionbench, tmp_path):
    path = (motionbench[0] / "test.csv").read_text().splitlines()[1].split(",")[0]
    first, second, *_, last = classifier.classes
    (tmp_path / "several.csv").write_text(f"path,labels\n{path},{last}|{second}\n")
    listing = list_csv(tmp_path / "several.csv", motionbench[0], to_learn=False)
    pack_listing(listing, tmp_path / "shards", progress=False)
    classifier.targets = Targets("multilabel")
    result = evaluate(classifier, tmp_path / "shards", "test", num_clips=1)
    assert result.predictions[0].labels == [1, 7] and len(result.predictions[0].scores) == 8
    known = [entry.name for entry in result.video.per_class if entry.num_videos]
    assert known == [second, last] and first not in known


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"split": "val"}, {"split", "videos packed", "videos listed"}),
        ({"num_clips": 3}, {"views"}),
        ({"num_crops": 3}, {"views"}),
        ({"num_videos": 15}, {"videos"}),
    ],
)
def test_the_fingerprint_names_split_views_and_number_of_videos(value, names, classifier, motionbench):
    shards = open_shards(motionbench[1])
    usual = {"split": "test", "num_clips": 2, "num_crops": 1, "num_videos": 16}
    before, after = (fingerprint(classifier, shards, **options) for options in (usual, usual | value))
    assert {key for key in before if before[key] != after[key]} == names


@pytest.mark.parametrize("times", [[2, 1, 1, 1], [0, 1, 1, 1]])
def test_a_video_that_is_counted_twice_or_never_is_noticed(times, classifier, motionbench, monkeypatch):
    """As a loader with a bug would have it."""
    loader = module.eval_loader

    def repeated(*args, **options):
        for batch, number in zip(loader(*args, **options), times, strict=True):
            for _ in range(number):
                yield batch

    monkeypatch.setattr(module, "eval_loader", repeated)
    with pytest.raises(RuntimeError, match="videos were counted for 16: some twice or never"):
        evaluate(classifier, open_shards(motionbench[1]), "test", num_clips=1)
