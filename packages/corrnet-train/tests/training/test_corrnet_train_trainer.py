import dataclasses
import json
import os
import shutil
import signal
import time

import pytest
import torch

from corrnet_train.checkpoint.folders import checkpoint_names
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError, weights_hash
from corrnet_train.config.load import load_config, recipe_text
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.training import trainer as trainer_module
from corrnet_train.training.metrics_log import MetricsLog, read_metrics
from corrnet_train.training.trainer import Trainer, TrainingDiverged
from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.files import write_text
from video_data import open_shards

MEASURED = ("checkpoint_stall", "clips_per_second", "data_wait", "memory_gib")


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
def test_an_interrupted_run_ends_with_the_same_bits(make_config):
    dropout = "model.options.dropout=0.5"
    straight = Trainer(make_config(dropout, name="straight", model="corrnet_tiny")).run()
    assert straight.finished and straight.step == 6

    config = make_config(dropout, name="interrupted", model="corrnet_tiny")
    stopping = StopAfter(config)
    stopping.stop_at = 3
    stopped = stopping.run()
    assert (stopped.finished, stopped.step) == (False, 3)
    resumed = Trainer(config, resume=True).run()

    assert resumed.finished and resumed.step == 6
    ours, theirs = Checkpoint.load(straight.checkpoint), Checkpoint.load(resumed.checkpoint)
    for name in ("model", "optimizer", "rng"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), rtol=0, atol=0, msg=name)
    assert (theirs.loader, theirs.best_score) == (ours.loader, ours.best_score)
    assert theirs.train_seconds > stopped.train_seconds > 0
    lines = [read_metrics(straight.checkpoint.parents[1]), read_metrics(resumed.checkpoint.parents[1])]
    timeless = [[{k: v for k, v in line.items() if k not in MEASURED} for line in run] for run in lines]
    assert timeless[0] == timeless[1]


def test_figures_after_a_stop_are_over_the_steps_before_it_too(make_config):
    options = ("run.log_every=3", "optim.epochs=0.75", "eval.every_epochs=0")
    straight = Trainer(make_config(*options, name="straight", model="r2d_tiny")).run()
    config = make_config(*options, name="stopped", model="r2d_tiny")
    stopping = StopAfter(config)
    stopping.stop_at = 2
    assert stopping.run().step == 2
    Trainer(config, resume=True).run()
    lines = [read_metrics(straight.checkpoint.parents[1]), read_metrics(config.run.dir)]
    assert [(line["kind"], line["step"]) for line in lines[0]] == [("train", 3), ("eval", 3)]
    timeless = [[{k: v for k, v in line.items() if k not in MEASURED} for line in run] for run in lines]
    assert timeless[0] == timeless[1]


@pytest.fixture
def damaged_sample(motionbench, tmp_path):
    """The shards, with one of the 8 videos of val that is zeros."""
    folder = tmp_path / "damaged"
    shutil.copytree(motionbench[1], folder)
    shards = open_shards(folder)
    record = shards.sample("val", 0)
    name = next(
        s.name for s in shards.manifest.shards if 0 in shards.shard_indices(s.name) and s.split == "val"
    )
    with (folder / f"{name}.tar").open("r+b") as file:
        file.seek(record.offset)
        file.write(bytes(record.size))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [None, 3])
def test_a_stopped_run_may_replace_as_many_samples_as_one_that_was_not(make_config, damaged_sample, stop_at):
    """6 steps of 4 samples are three passes over 8 videos, each of which meets the damaged one."""

    def run(budget):
        given = f"data.error_budget={'null' if budget is None else budget}"
        videos = (f"data.shards={damaged_sample}", "data.train_split=val", "data.eval_split=none")
        length = ("optim.epochs=3", "optim.batch_size=4")
        config = make_config(*videos, *length, given, name=f"run{budget}", model="r2d_tiny")
        if stop_at is not None:
            stopping = StopAfter(config)
            stopping.stop_at = stop_at
            assert stopping.run().step == stop_at
        return Trainer(config, resume=stop_at is not None).run()

    assert Checkpoint.load(run(3 / 24).checkpoint).replaced == 3
    assert Checkpoint.load(run(None).checkpoint).replaced == 3
    with pytest.raises(WorkError, match=r"samples could not be read, .* allows \d .*\(data\.error_budget in"):
        run(2.9 / 24)


