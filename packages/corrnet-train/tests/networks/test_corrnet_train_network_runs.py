"""Networks of other packages through the trainer and the commands: learned, continued, measured, used."""

import json
import re
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from corrnet_models import FrameByFrame
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.cli import app
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.networks import by_name
from corrnet_train.networks.build import build_from_config
from corrnet_train.training.dry_run import make_plan
from corrnet_train.training.initialize import initialize
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.errors import InputError
from video_data import open_shards

MODULES = Path(__file__).with_name("modules")
MANY_RUNS = Path(__file__).parents[1] / "distributed" / "ranks" / "many_runs.py"
RESNET = "small_networks:VideoResNet"
BLOCKS = "model.correlation={layer1: {kernel_size: 3, dilation: 1}, layer2: {kernel_size: 3}}"
MEASURED = ("checkpoint_stall", "clips_per_second", "data_wait", "memory_gib")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.syspath_prepend(MODULES)


@pytest.fixture
def config_of(make_config):
    def make(*overrides, model=RESNET, **more):
        return make_config("model.options={}", "optim.epochs=0.5", *overrides, model=model, **more)

    return make


def corrnet(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


class StopAfter(Trainer):
    """A trainer that is asked to stop in a step."""

    stop_at = 1

    def _train_step(self, batches, stop):
        return super()._train_step(batches, stop or self.step + 1 == self.stop_at)

    def _has_to_stop(self, interrupted):
        return super()._has_to_stop(interrupted) or self.step == self.stop_at


@pytest.mark.parametrize("kind", ["clips", "pictures"])
def test_a_stopped_run_ends_with_the_same_bits(config_of, kind, monkeypatch):
    options = ["model.options={dropout: 0.5}", BLOCKS, "optim.layer_decay=0.7", "optim.ema_decay=0.9",
               "model.pixel_mean=[0.43, 0.39, 0.38]", "model.pixel_std=[0.23, 0.22, 0.22]",
               "train.micro_batch=4", "data.num_workers=1", "optim.epochs=0.75"]  # fmt: skip
    model = RESNET
    if kind == "pictures":
        import small_networks

        def pictures(num_classes, num_frames):
            return FrameByFrame(small_networks.PictureNet(num_classes), num_frames)

        monkeypatch.setattr(small_networks, "pictures", pictures, raising=False)
        model, options = "small_networks:pictures", ["model.correlation={network.layer1: {}}"]
    straight = Trainer(config_of(*options, model=model, name="straight")).run()
    config = config_of(*options, model=model, name="stopped")
    stopped = StopAfter(config).run()
    assert not stopped.finished and 0 < stopped.step < straight.step
    resumed = Trainer(config, resume=True).run()
    assert resumed.finished and resumed.step == straight.step
    ours, theirs = Checkpoint.load(straight.checkpoint), Checkpoint.load(resumed.checkpoint)
    for name in ("model", "ema", "optimizer", "rng"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), rtol=0, atol=0, msg=name)
    lines = [read_metrics(result.checkpoint.parents[1]) for result in (straight, resumed)]
    timeless = [[{k: v for k, v in line.items() if k not in MEASURED} for line in run] for run in lines]
    assert timeless[0] == timeless[1]
    blocks = [name for name in ours.model if name.endswith("expand_bn.weight")]
    assert blocks and all(ours.model[name].count_nonzero() for name in blocks), (
        "blocks start at zero and learn"
    )


def test_other_blocks_are_another_run(config_of):
    Trainer(config_of(BLOCKS)).run()
    with pytest.raises(
        CheckpointError, match=r"model.correlation.layer1.dilation: 1 in the checkpoint, 2 now"
    ):
        Trainer(config_of(BLOCKS, "model.correlation.layer1.dilation=2"), resume=True)


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """Weights of a network that tells apart 400 classes, as torchvision publishes them, and the network."""
    sys.path.insert(0, str(MODULES))
    try:
        import small_networks
    finally:
        sys.path.remove(str(MODULES))
    torch.manual_seed(5)
    network = small_networks.VideoResNet()
    network(torch.randn(4, 3, 4, 16, 16))  # statistics of batch norm
    path = tmp_path_factory.mktemp("weights") / "r2plus1d_18-91a641e6.pth"
    torch.save(network.state_dict(), path)
    save_file(network.state_dict(), path.with_suffix(".safetensors"))
    return path, network.eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_run_starts_from_weights_of_other_classes(suffix, config_of, kinetics, capsys):
    path, pretrained = kinetics
    start = [f"model.init_from={path.with_suffix(suffix)}", "model.new_head=true"]
    trainer = Trainer(config_of(BLOCKS, "train.channels_last=false", *start))
    said = " ".join(capsys.readouterr().err.split())
    new = "new: fc.weight, fc.bias, layer1.correlation, layer2.correlation"
    assert "want CORRNET_ALLOW_MODULES=small_networks in the environment" in said
    assert re.search(rf"weights from \S+: 84 of 112 tensors loaded; {new}$", said), said
    clips = torch.randn(2, 3, 4, 16, 16)
    model = trainer.model.eval()
    pretrained.fc, kept = model.fc, pretrained.fc
    assert torch.equal(model(clips), pretrained(clips))
    pretrained.fc = kept
    assert trainer.run().finished


