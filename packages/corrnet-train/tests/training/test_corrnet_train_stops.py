"""Signals, deaths of workers and of torchrun: nothing is lost, and what goes on ends with the same bits."""

import math
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.evaluation import evaluate as evaluate_module
from corrnet_train.training import trainer as trainer_module
from corrnet_train.training.metrics_log import MetricsLog, read_metrics
from corrnet_train.training.trainer import Trainer
from video_data import WorkError

MEASURED = {"clips_per_second", "data_wait", "checkpoint_stall", "mfu", "memory_gib"}
SMALL = ["data.clip.num_frames=4", "data.clip.crop_size=16"]
EVALUATED = [
    *SMALL,
    "eval.every_epochs=0.5",
    "eval.batch_size=2",
    "eval.precise_bn=16",
    "model.options.dropout=0.5",
]


def assert_same_end(one, other):
    """Two finished runs have the same bits and figures."""
    ends = [Checkpoint.load(run / "checkpoints" / "last.pt") for run in (one, other)]
    assert ends[0].step == ends[1].step and ends[0].best_score == ends[1].best_score
    assert not ends[0].evaluation_due and not ends[1].evaluation_due
    for name, value in ends[0].model.items():
        assert torch.equal(value, ends[1].model[name]), name
    assert all(
        torch.equal(*pair) for pair in zip(*([r["cpu"] for r in end.rng] for end in ends), strict=True)
    )
    lines = [
        [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(run)]
        for run in (one, other)
    ]
    assert lines[0] == lines[1]
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def straight(configured, tmp_path_factory):
    config = configured(tmp_path_factory.mktemp("straight"), *EVALUATED, model="r2d_tiny")
    assert Trainer(config).run().finished
    return config.run.dir


def signal_on_call(monkeypatch, module, name, number):
    """The process gets SIGTERM in the call of a function with that number."""
    function, calls = getattr(module, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize(
    ("module", "name", "number", "step"),
    [
        (evaluate_module, "_evaluate_batch", 1, 2),  # of four
        (evaluate_module, "_evaluate_batch", 10, 6),  # the last evaluation of the run
        (trainer_module, "normalize", 1, 2),  # precise BN: two batches of eight clips
        (trainer_module, "copy_buffers", 2, 4),
    ],
)
def test_a_run_stops_inside_an_evaluation_and_makes_it_again(
    make_config, straight, monkeypatch, module, name, number, step
):
    config = make_config(*EVALUATED, model="r2d_tiny")
    with monkeypatch.context() as patch:
        signal_on_call(patch, module, name, number)
        stopped = Trainer(config).run()
    assert (stopped.finished, stopped.step) == (False, step)
    assert Checkpoint.load(stopped.checkpoint).evaluation_due
    assert [line["step"] for line in read_metrics(config.run.dir) if line["kind"] == "eval"] == list(
        range(2, step, 2)
    )
    assert Trainer(config, resume=True).run().finished
    assert_same_end(straight, config.run.dir)


def test_a_kill_between_an_evaluation_and_its_checkpoint_repeats_the_evaluation_alone(
    make_config, straight, monkeypatch
):
    config = make_config(*EVALUATED, model="r2d_tiny")
    with monkeypatch.context() as patch:
        save = Trainer.save

        def killed_after_the_evaluation(self, *paths):
            if self.step == 4 and not self.evaluation_due:
                raise KeyboardInterrupt
            save(self, *paths)

        patch.setattr(Trainer, "save", killed_after_the_evaluation)
        with pytest.raises(KeyboardInterrupt):
            Trainer(config).run()
    assert [line["step"] for line in read_metrics(config.run.dir) if line["kind"] == "eval"] == [2, 4]
    assert Trainer(config, resume=True).run().finished
    assert_same_end(straight, config.run.dir)


class KillsWorkers(Trainer):
    """Its loader loses its worker in the third step, after the first micro-batch of several."""

    def _train_step(self, batches, stop):
        return super()._train_step(self._killing(batches) if self.step == 2 else batches, stop)

    def _killing(self, batches):
        if self.num_micro_batches > 1:
            yield next(batches)
        (worker,) = self._loader._loader._workers.processes
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        yield from batches


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [8, 2])
def test_a_run_whose_workers_die_is_saved_and_goes_on_to_the_same_bits(make_config, micro_batch, caplog):
    """In the middle of a step, of which a micro-batch lacks, the main process makes it."""
    options = [*EVALUATED, f"train.micro_batch={micro_batch}"]
    straight = make_config(*options, name="straight", model="r2d_tiny")
    assert Trainer(straight).run().finished
    config = make_config(*options, "data.num_workers=1", model="r2d_tiny")
    with pytest.raises(
        WorkError, match=r"died \(SIGKILL; out of memory.*saved after step \d; corrnet resume"
    ) as found:
        KillsWorkers(config).run()
    assert ("is finished without workers" in caplog.text) == (micro_batch == 2)
    step = Checkpoint.load(config.run.dir / "checkpoints" / "last.pt").step
    assert f"saved after step {step};" in str(found.value) and 2 <= step < 6
    assert Trainer(config, resume=True).run().finished
    assert_same_end(straight.run.dir, config.run.dir)


