"""Training on a GPU, as users run it. What makes sense on a CPU runs there too."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from corrnet_train.checkpoint.async_writer import CheckpointWriter
from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.config.schema import OptimConfig
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.optim import AveragedModel, build_optimizer
from corrnet_train.training.prefetch import Prefetcher
from corrnet_train.training.trainer import Trainer

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
each_device = pytest.mark.parametrize("device", ["cpu", GPU])
on_gpu = pytest.mark.parametrize("device", [GPU])


@pytest.fixture(autouse=True)
def workspace(monkeypatch):
    """`run.deterministic` wants it before the first test uses a GPU; it is not read again afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def losses(config):
    return [line["loss"] for line in read_metrics(config.run.dir) if line["kind"] == "train"]


class StopsAfterTwo(Trainer):
    def _train_step(self, batches, stop):
        return super()._train_step(batches, stop or self.step == 1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@on_gpu
def test_training_in_half_precision_lowers_the_loss(make_config, device, precision):
    config = make_config(
        f"run.device={device}", f"run.precision={precision}", "optim.epochs=40", "optim.batch_size=16",
        "eval.every_epochs=0", "train.compile=false",
    )  # fmt: skip
    assert Trainer(config).run().finished
    assert sum(losses(config)[-5:]) < sum(losses(config)[:5])


@pytest.mark.slow
@on_gpu
def test_a_compiled_model_trains(make_config, device):
    config = make_config(
        f"run.device={device}", "train.compile=true", "run.precision=bf16", model="corrnet_tiny"
    )
    assert Trainer(config).run().finished
    assert all(0 < loss < 10 for loss in losses(config))


@each_device
def test_batches_on_the_device_are_those_of_the_loader(make_config, device):
    trainer = Trainer(make_config(f"run.device={device}", "data.pixels=rgb"))
    expected = list(trainer.loader(num_samples=32))
    found = list(Prefetcher(trainer.loader(num_samples=32), trainer.device))
    assert [batch.keys for batch in found] == [batch.keys for batch in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.video.device == trainer.device
        assert torch.equal(ours.video.cpu(), theirs.video) and torch.equal(ours.label.cpu(), theirs.label)


@pytest.mark.slow
@each_device
def test_a_deterministic_run_that_was_stopped_ends_with_the_same_bits(make_config, device):
    options = [
        f"run.device={device}", "run.deterministic=true", "run.precision=bf16", "optim.ema_decay=0.6",
        "model.options.dropout=0.2", "train.compile=false", "run.log_every=3", "optim.epochs=0.75",
    ]  # fmt: skip
    straight = Trainer(make_config(*options, name="straight", model="corrnet_tiny")).run()
    config = make_config(*options, name="stopped", model="corrnet_tiny")
    assert StopsAfterTwo(config).run().step == 2
    ours, theirs = (
        Checkpoint.load(result.checkpoint) for result in (straight, Trainer(config, resume=True).run())
    )
    for one, other in ((ours.model, theirs.model), (ours.ema, theirs.ema)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    figures = [
        [
            (line["step"], line.get("loss"), line.get("top1"), line.get("grad_norm"))
            for line in read_metrics(folder)
        ]
        for folder in (straight.checkpoint.parents[1], config.run.dir)
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@each_device
def test_a_checkpoint_goes_on_on_a_cpu_and_back(make_config, device, name):
    here, there = (
        make_config(f"run.device={where}", f"optim.name={name}", "optim.ema_decay=0.6", "train.compile=false")
        for where in (device, "cpu")
    )
    assert StopsAfterTwo(here).run().step == 2
    trainer = Trainer(there, resume=True)
    trainer._train_step = lambda batches, stop: Trainer._train_step(
        trainer, batches, stop or trainer.step == 3
    )
    assert trainer.run().step == 4
    assert Trainer(here, resume=True).run().finished
    assert all(0 < loss < 10 for loss in losses(here))


@pytest.mark.slow
@on_gpu
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_process_of_torchrun_trains(motionbench, tmp_path, device, parallel):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "corrnet_train.cli",
        "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}", f"run.device={device}",
        f"train.parallel={parallel}", "run.precision=bf16", "data.num_workers=0", "optim.batch_size=8",
        "optim.epochs=0.5", "model.name=r2plus1d_tiny", "train.compile=false",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt").step == 2


@each_device
def test_averaged_weights_equal_those_in_float64(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8)).to(
        device, memory_format=torch.channels_last_3d
    )
    averaged, expected = AveragedModel(model, 0.5), torch.zeros(())
    for update in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        averaged.update()
        present = model[0].weight.detach().double()
        expected = torch.lerp(present, expected.to(present), min(0.5, update / (9 + update)))
    torch.testing.assert_close(averaged.module[0].weight.double(), expected, rtol=1e-5, atol=1e-6)


@each_device
def test_a_checkpoint_holds_the_weights_of_its_step_although_training_goes_on(device, tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(1000, 1000).to(device)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1))
    writer = CheckpointWriter()
    for step in range(3):  # the later ones find the memory of the first
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        expected = model.weight.detach().clone()
        if device == "cuda":
            torch.cuda._sleep(100_000_000)  # copies and updates wait in the queue
        checkpoint = Checkpoint(
            step=step, config={}, classes=(), model=model.state_dict(), optimizer=optimizer.state_dict(), loader={},
            rng=[], best_score=0.0, train_seconds=0.0,
        )  # fmt: skip
        writer.save(checkpoint, tmp_path / "last.pt")
        optimizer.step()
        writer.wait()
        assert torch.equal(Checkpoint.load(tmp_path / "last.pt").model["weight"], expected.cpu())
        assert not torch.equal(model.weight, expected)
