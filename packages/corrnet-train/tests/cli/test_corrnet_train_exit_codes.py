"""Exit codes that scripts rely on: 0 done, 1 failed, 2 bad input, 3 some videos left out, 70 a bug, 130 interrupted."""

import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from corrnet_models import ModelError
from corrnet_train.checkpoint.state import CheckpointError
from corrnet_train.cli import app, common, menu
from corrnet_train.cli.menu import load_command
from corrnet_train.config.recipes import ConfigError
from corrnet_train.distributed.ranks import RanksError
from corrnet_train.doctor import _shards
from corrnet_train.utils.errors import InputError, MissingPackageError, WorkError, kind_of
from video_data import PackOptions, RemoteError, ShardError, VideoError

runner = CliRunner()

# What each command calls, to make it fail there.
CALLS = {
    "pack-merge a": "video_data.merge_parts",
    "pack folder a b": "video_data.datasets.list_folder",
    "pack csv a b": "video_data.datasets.list_csv",
    "pack kinetics a b": "video_data.datasets.list_kinetics",
    "pack something a b": "video_data.datasets.list_something",
    "pack diving48 a b": "video_data.datasets.list_diving48",
    "pack sports1m a b": "video_data.datasets.list_sports1m",
    "pack ucf101 a b": "video_data.datasets.list_ucf101",
    "pack hmdb51 a b": "video_data.datasets.list_hmdb51",
    "train motionbench": "corrnet_train.config.load.load_config",
    "lr-find motionbench": "corrnet_train.config.load.load_config",
    "resume a": "corrnet_train.training.run_folder.settings_of_run",
    "recipe list": "corrnet_train.config.recipes.list_recipes",
    "recipe show motionbench": "corrnet_train.config.recipes.read_recipe",
    "recipe diff motionbench motionbench": "corrnet_train.config.recipes.read_recipe",
    "recipe options": "corrnet_train.config.load.settings",
    "recipe schema": "corrnet_train.config.load.recipe_schema",
    "eval a b": "video_data.open_shards",
    "predict a b": "corrnet_train.inference.classifier.VideoClassifier.from_checkpoint",
    "features a b -o c.npz": "corrnet_train.inference.inputs.find_videos",
    "visualize filters a": "corrnet_train.inference.classifier.VideoClassifier.from_checkpoint",
    "visualize motion a b": "corrnet_train.inference.inputs.check_window_source",
    "export a b": "corrnet_train.inference.classifier.VideoClassifier.from_checkpoint",
    "inspect a": "video_data.open_shards",
    "verify a": "video_data.verify_shards",
    "models": "corrnet_models.complexity_table",
    "doctor": "corrnet_train.doctor.examine",
    "demo": "corrnet_train.demo.run_demo",
    "motionbench a": "video_data.generate_motionbench",
}
ERRORS = [
    (InputError("what [was] got"), 2),
    (MissingPackageError("install what [was] left out"), 2),
    (OSError("what [was] full"), 1),
    (WorkError("what [was] lost"), 1),
]
BUGS = [
    ValueError("what [was] wrong"),
    RuntimeError("what [was] wrong"),
    KeyError("what [was] wrong"),
    TypeError("what [was] wrong"),
    ImportError("what [was] wrong"),
]


