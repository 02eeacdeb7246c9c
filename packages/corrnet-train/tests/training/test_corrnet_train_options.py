"""Options of training, as a whole run sees them."""

import io
import shutil
from dataclasses import replace

import pytest
import torch
import wandb
from rich.console import Console
from torch import nn

from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.distributed.ranks import ONE_RANK
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.training import trainer as trainer_module
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.mfu import peak_flops, training_flops
from corrnet_train.training.optim import AveragedModel
from corrnet_train.training.precise_bn import estimate_statistics
from corrnet_train.training.trainer import Trainer
from video_data import open_shards, pack_csv

EVERYTHING = [
    "augment.mixup=0.8",
    "augment.cutmix=1.0",
    "augment.rand_augment=5",
    "augment.label_smoothing=0.1",
    "augment.repeats=2",
    "optim.layer_decay=0.7",
    "optim.ema_decay=0.6",
    "eval.precise_bn=16",
    "eval.every_epochs=0.5",
    "model.options.dropout=0.2",
    "optim.class_weights=balanced",
    "optim.epochs=0.75",
]


class StopsAfterTwo(Trainer):
    """A trainer that is asked to stop in its second step."""

    def _train_step(self, batches, stop):
        return super()._train_step(batches, stop or self.step == 1)


@pytest.mark.slow
def test_a_run_with_every_option_goes_on_to_the_bit(make_config):
    straight = Trainer(make_config(*EVERYTHING, name="straight", model="corrnet_tiny")).run()
    config = make_config(*EVERYTHING, name="stopped", model="corrnet_tiny")
    stopped = StopsAfterTwo(config).run()
    assert (stopped.finished, stopped.step) == (False, 2)
    resumed = Trainer(config, resume=True).run()
    ours, theirs = Checkpoint.load(straight.checkpoint), Checkpoint.load(resumed.checkpoint)
    assert ours.ema.keys() == theirs.ema.keys() and ours.ema
    for name, tensor in [*ours.model.items(), *ours.ema.items()]:
        other = theirs.model.get(name, theirs.ema.get(name))
        assert torch.equal(tensor, other), name


@pytest.fixture(scope="module")
def unequal(motionbench, tmp_path_factory):
    """Shards of ten videos to the left and two to the right."""
    folder = tmp_path_factory.mktemp("unequal")
    videos = sorted((motionbench[0] / "videos" / "train").glob("*/*.mp4"))
    rows = [f"{path},{'left' if number < 10 else 'right'}" for number, path in enumerate(videos[:12])]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]))
    pack_csv(folder / "list.csv", folder / "shards", progress=False)
    return folder / "shards"


def test_classes_of_unequal_size_are_told_and_can_be_made_to_count_alike(unequal, make_config):
    losses, told = {}, {}
    for option in ("run.log_every=1", "optim.class_weights=balanced", "data.sampling=balanced"):
        config = make_config(f"data.shards={unequal}", "data.eval_split=none", option, name=option)
        console = Console(file=io.StringIO(), width=200)
        trainer = Trainer(config, console=console)
        told[option] = "from 2 videos (right) to 10 (left)" in console.file.getvalue()
        if option == "data.sampling=balanced":
            batch = next(iter(trainer.loader(num_samples=8)))
            assert batch.label.sum() == 4
        trainer.run()
        losses[option] = read_metrics(config.run.dir)[0]["loss"]
    with pytest.raises(ValueError, match="together they would count too much: give one of them"):
        make_config("optim.class_weights=balanced", "data.sampling=balanced")
    assert list(told.values()) == [True, False, False]
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("num_stages", [1, 3, 5])
def test_frozen_stages_keep_their_weights_and_statistics_to_the_bit(num_stages, make_config, model_folder):
    options = [
        f"model.init_from={model_folder}",
        f"model.frozen_stages={num_stages}",
        "optim.weight_decay=0.1",
    ]
    options += [
        "optim.ema_decay=0.5",
        "eval.precise_bn=8",
        "train.grad_checkpointing=true",
        "optim.epochs=0.5",
    ]
    config = make_config(*options, model="corrnet_tiny")
    console = Console(file=io.StringIO(), width=200)
    trainer = Trainer(config, console=console)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    frozen = tuple(f"backbone.{name}." for name in ("stem", "res2", "res3", "res4", "res5")[:num_stages])
    learns = sum(
        value.numel() for name, value in trainer.model.named_parameters() if not name.startswith(frozen)
    )
    assert f"{learns / 1e6:.2f} of" in console.file.getvalue()
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert all((id(p) in held) != name.startswith(frozen) for name, p in trainer.model.named_parameters())
    assert trainer.run().finished
    after = trainer.model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(frozen) for name in changed)
    assert {name for name, _ in trainer.model.named_parameters() if not name.startswith(frozen)} <= changed
    averaged = trainer.classifier.model.state_dict()
    assert all(torch.equal(averaged[name], before[name]) for name in averaged if name.startswith(frozen))


