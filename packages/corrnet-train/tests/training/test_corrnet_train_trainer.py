import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.training import trainer as trainer_module
from corrnet_train.training.metrics_log import MetricsLog, read_metrics
from corrnet_train.training.trainer import Trainer, TrainingDiverged
from corrnet_train.utils.errors import WorkError

MEASURED = ("clips_per_second", "mfu", "data_wait", "memory_gib")


def weights(result):
    return Checkpoint.load(result.checkpoint).model


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class StopAfter(Trainer):
    """A trainer that gets Ctrl-C in the middle of a step."""

    stop_at = 0

    def _train_step(self, *args):
        if self.step + 1 == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return super()._train_step(*args)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r2plus1d_tiny", "corrnet_tiny"])
def test_an_interrupted_run_ends_with_the_same_bits(make_config, model):
    dropout = "model.options.dropout=0.5"
    straight = Trainer(make_config(dropout, name="straight", model=model)).run()
    assert straight.finished and straight.step == 6

    config = make_config(dropout, name="interrupted", model=model)
    stopping = StopAfter(config)
    stopping.stop_at = 3
    stopped = stopping.run()
    assert (stopped.finished, stopped.step) == (False, 3)
    resumed = Trainer(config, resume=True).run()

    assert resumed.finished and resumed.step == 6
    ours, theirs = Checkpoint.load(straight.checkpoint), Checkpoint.load(resumed.checkpoint)
    for name in ("model", "optimizer", "rng"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), rtol=0, atol=0, msg=name)
    assert (theirs.loader, theirs.best_top1) == (ours.loader, ours.best_top1)
    assert theirs.train_seconds > stopped.train_seconds > 0
    lines = [read_metrics(straight.checkpoint.parents[1]), read_metrics(resumed.checkpoint.parents[1])]
    timeless = [[{k: v for k, v in line.items() if k not in MEASURED} for line in run] for run in lines]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
def test_workers_do_not_change_what_is_learned(make_config):
    one = Trainer(make_config("optim.epochs=0.5", name="one")).run()
    two = Trainer(make_config("optim.epochs=0.5", "data.num_workers=2", name="two")).run()
    assert_equal_states(weights(one), weights(two))


def test_a_finished_run_is_left_as_it_is(make_config):
    config = make_config("optim.epochs=0.5")
    first = weights(Trainer(config).run())
    again = Trainer(config, resume=True).run()
    assert again.finished
    assert_equal_states(first, weights(again))


def test_the_first_of_the_best_evaluations_is_kept_and_remembered(make_config, monkeypatch):
    top1, num_clips = [0.25, 0.5, 0.125, 0.5], []

    def of_the_test(*args, **options):
        num_clips.append(options["num_clips"])
        result = evaluate(*args, **options)
        return dataclasses.replace(
            result, video=dataclasses.replace(result.video, top1=top1[len(num_clips) - 1])
        )

    monkeypatch.setattr(trainer_module, "evaluate", of_the_test)
    config = make_config(
        "optim.epochs=1", "eval.every_epochs=0.25", "eval.num_clips=3", "eval.num_clips_training=1",
        model="r2d_tiny",
    )  # fmt: skip
    result = Trainer(config).run()
    assert num_clips == [1] * 4
    assert Checkpoint.load(result.checkpoint.with_name("best.pt")).step == 2
    again = Trainer(config, resume=True)
    assert (again.best_top1, again.train_seconds) == (0.5, result.train_seconds)


def test_bf16_trains_evaluates_and_keeps_fp32_weights(make_config):
    trainer = Trainer(
        make_config("run.precision=bf16", "optim.epochs=0.5", "optim.name=sgd", model="corrnet_tiny")
    )
    seen = set()
    trainer.model.get_submodule("backbone.stem.conv").register_forward_hook(
        lambda conv, _, output: seen.add((conv.training, output.dtype))
    )
    result = trainer.run()
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert VideoClassifier.from_checkpoint(result.checkpoint, device="cpu").precision == "bf16"
    floating = [value for value in weights(result).values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float32}
    assert all(value.isfinite().all() for value in floating)


def compile_with(monkeypatch, backend):
    """Have models compiled by a function of the test; return the modes that were asked for."""
    modes = []

    def compile(module, mode):
        modes.append(mode)
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    return modes