def wait_until(happened, seconds=120):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom", "world_size"),
    [
        (signal.SIGTERM, "group", 1),
        (signal.SIGTERM, "agent", 2),
        (signal.SIGKILL, "agent", 2),
    ],
)
def test_a_signal_to_a_run_with_workers_ends_all_of_it_after_a_checkpoint(
    motionbench, forks, tmp_path, number, whom, world_size
):
    """To a process group as timeout sends it, to torch's agent, which is torchrun and may be killed.

    The test of the SLURM job sends one to all processes, as scancel does.
    """
    process = forks(
        "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}", "run.log_every=1",
        "data.num_workers=2", "optim.batch_size=8", "run.device=cpu", "optim.epochs=200", "eval.every_epochs=0",
        "model.name=r2d_tiny", "run.checkpoint_every=100000", *SMALL, processes=0 if whom == "group" else world_size,
    )  # fmt: skip
    try:
        wait_until(lambda: len(read_metrics(tmp_path / "run")) >= 3)
        assert len(process.members()) >= world_size * 5, (
            "each rank has two workers, their server, and a tracker"
        )
        (os.killpg if whom == "group" else os.kill)(process.pid, number)
        code = process.wait(timeout=60)
        wait_until(lambda: not process.members(), 60)
    finally:
        for pid in process.members():
            os.kill(pid, signal.SIGKILL)
    text = process.errors
    assert "Traceback" not in text or whom == "agent", text
    assert code == (130 if whom == "group" else -signal.SIGKILL if number == signal.SIGKILL else 1), text
    saved = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert saved.step >= 3 and read_metrics(tmp_path / "run")[-1]["step"] == saved.step
    assert len(saved.rng) == world_size


@pytest.mark.slow
@pytest.mark.parametrize(("lost_by", "what"), [("death", "died"), ("hang", "gave no batch for")])
def test_a_run_of_several_is_saved_when_a_worker_of_one_dies_or_hangs(
    motionbench, forks, tmp_path, lost_by, what
):
    train = [
        "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}", "run.log_every=1",
        "data.num_workers=1", "optim.batch_size=8", "run.device=cpu", "optim.epochs=200", "eval.every_epochs=0",
        "model.name=r2d_tiny", "run.checkpoint_every=100000", "train.timeout=30", *SMALL,
    ]  # fmt: skip
    script = Path(__file__).parents[1] / "distributed" / "ranks" / "lost_worker.py"
    ended = forks(*train, script=script, processes=2, LOST_BY=lost_by)
    assert ended.wait() == 1, ended.errors
    told = re.findall(
        rf"error: .*{what}.* The run is saved after step (\d+)", ended.errors.replace("\n", " ")
    )
    assert told, ended.errors
    step = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt").step
    assert told == [str(step)] and step >= 3
    wait_until(lambda: not ended.members(), 30)


def test_a_repeated_evaluation_is_once_in_tensorboard(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 4, loss=2.0, grad_norm=math.inf)
    log.write("eval", 4, video_top1=0.25)
    log.write("train", 5, loss=1.0)
    log.close()
    log = MetricsLog(tmp_path, step=4, evaluation_due=True)
    log.write("eval", 4, video_top1=0.5)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/video_top1")] == [(4, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(4, 2.0)]
