import hashlib
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from corrnet_train.checkpoint.state import Checkpoint, newest_intact
from corrnet_train.cli import app
from corrnet_train.cli.common import read_of_checkpoint
from corrnet_train.demo import run_demo
from corrnet_train.inference.feature_file import check_path
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_output
from corrnet_train.utils.journal_lines import whole_lines


def test_a_new_file_may_be_written_also_into_a_new_folder(tmp_path):
    check_output(tmp_path / "a.mp4", endings=(".mp4",))
    check_output(tmp_path / "new" / "deep" / "a.MP4", endings=(".mp4",))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_when_told(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(InputError, match=r"a.json exists; --overwrite replaces it"):
        check_output(tmp_path / "a.json")
    check_output(tmp_path / "a.json", overwrite=True)


@pytest.mark.parametrize("name", ["results.json", "report.html"])
def test_a_demo_replaces_no_results_of_something_else(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name} exists and is of no demo: choose another folder"):
        run_demo(tmp_path, quick=True, console=Console(quiet=True))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.parametrize("how", ["itself", "link", "hard link", "another spelling"])
def test_what_is_read_is_never_replaced(tmp_path, how):
    video, name = tmp_path / "my.mp4", tmp_path / "name.mp4"
    video.write_text("mine")
    (tmp_path / "sub").mkdir()
    if how == "link":
        name.symlink_to(video)
    elif how == "hard link":
        os.link(video, name)
    else:
        name = video if how == "itself" else tmp_path / "sub" / ".." / "my.mp4"
    with pytest.raises(InputError, match="is read, or lies in a folder that is: choose another name"):
        check_output(name, overwrite=True, inputs=["camera:0", f"https://host/{'a' * 300}", str(video)])


def test_what_is_in_a_folder_that_is_read_is_never_replaced(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("mine")
    with pytest.raises(InputError, match="is read"):
        check_output(tmp_path / "shards" / "manifest.json", overwrite=True, inputs=[tmp_path / "shards"])
    check_output(tmp_path / "shards" / "report.json", inputs=[tmp_path / "shards"])


def test_pictures_that_are_read_by_their_pattern_are_never_replaced(tmp_path):
    (tmp_path / "img_001.png").write_text("mine")
    with pytest.raises(InputError, match="is read"):
        check_output(tmp_path / "img_001.png", overwrite=True, inputs=[str(tmp_path / "img_*.png")])


def test_the_rest_of_a_model_that_is_named_by_its_weights_is_never_replaced(model_folder):
    read = read_of_checkpoint(model_folder / "model.safetensors")
    with pytest.raises(InputError, match="is read"):
        check_output(model_folder / "config.json", overwrite=True, inputs=read)


def test_a_file_cannot_be_a_folder_or_lie_in_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "file" / "a.json")
    with pytest.raises(InputError, match=r"ends with .html or .png"):
        check_output(tmp_path / "a.gif", endings=(".html", ".png"))


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path):
    """A pipe would be waited for, and /dev/null would become a file."""
    for name in ("out.json", "metrics.jsonl", "journal", "last.pt", "a.npz.part", "result.json"):
        os.mkfifo(tmp_path / name)
    for path, what in ((tmp_path / "out.json", "a named pipe"), (Path("/dev/null"), "a device")):
        with pytest.raises(InputError, match=f"^{path} is {what}, and a file is to be written$"):
            check_output(path, overwrite=True)
    with pytest.raises(InputError, match=r"result.json is a named pipe, and a file is to be written"):
        check_output(tmp_path, overwrite=True, files=("result.json",))
    with pytest.raises(InputError, match=r"metrics.jsonl is a named pipe, and a file is wanted"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"journal is a named pipe, and a file is wanted"):
        whole_lines(tmp_path / "journal")
    with pytest.raises(InputError, match=r"a.npz.part is a named pipe, and a file is wanted"):
        check_path(tmp_path / "a.npz", overwrite=True)
    with pytest.raises(InputError, match=r"no checkpoint at .*last.pt: it is a named pipe$"):
        Checkpoint.load(tmp_path / "last.pt")
    assert newest_intact(tmp_path) is None


def test_of_a_folder_the_files_that_are_written_count(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_output(tmp_path, files=("config.json", "README.md"))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README.md exists"):
        check_output(tmp_path, files=("config.json", "README.md"))


@pytest.mark.slow
def test_no_command_replaces_files_of_the_user(model_folder, motionbench, tmp_path):
    """Each command is told to write where something is, with and without --overwrite onto what it reads."""
    video = tmp_path / "my.mp4"
    shutil.copy(next(motionbench[0].rglob("*.mp4")), video)
    project = tmp_path / "project"
    project.mkdir()
    for name in ("README.md", "config.json", "result.json"):
        (project / name).write_text("mine")
    taken = {}
    for name in ("a.json", "a.html", "a.npz", "a.csv", "a.pt2.json"):
        taken[name] = tmp_path / name
        taken[name].write_text("mine")

    def digests():
        files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    copied = tmp_path / "copied"
    shutil.copytree(model_folder, copied)
    before = digests()
    model, shards = model_folder, motionbench[1]
    for command in (
        ["predict", model, video, "--hop", "4", "--annotate", video, "--overwrite"],
        ["predict", model, video, "--json", taken["a.json"]],
        ["visualize", "motion", model, video, "-o", video, "--overwrite"],
        ["visualize", "motion", model, video, "-o", taken["a.html"]],
        ["visualize", "filters", model, "-o", taken["a.html"]],
        ["features", model, video, "-o", taken["a.npz"]],
        ["features", model, video, "-o", tmp_path / "a.safetensors"],  # whose index is a.csv
        ["eval", model, shards, "--output", project],
        ["export", model, project],
        ["export", model, tmp_path / "a.pt2"],
        ["export", model, tmp_path / "a.engine"],
        ["inspect", shards, "--sheet", taken["a.html"]],
        ["inspect", shards, "--json", taken["a.json"]],
        ["verify", shards, "--json", taken["a.json"]],
        ["doctor", "--json", taken["a.json"]],
        ["export", copied, copied, "--overwrite"],
        ["predict", copied, video, "--json", copied / "config.json", "--overwrite"],
    ):
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 2, (command, result.output)
        assert digests() == before, command
