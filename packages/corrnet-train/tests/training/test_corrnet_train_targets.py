"""Sets with several labels for each video: not for training, and nothing is made of their first label alone."""

import pytest
from typer.testing import CliRunner

from corrnet_models import create_model
from corrnet_train.cli import app
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.features import PackedSplit, extract_features
from corrnet_train.training.trainer import Trainer
from video_data import ClipConfig, open_shards, pack_csv


@pytest.fixture(scope="module")
def several(motionbench, tmp_path_factory):
    """Shards of eight videos, the first with two labels."""
    folder = tmp_path_factory.mktemp("several")
    videos = sorted((motionbench[0] / "videos" / "train").glob("*/*.mp4"))[:8]
    rows = [f"{path},{'run|jump' if number == 0 else 'run'},train" for number, path in enumerate(videos)]
    (folder / "list.csv").write_text("\n".join(["path,labels,split", *rows]))
    pack_csv(folder / "list.csv", folder / "shards", progress=False)
    return folder


@pytest.fixture(scope="module")
def classifier():
    model = create_model("corrnet_tiny", num_classes=2, num_frames=4)
    return VideoClassifier(
        model,
        classes=("jump", "run"),
        clip=ClipConfig(num_frames=4, crop_size=32),
        device=next(model.parameters()).device,
    )


def test_training_and_evaluation_refuse_them(several, classifier, make_config):
    with pytest.raises(ValueError, match=r"several labels for each video \(multi-label\)"):
        Trainer(make_config(f"data.shards={several / 'shards'}", "data.eval_split=none"))
    with pytest.raises(ValueError, match=r"several labels for each video \(multi-label\)"):
        evaluate(classifier, open_shards(several / "shards"), "train", num_clips=1)


def test_videos_with_several_labels_are_not_packed_for_nothing(several, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", str(several / "list.csv")])
    assert result.exit_code == 2 and "several labels for each video (the column labels)" in result.output
    assert not list(tmp_path.iterdir())


def test_they_are_named_in_full(several, classifier, tmp_path):
    shards = open_shards(several / "shards")
    extract_features(classifier, PackedSplit(shards, "train"), tmp_path / "f.safetensors", num_clips=1)
    assert (tmp_path / "f.csv").read_text().count(",run|jump,") == 1
    told = CliRunner().invoke(app, ["inspect", str(several / "shards")], env={"COLUMNS": "100"}).output
    assert "2, several for each video" in " ".join(told.split())
