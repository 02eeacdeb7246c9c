"""Training on planes: the clips of RGB but for rounding, resumed to the bit on any device, and refused for flow."""

import pytest
import torch

from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.config.recipes import ConfigError
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.export import export_model
from corrnet_train.inference.features import PackedSplit, extract_features
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.trainer import Trainer
from video_data import open_shards
from video_data.media.planes import YuvClips, to_rgb


def assert_equal_weights(one, other):
    one, other = (Checkpoint.load(result.checkpoint).model for result in (one, other))
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.slow
def test_planes_train_resume_and_are_evaluated(make_config, motionbench, tmp_path):
    options = ("data.pixels=yuv", "data.num_workers=1", "run.checkpoint_every=3")
    straight = Trainer(make_config(*options, name="straight")).run()
    config = make_config(*options, "run.device=cpu", name="stopped")

    class Stopping(Trainer):
        def _train_step(self, batches, stop):
            return super()._train_step(batches, stop or self.step == 2)

    stopped = Stopping(config).run()
    assert (stopped.finished, stopped.step) == (False, 3)
    resumed = Trainer(make_config("data.num_workers=0", name="stopped"), resume=True)  # of pixels=auto
    assert resumed.config.data.pixels == "yuv"
    result = resumed.run()
    assert_equal_weights(result, straight)

    classifier = VideoClassifier.from_checkpoint(result.checkpoint, device="cpu")
    assert classifier.pixels == "yuv"
    shards = open_shards(config.data.shards)
    accuracy = evaluate(classifier, shards, "test", num_clips=2)
    assert accuracy.fingerprint["pixels"] == "yuv"
    record = shards.sample("test", 3)
    expected = next(row for row in accuracy.predictions if row.key == record.key)
    prediction = classifier.predict(motionbench[0] / record.source, num_clips=2)
    assert prediction.scores[0] == pytest.approx(max(expected.probabilities), abs=1e-5)
    of_split = extract_features(classifier, PackedSplit(shards, "test"), tmp_path / "split.npz", num_clips=2)
    assert of_split.num_rows == 16
    of_files = extract_features(
        classifier, [motionbench[0] / record.source], tmp_path / "file.npz", num_clips=2
    )
    assert of_files.num_rows == 1


def test_clips_of_both_kinds_are_the_same_but_for_rounding(make_config):
    loaders = [
        Trainer(make_config(f"data.pixels={pixels}", "data.clip.flip=true", name=pixels)).loader(
            num_samples=32
        )
        for pixels in ("rgb", "yuv")
    ]
    for rgb, yuv in zip(*loaders, strict=True):
        assert isinstance(yuv.video, YuvClips)
        assert (yuv.keys, yuv.positions, yuv.label.tolist()) == (rgb.keys, rgb.positions, rgb.label.tolist())
        difference = (to_rgb(yuv.video).int() - rgb.video.int()).abs()
        assert difference.max() <= 5 and difference.float().mean() < 0.5


def test_auto_means_rgb_on_a_cpu_and_planes_on_a_gpu(make_config, monkeypatch):
    config = make_config()
    assert config.data.pixels == "auto"
    assert Trainer(config).config.data.pixels == "rgb"
    monkeypatch.setattr("corrnet_train.config.schema.has_triton", lambda: True)
    assert config.data.pixels_on("cuda") == "yuv"
    assert make_config("data.clip.modality=flow").data.pixels_on("cuda") == "rgb"
    monkeypatch.setattr("corrnet_train.config.schema.has_triton", lambda: False)
    assert config.data.pixels_on("cuda") == "rgb"


def test_other_pixels_than_those_of_the_checkpoint_are_refused(make_config):
    Trainer(make_config("optim.epochs=0.5", "data.pixels=yuv")).run()
    with pytest.raises(CheckpointError, match=r"data.pixels: 'yuv' in the checkpoint, 'rgb' now"):
        Trainer(make_config("optim.epochs=0.5", "data.pixels=rgb"), resume=True)


def test_planes_of_flow_are_refused_before_any_work(make_config):
    with pytest.raises(ConfigError, match=r"data\.pixels=yuv is for RGB: data\.clip\.modality is both"):
        make_config("data.pixels=yuv", "data.clip.modality=both")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("run.precision=bf16", "augment.mixup=0.8"), ("augment.cutmix=1",)])
def test_planes_can_be_mixed_and_computed_with_in_16_bits(make_config, options):
    config = make_config("data.pixels=yuv", "eval.precise_bn=8", "optim.epochs=0.5", *options)
    assert Trainer(config).run().finished
    assert all(line["loss"] > 0 for line in read_metrics(config.run.dir) if line["kind"] == "train")


def test_clips_are_made_in_the_type_asked_for(make_config):
    trainer = Trainer(make_config("data.pixels=yuv", "run.precision=bf16"))
    batch = next(iter(trainer.loader(num_samples=16)))
    clips, _ = trainer.augment(batch.video, batch.label)
    assert clips.dtype == torch.bfloat16 and clips.is_contiguous(memory_format=torch.channels_last_3d)


def test_rand_augment_takes_planes(make_config):
    pytest.importorskip("kornia")
    trainer = Trainer(make_config("data.pixels=yuv", "augment.rand_augment=9"))
    batch = next(iter(trainer.loader(num_samples=16)))
    clips, _ = trainer.augment(batch.video, batch.label)
    assert clips.shape[:2] == (len(batch.keys), 3) and clips.isfinite().all()


def test_exported_models_keep_their_pixels(make_config, tmp_path):
    result = Trainer(make_config("data.pixels=yuv", "optim.epochs=0.5")).run()
    classifier = VideoClassifier.from_checkpoint(result.checkpoint, device="cpu")
    export_model(classifier, tmp_path / "hub", format="hub")
    assert VideoClassifier.from_checkpoint(tmp_path / "hub", device="cpu").pixels == "yuv"
