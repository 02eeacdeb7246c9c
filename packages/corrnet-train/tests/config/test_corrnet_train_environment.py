"""Settings from the environment."""

import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.config.environment import environment_overrides
from corrnet_train.config.load import load_config
from corrnet_train.config.recipes import ConfigError


def test_variables_are_settings_by_their_names():
    found = environment_overrides(
        {
            "CORRNET_OPTIM__LR": "0.05",
            "CORRNET_DATA__CLIP__FPS": "12.5",
            "CORRNET_MODEL__OPTIONS__DROPOUT": "0.3",
            "CORRNET_HOME": "/somewhere",
            "CORRNET_DATA": "/elsewhere",
            "OPTIM__LR": "7",
        }
    )
    assert list(found.values()) == ["data.clip.fps=12.5", "model.options.dropout=0.3", "optim.lr=0.05"]
    config = load_config("motionbench", [*found.values(), "optim.lr=0.01"])
    assert (config.optim.lr, config.data.clip.fps, config.model.options["dropout"]) == (0.01, 12.5, 0.3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CORRNET_OPTIM__LRR", r"CORRNET_OPTIM__LR \(optim.lr\)"),
        ("CORRNET_OPTIM_LR", r"CORRNET_OPTIM__LR \(optim.lr\)"),
        ("CORRNET_DATA__CLIP_FPS", r"CORRNET_DATA__CLIP__FPS \(data.clip.fps\)"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused(name, meant):
    with pytest.raises(ConfigError, match=f"has {name}, which is no setting: did you mean {meant}"):
        environment_overrides({name: "1"})


def test_the_command_takes_them_and_says_so(motionbench, tmp_path):
    command = [
        "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}", "data.num_workers=0",
        "model.name=r2plus1d_tiny", "run.device=cpu", "optim.batch_size=8",
    ]  # fmt: skip
    environ = {"CORRNET_OPTIM__EPOCHS": "0.25", "CORRNET_OPTIM__BATCH_SIZE": "4", "COLUMNS": "200"}
    result = CliRunner().invoke(app, command, env=environ)
    assert result.exit_code == 0, result.output
    assert "from the environment: CORRNET_OPTIM__BATCH_SIZE (optim.batch_size=4)" in result.output
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.optim.epochs, config.optim.batch_size) == (0.25, 8)
    resumed = CliRunner().invoke(
        app, ["resume", str(tmp_path / "run")], env={"CORRNET_OPTIM__EPOCHS": "0.5", "COLUMNS": "200"}
    )
    assert resumed.exit_code == 0 and "optim.epochs is 0.5, before 0.25" in resumed.output
    moved = tmp_path / "$moved"  # the command line wins, and a $ stands for itself
    moved.symlink_to(motionbench[1])
    command = ["resume", str(tmp_path / "run"), "--shards", str(moved), "optim.epochs=0.75"]
    resumed = CliRunner().invoke(app, command, env={"CORRNET_DATA__SHARDS": "/nowhere", "COLUMNS": "200"})
    assert resumed.exit_code == 0, resumed.output
    wrong = CliRunner().invoke(app, ["train", "motionbench", "--dry-run"], env={"CORRNET_RUN__SEEED": "1"})
    assert wrong.exit_code == 2 and "did you mean CORRNET_RUN__SEED" in wrong.output