def test_frozen_stages_need_weights(make_config):
    with pytest.raises(ValueError, match=r"weights that nobody has trained: give model.init_from"):
        make_config("model.frozen_stages=1")


@pytest.fixture
def steady(monkeypatch):
    """Every evaluation but the first finds an accuracy of one half."""
    results = iter([0.25, *[0.5] * 20])
    real = trainer_module.evaluate

    def evaluate(*args, **options):
        result = real(*args, **options)
        return replace(result, video=replace(result.video, top1=next(results)))

    monkeypatch.setattr(trainer_module, "evaluate", evaluate)


def test_training_ends_early_when_accuracy_stays_and_can_go_on(steady, make_config):
    every_step = ("optim.batch_size=4", "optim.epochs=1.5", "eval.every_epochs=0.125", "eval.num_clips=1")
    config = make_config(*every_step, "eval.patience=2", model="r2d_tiny")
    console = Console(file=io.StringIO(), width=300)
    result = Trainer(config, console=console).run()
    assert result.finished and result.step == 4  # evaluations after each step: 0.25, 0.5, 0.5, 0.5
    told = (
        "2 evaluations brought no better score than 0.500: the run ends after step 4 of 12 (eval.patience=2)"
    )
    assert told in console.file.getvalue() and "eval.patience=null" in console.file.getvalue()
    again = Trainer(config, resume=True).run()
    assert again.finished and again.step == 4  # a queue that starts it again trains no further
    patient = make_config(*every_step, "eval.patience=4", model="r2d_tiny")
    assert Trainer(patient, resume=True).run().step == 6  # the two evaluations before count
    endless = make_config(*every_step, model="r2d_tiny")
    assert Trainer(endless, resume=True).run().step == 12


def test_patience_needs_evaluations(make_config):
    for option in ("data.eval_split=none", "eval.every_epochs=0"):
        with pytest.raises(ValueError, match=r"eval.patience=3 ends training by the evaluations on its way"):
            make_config("eval.patience=3", option)


def test_a_checkpoint_of_a_version_that_did_not_know_a_setting_goes_on_with_its_default(make_config):
    config = make_config("optim.epochs=0.5")
    last = Trainer(config).run().checkpoint
    checkpoint = Checkpoint.load(last)
    for section, name in (("data", "sampling"), ("model", "frozen_stages"), ("optim", "class_weights")):
        del checkpoint.config[section][name]
    checkpoint.save(last)
    assert Trainer(config, resume=True).run().finished
    with pytest.raises(CheckpointError, match=r"data.sampling: 'uniform' in the checkpoint, 'balanced' now"):
        Trainer(make_config("optim.epochs=0.5", "data.sampling=balanced"), resume=True)


def test_averaged_weights_are_those_that_are_evaluated_and_used(make_config):
    """They lie between the weights that the run went through, and the last evaluation of it took them."""
    trainer, seen, evaluated = Trainer(make_config("optim.ema_decay=0.9")), [], []
    last = dict(trainer.model.named_parameters())
    trainer.model.register_forward_pre_hook(
        lambda model, _: seen.append({name: value.detach().clone() for name, value in last.items()})
    )
    trainer.classifier.model.register_forward_pre_hook(
        lambda model, _: evaluated.append({k: v.clone() for k, v in model.state_dict().items()})
    )
    result = trainer.run()
    checkpoint = Checkpoint.load(result.checkpoint)
    averaged = {name.removeprefix("module."): value for name, value in checkpoint.ema.items()}
    assert all(torch.equal(evaluated[-1][name], tensor) for name, tensor in checkpoint.weights.items())
    for name, value in last.items():
        path = torch.stack([*(weights[name] for weights in seen[1:]), value.detach()])  # after each update
        average = checkpoint.weights[name]
        assert (average >= path.amin(0) - 1e-6).all() and (average <= path.amax(0) + 1e-6).all(), name
    used = VideoClassifier.from_checkpoint(result.checkpoint, device="cpu").model.state_dict()
    assert checkpoint.weights.keys() == checkpoint.model.keys()
    assert all(torch.equal(used[name], averaged[name]) for name in checkpoint.weights)
    assert any(not torch.equal(used[name], tensor) for name, tensor in checkpoint.model.items())