@pytest.mark.slow
def test_training_is_compiled_and_evaluation_is_not(make_config, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(trainer.model.training)
        return graph.forward

    modes = compile_with(monkeypatch, backend)
    options = ("optim.epochs=0.5", "eval.every_epochs=0.25")
    eager = weights(Trainer(make_config(*options, name="eager")).run())
    assert modes == []
    trainer = Trainer(make_config(*options, "train.compile=true", name="compiled"))
    result = weights(trainer.run())
    assert modes == ["default"]
    assert compiled and all(compiled)
    for name, value in eager.items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_says_how_to_train_without(make_config, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no compiler")

    compile_with(monkeypatch, backend)
    with pytest.raises(WorkError, match=r"no compiler.*train\.compile=false trains without"):
        Trainer(make_config("train.compile=true")).run()


@pytest.mark.slow
def test_a_run_learns_the_videos_it_sees(make_config):
    """Guessing has a loss of ln 8 = 2.08; a net that sees 32 videos again and again gets well below."""
    config = make_config("optim.epochs=40", "optim.batch_size=16", "eval.every_epochs=0")
    Trainer(config).run()
    losses = [line["loss"] for line in read_metrics(config.run.dir) if line["kind"] == "train"]
    assert sum(losses[:3]) / 3 > 1.9
    assert sum(losses[-5:]) / 5 < 1.8


def test_a_diverged_run_stops_names_its_samples_and_keeps_the_checkpoint(make_config):
    config = make_config("run.checkpoint_every=2")
    trainer = Trainer(config)
    step = trainer._train_step

    def poisoned(*args):
        if trainer.step == 3:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(float("nan"))
        return step(*args)

    trainer._train_step = poisoned
    with pytest.raises(TrainingDiverged, match=r"the loss is nan at step 3.*optim.lr.*train-0000"):
        trainer.run()
    assert Checkpoint.load(trainer.last_checkpoint).step == 2


def test_a_folder_with_a_run_is_not_overwritten(make_config):
    config = make_config("optim.epochs=0.25")
    Trainer(config).run()
    with pytest.raises(ValueError, match="already holds a run: continue it with --resume"):
        Trainer(config)


def test_nothing_to_resume_is_an_error(make_config):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Trainer(make_config(), resume=True)


def test_a_run_does_not_go_on_with_its_classes_in_another_order(make_config):
    config = make_config("optim.epochs=0.25")
    path = Trainer(config).run().checkpoint
    saved = Checkpoint.load(path)
    first, second, *others = saved.classes
    dataclasses.replace(saved, classes=(second, first, *others)).save(path)
    with pytest.raises(ValueError, match=f"class 0 is '{first}' in the shards, '{second}' in the model"):
        Trainer(config, resume=True)


def test_resuming_with_another_model_says_what_differs(make_config):
    Trainer(make_config("optim.epochs=0.25")).run()
    with pytest.raises(
        CheckpointError, match=r"model.name: 'r2plus1d_tiny' in the checkpoint, 'r2d_tiny' now"
    ):
        Trainer(make_config("optim.epochs=0.25", model="r2d_tiny"), resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_split=training", "no split 'training'.*train"),
        ("data.eval_split=holdout", "no split 'holdout'"),
        ("run.device=cuda:63", "device cuda:63 is not there"),
        ("optim.batch_size=64", "batch_size=64 is more than the 32 samples of split train: .* at most 32"),
        ("run.device=gpu", "unknown device 'gpu'"),
        ("model.name=corrnet_tinny", "corrnet_tiny"),
        ("model.name=r2plus1d_tiny_twostream", "takes 5 channels, the clips have 3"),
        ("data.shards=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_bad_settings_stop_before_any_work(make_config, override, message):
    config = make_config(override)
    with pytest.raises(ValueError, match=message):
        Trainer(config)
    assert not config.run.dir.exists()


def test_every_line_of_metrics_is_json_whatever_the_gradient(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, loss=1.5, grad_norm=float("inf"))
    log.close()
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1, "loss": 1.5, "grad_norm": None}]


def test_metrics_are_cut_back_to_where_a_run_continues(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, loss=1.0 / step)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    log = MetricsLog(tmp_path, step=2)
    log.write("train", 3, loss=0.5)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.5)]


@pytest.mark.slow
def test_ctrl_c_on_the_command_saves_and_says_how_to_resume(motionbench, tmp_path):
    command = [
        sys.executable, "-m", "corrnet_train.cli", "train", "motionbench", f"data.shards={motionbench[1]}",
        f"run.dir={tmp_path / 'run'}", "run.log_every=1", "data.num_workers=1", "optim.batch_size=8",
        "optim.epochs=100", "eval.every_epochs=0", "model.name=r2d_tiny",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's workers too
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "continue with: corrnet train motionbench" in errors and errors.rstrip().endswith("--resume")
    assert "Traceback" not in errors
    step = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt").step
    assert 3 <= step < 400


HOLD = """
import sys
from pathlib import Path
from corrnet_train.utils.files import only_user
with only_user(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder(make_config):
    config = make_config("optim.epochs=0.25")
    config.run.dir.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(config.run.dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"another process trains in .*run: wait for it"):
            Trainer(config).run()
        assert not (config.run.dir / "metrics.jsonl").exists()
        other.kill()  # a killed process leaves no lock
        other.wait()
    assert Trainer(config).run().finished


def test_fp16_goes_on_with_the_scale_of_the_loss_that_it_had(make_config):
    config = make_config("run.precision=fp16", model="r2d_tiny")
    trainer = Trainer(config)
    trainer.train_step.scaler.scale(torch.ones(()))
    trainer.train_step.scaler.update(0.25)
    trainer.save(trainer.last_checkpoint)
    trainer.writer.wait()
    assert Trainer(config, resume=True).train_step.scaler.get_scale() == 0.25


def test_fp16_stops_when_no_scale_of_the_loss_helps(make_config):
    trainer = Trainer(make_config("run.precision=fp16"))
    trainer.train_step.scaler.scale(torch.ones(()))  # makes the scale
    assert trainer._skips_overflow()
    trainer.train_step.scaler.update(0.5)
    assert not trainer._skips_overflow()
