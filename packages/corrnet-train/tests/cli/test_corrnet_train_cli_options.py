"""Options: the same meaning in every command, and those of the models' fields."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.cli.common import decoding_workers, workers
from corrnet_train.cli.menu import COMMANDS, load_command
from corrnet_train.config.schema import DataConfig, EvalConfig, RunSettings
from video_data import MotionBenchConfig, PackOptions
from video_data.utils.workers import available_cores

runner = CliRunner()
TWO_OF_A_PLACE = {"predict": "c v", "eval": "c s", "features": "c v -o f.npz"}


def all_commands():
    for commands in COMMANDS.values():
        for name in commands:
            command = load_command(name)
            for word, below in getattr(command, "commands", {"": command}).items():
                yield f"{name} {word}".strip(), below


ALL = dict(all_commands())
PACKS = [name for name in ALL if name.startswith("pack ")]


def option(command, name):
    return next((entry for entry in ALL[command].params if entry.name == name), None)


def limits(entry):
    place = getattr(entry, "type", entry)  # older versions of typer keep them there
    return getattr(place, "min", None), getattr(place, "max", None)


def having(flag):
    return {
        name: entry
        for name, command in ALL.items()
        for entry in command.params
        if flag in (*entry.opts, entry.name)
    }


@pytest.mark.parametrize(
    ("flag", "num_meanings"),
    [
        ("--num-workers", 2),
        ("--layer", 1),
        ("--overwrite", 1),
        ("--device", 1),
        ("--num-clips", 1),
        ("checkpoint", 2),  # where there are videos, it may be an option
    ],
)
def test_an_option_has_one_meaning(flag, num_meanings):
    found = having(flag)
    assert len(found) > 1
    meanings = {(entry.help, entry.default, entry.multiple, *limits(entry)) for entry in found.values()}
    assert len(meanings) == num_meanings, meanings


def test_the_checkpoint_is_the_first_argument():
    found = having("checkpoint")
    assert sorted(found) == ["eval", "export", "features", "predict", "visualize filters", "visualize motion"]
    for name, entry in found.items():
        arguments = [parameter for parameter in ALL[name].params if parameter.param_type_name == "argument"]
        has_option = any("--checkpoint" in parameter.opts for parameter in ALL[name].params)
        assert arguments[0] is entry and entry.required != has_option
        assert has_option == (name in ("features", "predict"))


@pytest.mark.parametrize(
    "rest",
    [
        ["export", "a.foo"],
        ["eval", "no shards", "--output", "a/file"],
        ["features", "--shards", "no shards", "-o", "a.foo"],
        ["predict", "no.mp4", "--json", "a/file/b.json"],
        ["visualize filters", "-o", "a.foo"],
        ["visualize motion", "camera:0", "-o", "a.foo"],
    ],
)
def test_a_checkpoint_that_is_not_there_is_told_before_anything_else(rest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "a").touch()
    command, *others = rest
    result = runner.invoke(app, [*command.split(), "runs/the_first", *others], env={"COLUMNS": "200"})
    assert (result.exit_code, result.output) == (
        2,
        "error: no checkpoint at runs/the_first; did you mean runs/first?\n",
    )


def test_no_workers_are_none_everywhere_and_fewer_are_refused():
    found = having("--num-workers")
    assert {*PACKS, "inspect", "verify", "doctor", "eval", "features", "motionbench"} == set(found)
    for name, entry in found.items():
        assert "0: none" in entry.help and entry.default is None
        arguments = TWO_OF_A_PLACE.get(name, "a b" if name in PACKS else "a" if name != "doctor" else "")
        result = runner.invoke(app, [*name.split(), *arguments.split(), "--num-workers", "-1"])
        assert result.exit_code == 2 and "--num-workers" in result.output
    assert (workers(0), workers(1), workers(3), workers(None)) == (1, 1, 3, available_cores())
    assert (decoding_workers(0), decoding_workers(3)) == (0, 3)
    assert decoding_workers(None) == DataConfig.model_fields["num_workers"].default


def test_motion_is_drawn_of_one_layer():
    command = ["visualize", "motion", "c", "v", "--layer", "res2.corr", "--layer", "res3.corr"]
    result = runner.invoke(app, command, env={"COLUMNS": "200"})
    assert (
        result.exit_code == 2 and "motion is drawn of one --layer, got res2.corr, res3.corr" in result.output
    )


def bounds(field):
    least = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    most = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    return least, most if most is None or most < 2**31 else None


@pytest.mark.parametrize(
    ("model", "command", "elsewhere"),
    [
        *((PackOptions, name, {"mode", "num_workers", "part", "overwrite"}) for name in PACKS),
        (MotionBenchConfig, "motionbench", {"fps", "speeds", "sprite_size"}),
    ],
)
def test_options_are_the_fields_of_the_model(model, command, elsewhere):
    for name, field in model.model_fields.items():
        if name in elsewhere:
            continue
        entry = option(command, name)
        assert entry.default == field.default, name
        assert entry.help.casefold().startswith(field.description.casefold()), name
        if field.annotation is not bool:
            assert limits(entry) == bounds(field), name


def test_a_recipes_options_have_the_bounds_of_its_fields():
    for name in ("eval", "predict", "features"):
        assert limits(option(name, "num_clips"))[0] == 1
    with pytest.raises(ValueError, match="num_clips"):
        EvalConfig(num_clips=0)
    assert limits(option("eval", "batch_size"))[0] == 1
    with pytest.raises(ValueError, match="batch_size"):
        EvalConfig(batch_size=0)
    assert {entry.default for entry in having("--device").values()} == {RunSettings().device}


def test_what_the_model_refuses_is_wrong_usage(tmp_path):
    for size, message in (("41", "--size 41: Input should be a multiple of 2"), ("18", "from 2 to size 18")):
        result = runner.invoke(
            app, ["motionbench", str(tmp_path / "x"), "--size", size], env={"COLUMNS": "200"}
        )
        assert result.exit_code == 2 and message in result.output
    assert not list(tmp_path.iterdir())


def test_the_version_names_the_packages_torch_and_python_without_loading_torch():
    code = """
import sys
from corrnet_train.cli import app
try:
    app(["--version"])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in words] == [
        "corrnet-train", "corrnet-models", "video-data", "corr-ops", "torch", "Python"
    ]  # fmt: skip
    assert words[0][1] == words[2][1] == "0.1.0" and words[4][1][0].isdigit()


def test_the_version_of_what_is_not_installed_is_the_packages_own(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0 and "corrnet-train  0.1.0" in result.output