def test_a_checkpoint_without_sums_goes_on(make_config):
    config = make_config("optim.epochs=0.5", model="r2d_tiny")
    result = Trainer(config).run()
    content = torch.load(result.checkpoint, weights_only=True)
    for name in ("meter", "replaced"):
        del content[name]
    torch.save(content, result.checkpoint)
    assert Trainer(config, resume=True).run().finished


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
    assert (again.best_score, again.train_seconds) == (0.5, result.train_seconds)


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
    eager = weights(Trainer(make_config(*options, name="eager", model="r2d_tiny")).run())
    assert modes == []
    trainer = Trainer(make_config(*options, "train.compile=true", name="compiled", model="r2d_tiny"))
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
        Trainer(make_config("train.compile=true", model="r2d_tiny")).run()


@pytest.mark.slow
def test_a_run_learns_the_videos_it_sees(make_config):
    """Guessing has a loss of ln 8 = 2.08; a net that sees 8 videos again and again gets well below."""
    config = make_config("data.train_split=val", "data.eval_split=none", "optim.epochs=20", model="r2d_tiny")
    Trainer(config).run()
    losses = [line["loss"] for line in read_metrics(config.run.dir) if line["kind"] == "train"]
    assert sum(losses[:3]) / 3 > 1.9
    assert sum(losses[-5:]) / 5 < 1.6


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
    with pytest.raises(ValueError, match=r"already holds a run: continue it with corrnet resume .*/run, or"):
        Trainer(config)


