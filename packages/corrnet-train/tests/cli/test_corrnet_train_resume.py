"""`corrnet resume`: a run goes on from nothing but its folder."""

import os
import shutil
import signal

import pytest
import torch
from typer.testing import CliRunner

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.cli import app
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.optim import learning_rate
from corrnet_train.training.trainer import Trainer

SMALL = (
    "optim.epochs=1", "eval.every_epochs=0", "optim.warmup_epochs=0.5",  # 4 steps, 2 of them warm-up
    "data.clip.num_frames=4", "data.clip.crop_size=16",
)  # fmt: skip


def corrnet(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    return result.stderr


def stopped(config, step, monkeypatch):
    """Trains to a step, at which Ctrl-C comes."""

    def stops(trainer, *args):
        if trainer.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(trainer, *args)

    take_step = Trainer._train_step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stops)
        assert Trainer(config, extend=True, requeue=True).run().step == step


def weights(folder):
    return Checkpoint.load(folder / "checkpoints" / "last.pt").model


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_run_goes_on_to_the_bit_after_it_and_its_shards_were_moved(
    make_config, motionbench, tmp_path, monkeypatch
):
    straight = make_config(*SMALL, name="straight", model="r2d_tiny")
    Trainer(straight).run()
    shards = shutil.copytree(motionbench[1], tmp_path / "shards")
    config = make_config(*SMALL, f"data.shards={shards}", model="r2d_tiny")
    stopped(config, 2, monkeypatch)
    moved, new_shards = tmp_path / "my [new] place", tmp_path / "other shards"
    config.run.dir.rename(moved)
    shards.rename(new_shards)
    told = corrnet("resume", moved, code=2)
    assert (
        f"{shards}, the shards of {moved}, is not there" in told
        and "corrnet resume RUN --shards FOLDER" in told
    )
    assert f"done: {moved}/checkpoints/last.pt" in corrnet("resume", moved, "--shards", new_shards)
    assert_same_weights(moved, straight.run.dir)
    assert [line["step"] for line in read_metrics(moved)] == [1, 2, 3, 4, 4]
    assert "the run has all of its 4 steps" in corrnet(
        "resume", moved
    )  # the new place of the shards is known


@pytest.mark.slow
def test_more_epochs_follow_the_cosine_to_the_new_end(make_config, tmp_path, monkeypatch):
    config = make_config(*SMALL, model="r2d_tiny")
    Trainer(config).run()
    copy = shutil.copytree(config.run.dir, tmp_path / "copy", symlinks=True)
    told = corrnet("resume", config.run.dir)
    assert f"to train it longer: corrnet resume {config.run.dir} optim.epochs=..." in told
    told = corrnet("resume", config.run.dir, "optim.epochs=2")
    rates = [
        learning_rate(step, peak=config.optim.lr, num_steps=8, num_warmup_steps=2) for step in range(4, 8)
    ]
    assert (
        "optim.epochs is 2, before 1: from step 4 on the learning rate follows the cosine that ends at step 8, "
        f"from {rates[0]:.3g}"
    ) in told
    assert f"measure it: corrnet eval {config.run.dir}" in told
    lines = read_metrics(config.run.dir)
    assert [line["lr"] for line in lines if line["kind"] == "train"][4:] == pytest.approx(rates)
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [4, 8]

    longer = make_config(*SMALL[1:], "optim.epochs=2", name="copy", model="r2d_tiny")
    stopped(longer, 6, monkeypatch)
    corrnet("resume", copy)
    assert_same_weights(copy, config.run.dir)


def test_what_would_change_what_is_learned_is_refused(make_config):
    config = make_config(*SMALL, model="r2d_tiny")
    Trainer(config).run()
    assert "optim.epochs: 1.0 in the checkpoint, 0.5 now" in corrnet(
        "resume", config.run.dir, "optim.epochs=0.5", code=2
    )
    assert "optim.lr: 0.002 in the checkpoint, 0.1 now" in corrnet(
        "resume", config.run.dir, "optim.lr=0.1", "optim.epochs=2", code=2
    )
    assert "leave it out" in corrnet("resume", config.run.dir, "run.dir=elsewhere", code=2)
    assert "data.shards is given twice" in corrnet(
        "resume", config.run.dir, "data.shards=a", "--shards", "b", code=2
    )
    with pytest.raises(ValueError, match="corrnet resume trains for more epochs"):
        Trainer(
            config.model_copy(update={"optim": config.optim.model_copy(update={"epochs": 2})}), resume=True
        )


def test_settings_that_do_not_change_it_may_change(make_config, monkeypatch):
    config = make_config(*SMALL, model="r2d_tiny")
    stopped(config, 1, monkeypatch)
    corrnet("resume", config.run.dir, "run.log_every=4")
    assert [line["step"] for line in read_metrics(config.run.dir) if line["kind"] == "train"] == [1, 4]


def test_the_settings_are_in_the_checkpoint_too(make_config, monkeypatch):
    config = make_config(*SMALL, model="r2d_tiny")
    stopped(config, 1, monkeypatch)
    with (config.run.dir / "config.yaml").open("a") as file:
        file.write("# more epochs next time\n")
    assert "changed by hand" in (told := corrnet("resume", config.run.dir, code=2)) and "remove it" in told
    (config.run.dir / "config.yaml").unlink()
    assert "done: " in corrnet("resume", config.run.dir)


def test_a_run_without_a_checkpoint_begins_again(make_config, monkeypatch):
    config = make_config(*SMALL, model="r2d_tiny")
    stopped(config, 1, monkeypatch)
    shutil.rmtree(config.run.dir / "checkpoints")
    assert f"{config.run.dir} holds a run of 1 steps without a checkpoint" in corrnet(
        "resume", config.run.dir
    )


def test_another_folder_is_refused(tmp_path):
    assert "is not the folder of a run: it holds neither" in corrnet("resume", tmp_path, code=2)
    assert "is not the folder of a run: it holds neither" in corrnet("resume", tmp_path / "no", code=2)