@pytest.mark.slow
def test_the_usual_decay_gives_weights_that_are_trained_in_a_run_of_a_few_steps(make_config):
    """0.9999 alone would leave the weights of the first step, and a loss at that of guessing, ln 8 = 2.08."""
    videos = ("data.train_split=val", "optim.batch_size=4")  # 8 of them, which are learned in a few steps
    options = ("optim.epochs=40", "optim.ema_decay=0.9999", "eval.every_epochs=20", "run.log_every=20")
    console = Console(file=io.StringIO(), width=200)
    result = Trainer(make_config(*videos, *options, model="r2d_tiny"), console=console).run()
    printed = console.file.getvalue()
    assert "step 40: val top-1 " in printed and "averaged over about the last 5 steps" in printed
    assert "averaged over about the last 10 steps" in printed  # of 80
    checkpoint = Checkpoint.load(result.checkpoint)
    accuracies = []
    for path, ema in (("averaged.pt", checkpoint.ema), ("raw.pt", {})):
        Checkpoint(**{**vars(checkpoint), "ema": ema}).save(result.checkpoint.with_name(path))
        classifier = VideoClassifier.from_checkpoint(result.checkpoint.with_name(path), device="cpu")
        found = evaluate(classifier, checkpoint.config["data"]["shards"], "val", num_clips=1)
        accuracies.append(found.video_top1)
    assert accuracies[1] > 0.3 and accuracies[0] > accuracies[1] - 0.1


def test_statistics_follow_the_run_after_they_were_estimated():
    """The average and the model keep their tensors when precise batch norm writes into one of them."""
    model = nn.Sequential(nn.BatchNorm3d(3))
    averaged = AveragedModel(model, 0.5)
    averaged.update()
    clips = torch.randn(4, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5
    estimate_statistics(averaged.module, [clips], 1, ONE_RANK)
    estimated = clips.mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(averaged.module[0].running_mean, estimated)
    model[0].running_mean.fill_(1.0)
    averaged.update()
    torch.testing.assert_close(averaged.module[0].running_mean, 0.1 * estimated + 0.9)


def test_precise_bn_gives_the_statistics_of_the_clips(make_config):
    loose, precise = (
        Trainer(make_config(f"eval.precise_bn={clips}", "optim.epochs=0.25", name=f"bn{clips}")).run()
        for clips in (0, 32)
    )
    first, second = (Checkpoint.load(result.checkpoint).model for result in (loose, precise))
    for name, tensor in first.items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(tensor, second[name]) != statistic, name
    # One step moves a statistic by a tenth from (0, 1) to that of its batch: the estimate is far beyond.
    name = next(name for name in first if name.endswith("stem.bn.running_var"))
    assert (second[name] - 1).abs().max() > 3 * (first[name] - 1).abs().max()


def test_repeated_augmentation_holds_each_video_twice_in_a_batch(make_config):
    trainer = Trainer(make_config("augment.repeats=2"))
    batches = list(trainer.loader(num_samples=64))
    keys = [key for batch in batches for key in batch.keys]
    assert keys[::2] == keys[1::2]
    assert len(set(keys)) == 32  # 64 clips are one pass over 32 videos
    videos = torch.cat([batch.video for batch in batches])
    assert sum(not torch.equal(a, b) for a, b in zip(videos[::2], videos[1::2], strict=True)) > 24


def test_a_log_line_says_how_well_the_machine_is_used(make_config):
    config = make_config("optim.epochs=0.5")
    Trainer(config).run()
    lines = [line for line in read_metrics(config.run.dir) if line["kind"] == "train"]
    assert lines
    for line in lines:
        assert "mfu" not in line  # a CPU has no figure of a data sheet
        assert 0.1 < line["memory_gib"] < 100
        assert {"clips_per_second", "data_wait", "grad_norm", "checkpoint_stall", "lr"} <= line.keys()


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-SXM4-80GB", "fp32", 156),  # TF32, with which torch computes convolutions
        ("NVIDIA H100 80GB HBM3", "fp16", 989),
        ("NVIDIA H100 PCIe", "fp32", 378),
    ],
)
def test_mfu_compares_with_the_data_sheet_of_a_gpu(monkeypatch, name, precision, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), precision) == tflops * 1e12


def test_without_tf32_mfu_has_another_peak(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    assert peak_flops(torch.device("cuda"), "fp32") == 19.5e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 5090",
        "NVIDIA RTX A1000",
        "NVIDIA GH200 480GB",
    ],
)
def test_parts_of_a_gpu_and_unknown_ones_have_no_mfu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), "bf16") is None


def test_mfu_is_the_share_of_the_peak_of_all_devices(make_config, monkeypatch):
    config = make_config("optim.epochs=0.25", "run.log_every=1")
    trainer = Trainer(config)
    flops = training_flops(trainer.model, config.data.clip)
    monkeypatch.setattr(trainer_module, "peak_flops", lambda device, precision: 1e6 * flops)
    Trainer(config, console=(console := Console(file=io.StringIO()))).run()
    (line,) = [line for line in read_metrics(config.run.dir) if line["kind"] == "train"]
    assert line["mfu"] == pytest.approx(line["clips_per_second"] / 1e6)
    assert f"MFU {line['mfu']:.0%} " in console.file.getvalue()


