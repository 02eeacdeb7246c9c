"""Training on optical flow: one stream, two streams, and a prediction that sees what evaluation saw."""

import numpy as np
import pytest
import torch

from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.features import PackedSplit, extract_features
from corrnet_train.inference.inputs import VideoInput
from corrnet_train.training.trainer import Trainer
from video_data import PackOptions, open_shards, pack_csv

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def flow_shards(motionbench, tmp_path_factory):
    """Shards with optical flow of 8, 2 and 4 videos of MotionBench: its splits train, val and test."""
    folder = tmp_path_factory.mktemp("flow")
    lines = ["path,label,split"]
    for split, count in {"train": 8, "val": 2, "test": 4}.items():
        videos = sorted((motionbench[0] / "videos" / split).glob("*/*.mp4"))
        lines += [f"{path},{path.parent.name},{split}" for path in videos[:: len(videos) // count]]
    (folder / "list.csv").write_text("\n".join(lines))
    pack_csv(folder / "list.csv", folder / "shards", options=PackOptions(flow=True), progress=False)
    return folder / "shards"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "modality", "options"),
    [
        ("r2plus1d_tiny", "flow", ("model.options.in_channels=2",)),
        ("r2plus1d_tiny_twostream", "both", ()),
    ],
)
def test_models_of_flow_train_and_are_evaluated(make_config, flow_shards, model, modality, options, tmp_path):
    config = make_config(
        f"data.shards={flow_shards}",
        f"data.clip.modality={modality}",
        "optim.epochs=2",
        *options,
        model=model,
    )
    trainer = Trainer(config)
    trainer.run()
    classifier = VideoClassifier.from_checkpoint(trainer.last_checkpoint, device="cpu")
    shards = open_shards(flow_shards)
    result = evaluate(classifier, shards, "test", num_clips=2)
    assert result.num_videos == 4
    record = shards.sample("test", 3)
    prediction = classifier.predict(flow_shards.parent / record.source, num_clips=2)
    expected = next(row for row in result.predictions if row.key == record.key)
    best = max(range(len(classifier.classes)), key=expected.probabilities.__getitem__)
    assert prediction.classes[0] == classifier.classes[best]
    assert prediction.scores[0] == pytest.approx(expected.probabilities[best], abs=1e-5)
    extracted = extract_features(
        classifier, PackedSplit(shards, "test"), tmp_path / "f.npz", num_clips=2, per_clip=True
    )
    features = torch.from_numpy(np.load(extracted.path)["features"])
    assert features.shape == (8, 512 * len(classifier.video_model.backbones()))
    means = classifier.video_model.fc(features).softmax(dim=1).unflatten(0, (4, 2)).mean(dim=1)
    torch.testing.assert_close(
        means.detach(), torch.tensor([row.probabilities for row in result.predictions])
    )
    of_file = extract_features(
        classifier,
        [VideoInput(str(flow_shards.parent / record.source))],
        tmp_path / "v.npz",
        num_clips=2,
        stage="res3",
    )
    assert of_file.num_features == 128 * len(classifier.video_model.backbones())


def test_flow_of_shards_without_it_is_refused(make_config):
    with pytest.raises(ValueError, match=r"needs optical flow, .* packed without"):
        Trainer(make_config("data.clip.modality=both", model="r2plus1d_tiny_twostream")).run()