def test_weights_of_the_same_classes_keep_their_classifier(config_of, kinetics):
    path, pretrained = kinetics
    model = build_from_config(config_of(BLOCKS), 400)
    classes = tuple(map(str, range(400)))
    message = initialize(model, path, classes=classes, new_head=False)
    assert "its outputs count as those of the shards" in message
    clips = torch.randn(2, 3, 4, 16, 16)
    assert torch.equal(model.eval()(clips), pretrained(clips))


def test_weights_that_do_not_fit_are_refused_with_what_helps(config_of, kinetics, tmp_path):
    path, _ = kinetics
    with pytest.raises(
        CheckpointError, match=r"400 classes \(fc.weight\), the shards have 8: model.new_head=true"
    ):
        Trainer(config_of(f"model.init_from={path}"))
    with pytest.raises(CheckpointError, match=r"belongs to another model: missing: features.0.weight"):
        Trainer(config_of(f"model.init_from={path}", model="small_networks:S3D"))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        Trainer(config_of(f"model.init_from={path}", "model.new_head=true", model="corrnet_tiny"))
    with pytest.raises(InputError, match=r"model.new_head=true: the network has no linear layer"):
        Trainer(config_of(f"model.init_from={path}", "model.new_head=true", model="small_networks:Headless"))


def test_weights_of_a_network_for_pictures_have_its_own_names(config_of, tmp_path, monkeypatch):
    import small_networks

    pretrained = small_networks.PictureNet(1000)
    torch.save({"state_dict": pretrained.state_dict()}, tmp_path / "resnet.pth")
    model = FrameByFrame(small_networks.PictureNet(8), 8)
    message = initialize(model, tmp_path / "resnet.pth", classes=tuple("abcdefgh"), new_head=True)
    assert "8 of 10 tensors loaded; new: network.fc.weight, network.fc.bias" in message
    assert torch.equal(model.network.conv1.weight, pretrained.conv1.weight)


def test_a_run_tells_which_blocks_it_has(config_of, capsys):
    Trainer(config_of())
    assert "small_networks:VideoResNet has no correlation blocks" in " ".join(capsys.readouterr().err.split())
    Trainer(config_of(BLOCKS, "run.dir=other"))
    said = " ".join(capsys.readouterr().err.split())
    assert "with correlation blocks (layer1.correlation, layer2.correlation): 0.0" in said


def test_a_run_with_blocks_starts_from_one_without(config_of, capsys):
    plain = Trainer(config_of(name="plain")).run().checkpoint.parents[1]
    trainer = Trainer(config_of(BLOCKS, f"model.init_from={plain}", "train.channels_last=false", name="more"))
    assert "86 of 112 tensors loaded; new: layer1.correlation, layer2" in " ".join(
        capsys.readouterr().err.split()
    )
    clips = torch.randn(2, 3, 4, 16, 16)
    before = VideoClassifier.from_checkpoint(plain, device="cpu").model.eval()
    assert torch.equal(trainer.model.eval()(clips), before(clips))


def test_a_plan_counts_what_the_network_is(config_of):
    config = config_of(BLOCKS)
    trainer = Trainer(config)
    plan = make_plan(trainer)
    assert plan.num_parameters == sum(parameter.numel() for parameter in trainer.model.parameters())
    assert plan.gmacs > 0 and plan.memory.activations > plan.memory.weights > 0
    assert not config.run.dir.exists()


@pytest.fixture(scope="module")
def trained(motionbench, tmp_path_factory):
    """The folder of a run, left by a process that had named the network."""
    from corrnet_train.config.load import load_config

    folder = tmp_path_factory.mktemp("network") / "run"
    options = [f"data.shards={motionbench[1]}", f"run.dir={folder}", "data.num_workers=0", "run.device=cpu"]
    options += [f"model.name={RESNET}", "model.options={}", BLOCKS, "optim.epochs=1", "optim.batch_size=8"]
    options += ["data.clip.num_frames=4", "data.clip.crop_size=16", "eval.num_clips=2"]
    sys.path.insert(0, str(MODULES))
    try:
        Trainer(load_config("motionbench", options)).run()
    finally:
        sys.path.remove(str(MODULES))
    return folder