def commands(group, *path):
    """Words of every command below a group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield " ".join([*path, name])


def test_the_list_of_calls_has_every_command():
    known = [
        " ".join(line.split()[:2]) if line.startswith(("pack ", "recipe ", "visualize ")) else line.split()[0]
        for line in CALLS
    ]
    found = []
    for name in typer.main.get_command(app).commands:
        command = load_command(name)
        found += commands(command, name) if hasattr(command, "commands") else [name]
    assert sorted(known) == sorted(found)


@pytest.fixture
def with_checkpoint(line, monkeypatch, tmp_path):
    """A working folder that has the checkpoint of the command, which is looked for before all else."""
    monkeypatch.chdir(tmp_path)
    if any(entry.name == "checkpoint" for entry in _command_of(line).params):
        (tmp_path / "a").touch()


def _command_of(line):
    name, below, *_ = [*line.split(), ""]
    command = load_command(name)
    return command.commands[below] if hasattr(command, "commands") else command


@pytest.mark.usefixtures("with_checkpoint")
@pytest.mark.parametrize("line", CALLS)
def test_errors_become_a_message_and_an_exit_code(line, monkeypatch):
    for error, code in ERRORS:

        def fail(*args, _error=error, **kwargs):
            raise _error

        monkeypatch.setattr(CALLS[line], fail)
        result = runner.invoke(app, line.split(), env={"COLUMNS": "200"})
        assert (result.exit_code, result.stderr) == (code, f"error: {error}\n")


@pytest.mark.usefixtures("with_checkpoint")
@pytest.mark.parametrize("line", CALLS)
def test_anything_else_is_a_bug_with_a_traceback_and_an_exit_code(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["corrnet", *line.split()])
    for error in BUGS:

        def fail(*args, _error=error, **kwargs):
            raise _error

        monkeypatch.setattr(CALLS[line], fail)
        result = runner.invoke(app, line.split(), env={"COLUMNS": "200"})
        assert result.exit_code == 70
        trace, _, report = result.stderr.partition(f"\n{type(error).__name__}: {error}\n")
        assert trace.startswith("Traceback (most recent call last):\n") and "raise _error" in trace
        first, version, command = report.splitlines()
        assert first.startswith("error: this is a bug in corrnet; please report it")
        assert re.match(r"version: corrnet-train \S+, torch \S+, Python 3\S+, \S+", version)
        assert command == f"command: corrnet {line}"


def test_debug_shows_the_traceback_of_every_error(monkeypatch, tmp_path):
    line = ["train", "motionbench", "optim.lrr=1", f"run.dir={tmp_path}/x"]
    for options, is_shown in ((["--debug"], True), ([], False)):
        result = runner.invoke(app, [*options, *line])
        assert result.exit_code == 2 and "error: unknown key optim.lrr" in result.stderr
        assert ("Traceback (most recent call last)" in result.stderr) == is_shown
        assert "bug" not in result.stderr


def test_errors_of_every_package_have_a_kind():
    with pytest.raises(ValueError) as settings:
        PackOptions(crf=99)
    kinds = {
        "bad input": [
            InputError(), MissingPackageError(), ConfigError(), CheckpointError(), ShardError("x"),
            ModelError(), settings.value, ValueError("CORR_OPS_ISA must be one of ..."),
            RuntimeError("avg_pool3d_backward_cuda does not have a deterministic implementation, but you set"),
        ],
        "failed work": [
            WorkError(), RanksError(), RemoteError(), FileNotFoundError(2, "gone", "x"), MemoryError(), VideoError("x"),
            torch.OutOfMemoryError("CUDA out of memory. Tried ..."),
        ],
        "bug": [*BUGS, UnicodeDecodeError("utf-8", b"x", 0, 1, "out of memory"), AssertionError()],
    }  # fmt: skip
    for kind, errors in kinds.items():
        assert {repr(error): kind_of(error) for error in errors} == {repr(error): kind for error in errors}


MEANT = {
    "error: memory is full; fewer decoding processes": MemoryError(),
    "error: CUDA out of memory; take fewer clips at once":
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total of ..."),
    "error: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes; fewer":
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                     "tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"),
    "error: [Errno 28] No space left on device: '/a. b/last.pt'; free some space there":
        OSError(28, "No space left on device", "/a. b/last.pt"),
    "error: No space left on device: a disk or shared memory (/dev/shm), which decoding processes use, is full; free":
        OSError(28, "No space left on device"),
    "error: [Errno 122] Disk quota exceeded: '/a/last.pt'; free some space there":
        OSError(122, "Disk quota exceeded", "/a/last.pt"),
    "error: [Errno 24] Too many open files: 'x'; raise the limit: ulimit -n": OSError(24, "Too many open files", "x"),
}  # fmt: skip


@pytest.mark.parametrize("text", MEANT)
def test_what_runs_out_is_told_in_a_line_with_what_helps(text, monkeypatch, tmp_path):
    line = "pack-merge a"

    def fail(*args, **kwargs):
        raise MEANT[text]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CALLS[line], fail)
    result = runner.invoke(app, line.split())
    assert result.exit_code == 1
    assert result.stderr.startswith(text) and result.stderr.count("\n") == 1


@pytest.mark.usefixtures("with_checkpoint")
@pytest.mark.parametrize("line", CALLS)
def test_ctrl_c_has_an_exit_code_of_its_own(line, monkeypatch):
    monkeypatch.setattr(CALLS[line], lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
    result = runner.invoke(app, line.split())
    assert result.exit_code == 130 and "interrupted" in result.stderr


def test_an_error_after_ctrl_c_shows_its_cause(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise OSError(28, "No space left on device", "/a/b")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CALLS["verify a"], fail)
    result = runner.invoke(app, ["verify", "a"])
    assert result.exit_code == 1 and "'/a/b'; free some space" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_is_imported(number, monkeypatch):
    monkeypatch.setattr(menu, "load_command", lambda name: signal.raise_signal(number))
    result = runner.invoke(app, ["models"])
    assert result.exit_code == 130 and result.stderr == "interrupted; the same command starts again\n"


@pytest.mark.parametrize("left", ["checkpoints/last.pt", "config.yaml", None])
def test_an_interrupted_training_says_how_it_goes_on(left, motionbench, monkeypatch, tmp_path):
    def run(trainer):
        if left is not None:
            (trainer.folder / left).parent.mkdir(parents=True)
            (trainer.folder / left).touch()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("corrnet_train.training.trainer.Trainer.run", run)
    line = [
        "train", "motionbench", f"data.shards={motionbench[1]}", "data.num_workers=0", f"run.dir={tmp_path}/run",
        "run.device=cpu", "optim.batch_size=8",
    ]  # fmt: skip
    result = runner.invoke(app, line)
    again = f"interrupted; continue with: corrnet resume {tmp_path}/run\n"
    expected = again if left else "interrupted; the same command starts again\n"
    assert (result.exit_code, result.stderr) == (130, expected)


def test_commands_that_are_told_are_quoted(motionbench, monkeypatch, tmp_path):
    """What is told can be copied into a shell, whatever stands in the names."""
    monkeypatch.setattr(
        "corrnet_train.training.trainer.Trainer.run", lambda trainer: signal.raise_signal(signal.SIGINT)
    )
    run = tmp_path / "my run; (a) $5"
    (run / "checkpoints").mkdir(parents=True)
    line = [
        "train", "motionbench", f"data.shards={motionbench[1]}", "data.num_workers=0", f"run.dir={run}2",
        "run.device=cpu", "optim.batch_size=8", "model.options={dropout: 0.5}",
    ]  # fmt: skip
    monkeypatch.setattr("corrnet_train.cli.train._has_begun", lambda config: True)
    told = runner.invoke(app, line).stderr.removeprefix("interrupted; continue with: ")
    assert shlex.split(told) == ["corrnet", "resume", f"{run}2"]

    shards = tmp_path / "my shards"
    options = ["--part", "1/2", "--num-workers", "1", "--copy"]
    packed = runner.invoke(
        app, ["pack", "csv", str(motionbench[0] / "motionbench.csv"), str(shards), *options]
    )
    told = next(line for line in packed.stderr.splitlines() if "pack-merge" in line)
    assert shlex.split(told.partition(": ")[2]) == ["corrnet", "pack-merge", str(shards)]

    wrong = runner.invoke(app, ["pack", "my videos", "to"], env={"COLUMNS": "300"})
    assert "corrnet pack folder 'my videos' to" in " ".join(wrong.output.split())
    assert _shards("my shards").advice == "corrnet verify 'my shards' looks closer"


def test_the_readme_has_every_exit_code():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = re.findall(r"^\| (\d+) \| (.+?) \|", readme, re.MULTILINE)
    codes = {value for name, value in vars(common).items() if name.startswith("EXIT_")}
    assert {int(code) for code, _ in table} == {0, *codes}
    for code in codes:
        assert f"{code} " in app.info.help


def test_the_home_folder_is_put_into_options_as_shells_do_it_for_words(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.json").touch()
    for given, shown in (("~/a.json", f"{tmp_path}/a.json exists"), ("./~/a.json", "no folder of shards")):
        result = runner.invoke(app, ["verify", "nothing", f"--json={given}"])
        assert result.exit_code == 2 and shown in result.stderr


def test_batch_norm_of_one_value_is_bad_input(motionbench, tmp_path):
    result = runner.invoke(
        app,
        [
            "train", "motionbench", "model.name=r2d_tiny", f"data.shards={motionbench[1]}", "data.num_workers=0",
            f"run.dir={tmp_path / 'run'}", "optim.batch_size=8", "train.micro_batch=1", "optim.warmup_epochs=0",
            "data.clip.crop_size=16", "data.clip.num_frames=4", "run.device=cpu",
        ],
    )  # fmt: skip
    assert result.exit_code == 2, result.stderr
    assert "one value of each channel" in result.stderr and "train.micro_batch" in result.stderr


@pytest.mark.parametrize(
    "line", ["", "trian", "resume", "train motionbench --resum", "verify a --num-workers x"]
)
def test_wrong_usage_is_bad_input(line):
    result = runner.invoke(app, line.split())
    assert result.exit_code == 2 and "Usage" in result.output


def test_a_training_that_diverges_fails(motionbench, tmp_path):
    result = runner.invoke(
        app,
        [
            "train", "motionbench", "model.name=r2d_tiny", f"data.shards={motionbench[1]}", "data.num_workers=0",
            f"run.dir={tmp_path / 'run'}", "optim.batch_size=8", "optim.lr=1e30", "optim.warmup_epochs=0",
        ],
    )  # fmt: skip
    assert result.exit_code == 1 and "error: the loss is" in result.stderr