def test_frozen_stages_have_no_mfu(make_config, model_folder, monkeypatch):
    monkeypatch.setattr(trainer_module, "peak_flops", lambda device, precision: 1e12)
    options = [f"model.init_from={model_folder}", "model.frozen_stages=5", "optim.epochs=0.25"]
    config = make_config(*options, model="corrnet_tiny")
    Trainer(config).run()
    assert all("mfu" not in line for line in read_metrics(config.run.dir))


@pytest.fixture(scope="module")
def pretrained(motionbench, tmp_path_factory):
    """The folder of a short run of corrnet_tiny with clips of 8 frames, with averaged weights."""
    from corrnet_train.config.load import load_config

    overrides = [
        f"data.shards={motionbench[1]}",
        f"run.dir={tmp_path_factory.mktemp('pretrained')}",
        "data.num_workers=0",
        "run.device=cpu",
        "optim.batch_size=8",
        "optim.epochs=0.5",
        "optim.ema_decay=0.5",
    ]
    return Trainer(load_config("motionbench", overrides)).run().checkpoint.parents[1]


def test_weights_to_start_from_are_loaded_for_another_clip_length(pretrained, make_config):
    source = Checkpoint.load(pretrained / "checkpoints" / "last.pt").weights
    config = make_config(f"model.init_from={pretrained}", "data.clip.num_frames=4", model="corrnet_tiny")
    model = Trainer(config).model.state_dict()
    changed = [name for name, tensor in model.items() if not torch.equal(tensor, source.get(name))]
    assert changed and all(
        "corr" in name and model[name].shape[0] * 2 == source[name].shape[0] for name in changed
    )


def test_a_new_head_starts_fresh_and_everything_else_is_loaded(pretrained, make_config):
    source = Checkpoint.load(pretrained / "checkpoints" / "last.pt").weights
    overrides = [f"model.init_from={pretrained}", "model.new_head=true", "data.clip.num_frames=8"]
    trainer = Trainer(make_config(*overrides, "run.seed=5", model="corrnet_tiny"))
    model = trainer.model.state_dict()
    assert {name for name, tensor in model.items() if not torch.equal(tensor, source[name])} == {
        "fc.weight",
        "fc.bias",
    }
    assert trainer.step == 0 and not trainer.optimizer.state  # unlike with --resume


def test_the_weights_to_start_from_are_not_needed_to_go_on(pretrained, make_config, tmp_path):
    source = shutil.copytree(pretrained, tmp_path / "source")
    config = make_config(f"model.init_from={source}", model="corrnet_tiny")
    trainer = Trainer(config)
    trainer.save(trainer.last_checkpoint)
    trainer.writer.wait()
    shutil.rmtree(source)
    assert Trainer(config, resume=True).step == 0


def test_other_weights_are_refused_before_any_work(pretrained, make_config, motionbench):
    start = f"model.init_from={pretrained}"
    with pytest.raises(CheckpointError, match=r"belongs to another model: missing: .*; unexpected: "):
        Trainer(make_config(start))  # R(2+1)D
    shards = open_shards(motionbench[1])
    checkpoint = pretrained / "checkpoints" / "last.pt"
    other = Checkpoint.load(checkpoint)
    renamed = [*shards.classes[:-1], "another"]
    changed = pretrained / "renamed.pt"
    Checkpoint(**{**vars(other), "classes": renamed}).save(changed)
    with pytest.raises(CheckpointError, match=r"tells apart 8 classes .*model.new_head=true"):
        Trainer(make_config(f"model.init_from={changed}", model="corrnet_tiny"))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Trainer(make_config("model.init_from=/nowhere", model="corrnet_tiny"))


@pytest.mark.slow
def test_weights_and_biases_gets_the_same_figures_and_one_run_for_its_continuation(make_config, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = make_config("optim.epochs=0.75", "run.wandb=motion")
    StopsAfterTwo(config).run()
    Trainer(config, resume=True).run()
    run_id = (config.run.dir / "wandb.id").read_text()
    records = sorted((config.run.dir / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(records) == 2
    for record in records:
        content = record.read_bytes()
        assert b"train/loss" in content and b"train/clips_per_second" in content


def test_weights_and_biases_that_does_not_start_is_bad_input(make_config, monkeypatch):
    def refuse(**settings):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        ValueError, match=r"^run.wandb=motion: .* No API key configured.*WANDB_MODE=offline keeps"
    ):
        Trainer(make_config("run.wandb=motion")).run()
