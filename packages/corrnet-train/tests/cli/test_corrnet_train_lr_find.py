"""`corrnet lr-find`: a range test that says where to begin, and changes nothing."""

import csv
import math

import pytest
from typer.testing import CliRunner

from corrnet_train import Trainer
from corrnet_train.cli import app
from corrnet_train.training.lr_finder import RateTrial, suggest_rate, try_rates


def trials_of(losses, *, lowest=1e-6, growth=1.2):
    found, mean = [], 0.0
    for step, loss in enumerate(losses):
        mean = 0.9 * mean + 0.1 * loss
        found.append(RateTrial(lowest * growth**step, loss, mean / (1 - 0.9 ** (step + 1))))
    return found


def noisy(step):
    return 0.02 * math.sin(7.1 * step)


def test_a_tenth_of_the_rate_of_the_smallest_loss_is_suggested():
    trials = trials_of(
        [2 - step / 40 + noisy(step) for step in range(60)] + [0.5 + step for step in range(8)]
    )
    smallest = min(trials, key=lambda trial: trial.smoothed)
    found = suggest_rate(trials)
    assert found.rate == smallest.rate / 10 and "smallest" in found.reason


def test_where_the_loss_never_falls_it_is_a_tenth_of_where_it_rises():
    trials = trials_of([2 + noisy(step) for step in range(60)] + [2 + 0.3 * step for step in range(12)])
    found = suggest_rate(trials)
    assert trials[60].rate < 10 * found.rate < trials[66].rate and "did not fall" in found.reason


def test_noise_alone_is_no_reason():
    assert suggest_rate(trials_of([2 + noisy(step) for step in range(80)])) is None
    assert suggest_rate(trials_of([2.0, 1.0, 0.5])) is None


def test_a_loss_that_is_no_number_counts_as_one_that_rises():
    trials = trials_of([2 + noisy(step) for step in range(30)] + [math.nan])
    assert suggest_rate(trials).rate == pytest.approx(trials[-1].rate / 10)


def test_rates_grow_to_the_last_one_and_the_test_ends_where_the_loss_diverges(make_config):
    settings = ["optim.name=sgd", "optim.clip_grad_norm=null", "optim.batch_size=4"]
    quiet = Trainer(make_config(*settings))
    trials = list(try_rates(quiet, lowest=1e-8, highest=1e-6, num_steps=12))
    assert [trial.rate for trial in trials] == pytest.approx([1e-8 * 100 ** (n / 11) for n in range(12)])
    assert not quiet.folder.exists()
    wild = Trainer(make_config(*settings))
    trials = list(try_rates(wild, lowest=1e-3, highest=1e6, num_steps=60))
    assert len(trials) < 60
    assert not trials[-1].smoothed <= 3 * min(trial.smoothed for trial in trials[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 0.0}, "rates must grow from above 0"),
        ({"lowest": 1.0, "highest": 1.0}, "rates must grow from above 0"),
        ({"highest": math.inf}, "rates must grow from above 0"),
        ({"num_steps": 10}, "num_steps must be more than 10"),
    ],
)
def test_wrong_ranges_are_refused(options, message, make_config):
    with pytest.raises(ValueError, match=message):
        next(try_rates(Trainer(make_config()), **options))


@pytest.fixture
def find(motionbench, tmp_path):
    def run(*arguments, code=0):
        settings = [f"data.shards={motionbench[1]}", "data.num_workers=0", f"run.dir={tmp_path / 'run'}"]
        settings += [
            "optim.batch_size=4",
            "optim.warmup_epochs=0",
            "run.device=cpu",
            "model.name=r2d_tiny",
            "data.clip.num_frames=4",
            "data.clip.crop_size=16",
        ]
        command = ["lr-find", "motionbench", *settings, *map(str, arguments)]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    return run


def test_the_suggestion_is_for_the_setting_as_the_recipe_has_it(find, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("a run that is there")
    scaled = ["optim.lr=0.1", "optim.lr_batch_size=8", "optim.name=sgd"]
    told = find(*scaled, "--lowest", 1e-4, "--highest", 100, "--steps", 20, "--output", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "rates.csv").open()))
    assert float(rows[0]["optim.lr"]) == pytest.approx(1e-4) and len(rows) <= 20
    assert (tmp_path / "out" / "rates.svg").read_text().lstrip().startswith(("<svg", "<?xml"))
    assert "corrnet train motionbench" in told and "in a step of 4 clips" in told
    rate = float(told.partition("suggested: optim.lr=")[2].split()[0])
    shown = float(told.partition(f"optim.lr={rate:g} (")[2].split()[0])
    assert shown == pytest.approx(rate / 2, rel=0.05)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert "exists" in find("--output", tmp_path / "out", code=2)


def test_ctrl_c_shows_what_there_is(find, monkeypatch):
    from corrnet_train.training import lr_finder

    def stopped(*arguments, **options):
        yield from trials_of([2 - step / 20 for step in range(30)])
        raise KeyboardInterrupt

    monkeypatch.setattr(lr_finder, "try_rates", stopped)
    assert "suggested: optim.lr=" in find(code=130)


def test_ctrl_c_after_a_few_steps_does_not_say_how_the_loss_goes(find, monkeypatch):
    from corrnet_train.training import lr_finder

    def stopped(*arguments, **options):
        yield from trials_of([2.0, 1.9])
        raise KeyboardInterrupt

    monkeypatch.setattr(lr_finder, "try_rates", stopped)
    told = find(code=130)
    assert "stopped after 2 of 100 steps" in told and "neither falls" not in told


def test_it_is_for_one_process(find, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert "corrnet lr-find is for one process" in find(code=2)


def test_a_loss_that_is_no_number_from_the_first_step_on_is_told(find, monkeypatch, tmp_path):
    from corrnet_train.training import lr_finder

    monkeypatch.setattr(lr_finder, "try_rates", lambda *arguments, **options: iter(trials_of([math.nan])))
    told = find("--output", tmp_path / "out")
    assert "the loss is no finite number in step 1: begin with a lower rate" in told
    assert not (tmp_path / "out").exists()


def test_a_folder_of_videos_has_no_recipe_yet(tmp_path):
    result = CliRunner().invoke(app, ["lr-find", str(tmp_path)], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert f"corrnet train {tmp_path} chooses one and writes it to config.yaml" in result.output
