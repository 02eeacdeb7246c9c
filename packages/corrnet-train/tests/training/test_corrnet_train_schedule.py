"""The steps after which a run logs, evaluates and saves, and its rates."""

import io

import pytest
import torch
from rich.console import Console

from corrnet_train.config.load import load_config
from corrnet_train.training.run_log import RunLog
from corrnet_train.training.schedule import Schedule

FIXED = ("optim.batch_size=32", "optim.epochs=4", "optim.warmup_epochs=1")


def make_schedule(*overrides, num_samples=100):
    """Of 4 epochs of 3.125 steps each, unless told otherwise."""
    return Schedule(load_config("motionbench", [*FIXED, *overrides]), num_samples)


def steps(due, num_steps):
    return [done for done in range(1, num_steps + 1) if due(done)]


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [4, 7, 10, 13]), (0.5, [2, 4, 5, 7, 8, 10, 11, 13]), (3, [10, 13]), (0, [13])]
)
def test_an_evaluation_follows_the_step_that_ends_a_period(every, expected):
    """Epochs end within steps here: after 3.125, 6.25, 9.375 and 12.5 of them."""
    schedule = make_schedule(f"eval.every_epochs={every}")
    assert schedule.num_steps == 13
    assert steps(schedule.evaluates, 13) == expected


def test_checkpoints_that_are_kept_are_saved_whatever_the_others_are():
    schedule = make_schedule("optim.epochs=30", "run.checkpoint_every=30", "train.keep_every=20")
    assert schedule.num_steps == 94
    assert steps(schedule.saves, 94) == [20, 30, 40, 60, 80, 90]
    assert steps(schedule.keeps, 94) == [20, 40, 60, 80]
    plain = make_schedule("optim.epochs=30", "run.checkpoint_every=30")
    assert steps(plain.saves, 94) == [30, 60, 90] and steps(plain.keeps, 94) == []


def test_log_lines_come_at_equal_distances_and_at_the_end():
    schedule = make_schedule("run.log_every=5")
    assert steps(schedule.logs, 13) == [5, 10, 13]


@pytest.mark.parametrize(
    ("every", "seconds", "told"),
    [
        (
            10,
            15.0,
            "step 2/13 took 15 s: about 0:02:45 are left, without evaluation; figures follow every 10 steps",
        ),
        (10, 1.0, ""),
        (2, 15.0, ""),
    ],
)
def test_how_long_a_run_may_take_is_told_where_figures_are_far(every, seconds, told, tmp_path):
    config = load_config("motionbench", [f"run.log_every={every}", f"run.dir={tmp_path}", *FIXED])
    output = io.StringIO()
    log = RunLog(
        config,
        Schedule(config, 100),
        console=Console(file=output),
        device=torch.device("cpu"),
        step=0,
        evaluation_due=False,
        writes=False,
    )
    log.estimate(2, seconds)
    assert output.getvalue().strip() == told


def test_epochs_and_rates_follow_the_step():
    schedule = make_schedule("optim.lr=0.3", "optim.lr_batch_size=16")
    assert schedule.num_warmup_steps == 3
    assert [schedule.rate(step) for step in (0, 2, 3, 8)] == pytest.approx([0.2, 0.6, 0.6, 0.3])
    assert [schedule.epoch(done) for done in (0, 5, 13)] == pytest.approx([0, 1.6, 4.16])