def test_commands_take_the_checkpoint_once_its_module_is_allowed(trained, motionbench, tmp_path, monkeypatch):
    video = next((motionbench[0] / "videos" / "test").rglob("*.mp4"))
    monkeypatch.setattr(by_name, "_named", set())
    for command in (["predict", trained, video], ["eval", trained, motionbench[1]], ["resume", trained]):
        told = corrnet(*command, code=2)
        assert "none is imported without leave" in told and "CORRNET_ALLOW_MODULES=small_networks" in told
    monkeypatch.setenv(by_name.ALLOWED_MODULES, "small_networks")
    told = corrnet("predict", trained, video, "--num-clips", "2", "--json", tmp_path / "out.json")
    assert set(open_shards(motionbench[1]).classes) & set(told.split())
    (prediction,) = json.loads((tmp_path / "out.json").read_text())
    assert sum(prediction["probabilities"].values() if isinstance(prediction["probabilities"], dict)
               else prediction["probabilities"]) == pytest.approx(1, abs=1e-3)  # fmt: skip
    assert "videos: 16" in corrnet("eval", trained, motionbench[1], "--split", "test", "--num-clips", "1")
    assert "has all of its" in corrnet("resume", trained)


def test_resuming_with_the_name_given_is_leave(trained, monkeypatch):
    monkeypatch.setattr(by_name, "_named", set())
    assert "has all of its" in corrnet("resume", trained, f"model.name={RESNET}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_network_is_exported(name, trained, tmp_path):
    by_name._named.add("small_networks")
    told = corrnet("export", trained, tmp_path / name)
    assert "largest difference of a probability to the model" in told


def test_what_needs_named_stages_is_refused_in_a_sentence(trained, motionbench, tmp_path):
    by_name._named.add("small_networks")
    video = next((motionbench[0] / "videos" / "test").rglob("*.mp4"))
    text = (
        "the model is a network of another package (VideoResNet), and this is for those of `corrnet models`"
    )
    for command in (
        ["features", trained, video, "-o", tmp_path / "features.npz"],
        ["visualize", "filters", trained, "-o", tmp_path / "filters.html"],
        ["visualize", "motion", trained, video, "-o", tmp_path / "motion.png"],
    ):
        assert text in corrnet(*command, code=2)
    assert "export it to a file .pt2 or .onnx" in corrnet("export", trained, tmp_path / "folder", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_learn_what_one_does(motionbench, forks, tmp_path):
    """With batch norm over the clips of both, that of the blocks and one that a block stands behind among them."""

    def group(world_size):
        overrides = [
            f"model.name={RESNET}", "model.options={}",
            "model.correlation={layer1: {kernel_size: 3}, stem.1: {kernel_size: 3}}", f"data.shards={motionbench[1]}",
            f"run.dir={tmp_path / str(world_size)}", "data.num_workers=0", "run.device=cpu", "run.log_every=1",
            "optim.batch_size=8", "optim.epochs=0.75", "optim.name=sgd", "optim.lr=0.01", "train.batch_norm=sync",
            "eval.every_epochs=0", "data.clip.num_frames=4", "data.clip.crop_size=16", "eval.num_clips=1",
        ]  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out = str(tmp_path / f"out{world_size}")
        return {"world_size": world_size, "port": port, "out": out, "tasks": [{"overrides": overrides}]}

    (tmp_path / "job.json").write_text(json.dumps([group(1), group(2)]))
    done = forks(tmp_path / "job.json", script=MANY_RUNS, PYTHONPATH=str(MODULES))
    assert done.wait() == 0, done.errors
    seen = [json.loads((tmp_path / f"out2.{rank}.json").read_text())[0] for rank in (0, 1)]
    assert seen[0]["hash"] == seen[1]["hash"]
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / str(n)) if line["kind"] == "train"] for n in (1, 2)
    ]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_batch_norm_of_pictures_is_not_taken_over_processes():
    import small_networks

    from corrnet_train.distributed.sync_batchnorm import sync_batch_norm

    with pytest.raises(InputError, match=r"bn1 of the model is a BatchNorm2d: give train.batch_norm=local"):
        sync_batch_norm(small_networks.PictureNet(8))