def without_last(make_config, *overrides, name="run"):
    """A run of six steps that was stopped after the fourth one, with a checkpoint each two; its last.pt is gone."""
    keep = ("run.checkpoint_every=2", "train.keep_every=2", "eval.every_epochs=0")
    config = make_config(*keep, *overrides, name=name, model="r2d_tiny")
    stopping = StopAfter(config)
    stopping.stop_at = 4
    result = stopping.run()
    result.checkpoint.unlink()
    return config, result.checkpoint.parent


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_is_gone_goes_on_from_the_newest_intact_one(make_config, capsys):
    straight = Trainer(make_config("eval.every_epochs=0.5", name="straight", model="r2d_tiny")).run()
    for how in ("resume", "requeue"):
        config, checkpoints = without_last(make_config, "eval.every_epochs=0.5", name=how)
        content = (checkpoints / "step-00000002.pt").read_bytes()
        (checkpoints / "step-00000002.pt").write_bytes(content[: len(content) // 2])
        assert Checkpoint.load(checkpoints / "best.pt").step in (2, 4)
        trainer = Trainer(config, **{how: True})
        said = capsys.readouterr().err
        assert f"{checkpoints / 'last.pt'} is gone: going on from the newest intact checkpoint, " in said
        assert said.rstrip().endswith(f" of step {trainer.step}") and trainer.step in (2, 4)
    resumed = trainer.run()
    assert resumed.finished
    assert_equal_states(weights(straight), weights(resumed))


@pytest.mark.parametrize("broken", ["gone", "dangling"])
def test_a_run_whose_last_checkpoint_is_gone_is_not_begun_again(make_config, broken):
    config, checkpoints = without_last(make_config)
    if broken == "dangling":
        (checkpoints / "last.pt").symlink_to("shards-00000004")
    before = {path: path.stat().st_mtime_ns for path in config.run.dir.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"already holds a run, whose newest intact checkpoint is .* of step 4"
    ):
        Trainer(config)
    for path in checkpoints.glob("step-*.pt"):
        path.unlink()
        del before[path]
    if broken == "dangling":  # there was a checkpoint, and none is left to go on from
        with pytest.raises(CheckpointError, match=r"last.pt: it leads to shards-00000004, which is gone"):
            Trainer(config, requeue=True)
    assert before == {path: path.stat().st_mtime_ns for path in config.run.dir.rglob("*") if path.is_file()}


def test_a_damaged_last_checkpoint_stops_and_names_the_others(make_config, capsys):
    config, checkpoints = without_last(make_config)
    last = checkpoints / "last.pt"
    last.write_bytes((checkpoints / "step-00000004.pt").read_bytes()[:-1000])
    message = (
        r"last.pt is not a readable checkpoint: .*; the newest intact one beside it is step-00000004.pt, of step 4 "
        r"\(there are also step-00000002.pt\): once last.pt is removed, corrnet resume .*/run goes on from that"
    )
    for how in ("resume", "requeue"):
        with pytest.raises(CheckpointError, match=message):
            Trainer(config, **{how: True})
    last.unlink()
    trainer = Trainer(config, resume=True)
    assert trainer.step == 4
    trainer.run()
    assert Checkpoint.load(last).step == 6 and not last.is_symlink()


def test_the_name_of_the_newest_checkpoint_is_back_before_the_run_goes_on(make_config, monkeypatch):
    config, checkpoints = without_last(make_config)
    trainer = Trainer(config, requeue=True)
    monkeypatch.setattr(Trainer, "_train", lambda self, interrupted: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the run fails before it has written anything
        trainer.run()
    assert Checkpoint.load(checkpoints / "last.pt").step == 4


def test_a_run_without_a_checkpoint_begins_again_when_it_is_queued_again(make_config, capsys):
    """As a run leaves its folder that is killed before its first checkpoint."""
    config = make_config("run.checkpoint_every=3", "optim.epochs=0.5")
    log = MetricsLog(config.run.dir)
    log.write("train", 6, loss=2.0)
    with pytest.raises(
        ValueError, match=r"already holds metrics.jsonl of a run without a checkpoint: --requeue"
    ):
        Trainer(config)
    assert Trainer(config, requeue=True).step == 0
    assert "holds a run of 6 steps without a checkpoint: it begins again" in capsys.readouterr().err
    log.write("train", 7, loss=2.0)
    log.close()
    with pytest.raises(
        ValueError, match=r"no checkpoint, but metrics of 7 steps with a checkpoint every 3: put"
    ):
        Trainer(config, requeue=True)
    assert len(read_metrics(config.run.dir)) == 2
    before = make_config("run.checkpoint_every=4")
    write_text(config.run.dir / "config.yaml", recipe_text(before))  # what counts is what the run had
    assert Trainer(config, requeue=True).step == 0


@pytest.mark.parametrize("how", ["written", "with comments", "with extends"])
def test_a_recipe_in_the_place_of_the_runs_settings_is_not_replaced(make_config, how):
    config = make_config()
    path = config.run.dir / "config.yaml"
    text = {
        "written": "run: {checkpoint_every: 4}\n",
        "with comments": f"# mine\n{recipe_text(config)}",
        "with extends": f"extends: kinetics400\n# mine\n{recipe_text(config)}",
    }[how]
    write_text(path, text)
    for options in ({}, {"requeue": True}, {"resume": True}):
        with pytest.raises(
            InputError, match=r"config.yaml was written or changed by hand.*rename it, as to recipe"
        ):
            Trainer(config, **options)
    assert path.read_text() == text
    path.rename(path.with_name("recipe.yaml"))
    assert Trainer(config, requeue=True).step == 0


@pytest.mark.slow
def test_a_run_goes_on_from_its_own_settings(make_config):
    """`corrnet train RUN/config.yaml --resume`, which writes the same file again."""
    config = make_config("optim.epochs=0.5", model="r2d_tiny")
    Trainer(config).run()
    path = config.run.dir / "config.yaml"
    written = path.read_bytes()
    assert Trainer(load_config(path), resume=True).run().finished
    assert path.read_bytes() == written
    changed = load_config(path, ["run.log_every=7"])
    assert Trainer(changed, requeue=True).run().finished
    assert load_config(path).run.log_every == 7


def test_nothing_to_resume_is_an_error(make_config):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Trainer(make_config(), resume=True)


def test_a_run_does_not_go_on_with_its_classes_in_another_order(make_config):
    config = make_config("optim.epochs=0.25")
    path = Trainer(config).run().checkpoint
    saved = Checkpoint.load(path)
    first, second, *others = saved.classes
    dataclasses.replace(saved, classes=(second, first, *others)).save(path)
    with pytest.raises(ValueError, match="has other classes than this run, or in another order"):
        Trainer(config, resume=True)


def test_resuming_with_another_model_says_what_differs(make_config):
    Trainer(make_config("optim.epochs=0.25")).run()
    with pytest.raises(
        CheckpointError, match=r"model.name: 'r2plus1d_tiny' in the checkpoint, 'r2d_tiny' now"
    ):
        Trainer(make_config("optim.epochs=0.25", model="r2d_tiny"), resume=True)


def test_without_a_split_to_evaluate_a_run_trains_alike_and_measures_nothing(make_config):
    plain = Trainer(make_config("optim.epochs=0.5", model="r2d_tiny"))
    plain.run()
    config = make_config("optim.epochs=0.5", "data.eval_split=none", name="without", model="r2d_tiny")
    assert config.data.eval_split is make_config("data.eval_split=null").data.eval_split is None
    without = Trainer(config)
    assert without.run().finished
    assert weights_hash(without.model) == weights_hash(plain.model)
    assert {line["kind"] for line in read_metrics(config.run.dir)} == {"train"}
    assert [path.name for path in checkpoint_names(config.run.dir / "checkpoints")] == ["last.pt"]
    again = Trainer(config, resume=True)
    assert again.run().finished and again.step == without.step
    with pytest.raises(ValueError, match=r"eval.precise_bn=8 is for the evaluations while training"):
        make_config("data.eval_split=none", "eval.precise_bn=8")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_split=training", "no split 'training'.*train"),
        (
            "data.eval_split=holdout",
            r"no split 'holdout' .*it has train, val, test.*--val-fraction 0.2.*data.eval_split=none",
        ),
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


@pytest.mark.parametrize("damage", ['{"kind": "train", "st', "7", '{"kind": "train", "step": "1"}', "\0\0"])
def test_a_damaged_line_of_metrics_is_named_before_the_file_is_touched(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    line = '{"kind": "train", "step": 1, "loss": 2.0}\n'
    path.write_text(line + damage + "\n" + line)
    with pytest.raises(InputError, match=r"line 2 of .*metrics.jsonl is damaged .*: remove that line"):
        MetricsLog(tmp_path, step=1)
    assert path.read_text() == line + damage + "\n" + line


def test_damaged_metrics_stop_before_any_work(make_config):
    config = make_config()
    config.run.dir.mkdir()
    (config.run.dir / "metrics.jsonl").write_text('{"kind": "train"\n')
    with pytest.raises(InputError, match=r"line 1 of .*metrics.jsonl is damaged"):
        Trainer(config, requeue=True)


@pytest.mark.slow
def test_ctrl_c_on_the_command_saves_and_says_how_to_resume(motionbench, forks, tmp_path):
    process = forks(
        "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}", "run.log_every=1",
        "data.num_workers=1", "optim.batch_size=8", "optim.epochs=100", "eval.every_epochs=0", "model.name=r2d_tiny",
        "model.options={dropout: 0.5}", "data.clip.num_frames=4", "data.clip.crop_size=16", "eval.num_clips=1",
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's worker too
    code, errors = process.wait(timeout=60), process.errors
    assert code == 130, errors
    assert errors.rstrip().endswith(f"continue with: corrnet resume {tmp_path / 'run'}")
    assert "Traceback" not in errors
    step = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt").step
    assert 3 <= step < 400


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
