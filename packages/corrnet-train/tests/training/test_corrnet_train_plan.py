import time

import pytest
import torch
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.networks.build import build_from_config
from corrnet_train.training import dry_run
from corrnet_train.training.dry_run import kept_bytes, make_plan
from corrnet_train.training.trainer import Trainer


@pytest.mark.slow
def test_a_plan_tells_size_steps_memory_and_time_and_changes_nothing(make_config):
    config = make_config(
        "optim.ema_decay=0.9", "train.micro_batch=4", "optim.name=adamw", model="corrnet_tiny"
    )
    trainer = Trainer(config)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    plan = make_plan(trainer)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert plan.num_parameters == parameters
    assert (plan.num_train, plan.num_eval, plan.num_steps) == (32, 8, 6)
    assert (plan.micro_batch, plan.num_micro_batches, plan.world_size) == (4, 2, 1)
    assert plan.memory.optimizer == 8 * parameters and plan.memory.gradients == 4 * parameters
    assert plan.memory.weights > 8 * parameters  # averaged ones too
    assert plan.seconds == pytest.approx(48 * max(plan.clip_seconds, plan.loader_seconds))
    assert plan.clip_seconds > 0 and plan.loader_seconds > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert not config.run.dir.exists()


@pytest.mark.slow
def test_the_time_to_compile_is_not_taken_for_that_of_a_step(make_config, monkeypatch):
    def compile(module, mode):
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

    def backend(graph, inputs):
        time.sleep(1)  # as long as no more steps are taken without compiling
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    monkeypatch.setattr(dry_run, "_MOST_SECONDS", 1)
    trainer = Trainer(make_config("train.compile=true", model="r2d_tiny"))
    steps = []
    trainer.model.register_forward_hook(lambda *_: steps.append(1))
    make_plan(trainer)
    assert len(steps) > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_of_activations_is_what_a_real_pass_keeps(make_config, precision):
    config = make_config(f"run.precision={precision}", model="corrnet_tiny")
    model = build_from_config(config, 8).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    clips = torch.rand(2, 3, 4, 16, 16).contiguous(memory_format=torch.channels_last_3d)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model(clips)
    real = sum(storage.nbytes() for storage in kept.values())
    assert kept_bytes(config, 8, 2) == pytest.approx(real, rel=0.02)


def test_recomputing_blocks_needs_less_memory(make_config):
    stored, recomputed = (
        kept_bytes(make_config(f"train.grad_checkpointing={on}", model="corrnet_tiny"), 8, 2)
        for on in (False, True)
    )
    assert recomputed < 0.6 * stored


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(motionbench, tmp_path):
    folder = tmp_path / "run"
    overrides = [f"data.shards={motionbench[1]}", f"run.dir={folder}", "data.num_workers=0", "run.device=cpu"]
    overrides += ["data.clip.num_frames=4", "data.clip.crop_size=16"]
    result = CliRunner().invoke(
        app, ["train", "motionbench", "--dry-run", *overrides], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    for text in (
        "name: corrnet_tiny",
        "GMACs a clip",
        "16 clips x 1 accumulated x 1 processes",
        "activations",
        "time",
    ):
        assert text in result.output
    assert not folder.exists()


def test_memory_that_does_not_suffice_is_told_with_what_helps(motionbench, tmp_path, monkeypatch):
    def run(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "run", run)
    overrides = [f"data.shards={motionbench[1]}", f"run.dir={tmp_path}", "run.device=cpu"]
    result = CliRunner().invoke(app, ["train", "motionbench", *overrides])
    assert result.exit_code == 1
    assert "CUDA out of memory. Take fewer clips at once (train.micro_batch)" in " ".join(
        result.output.split()
    )


def test_frozen_stages_need_no_gradients(make_config, model_folder):
    settings = [f"model.init_from={model_folder}"]
    free, frozen = (
        make_plan(
            Trainer(make_config(*settings, f"model.frozen_stages={stages}", model="corrnet_tiny"))
        ).memory
        for stages in (0, 5)
    )
    head = 4 * 8 * (512 + 1)
    assert frozen.gradients == head and frozen.optimizer == 2 * head
    assert frozen.activations < free.activations / 4 and frozen.weights == free.weights
    assert free.gradients > 100 * head
