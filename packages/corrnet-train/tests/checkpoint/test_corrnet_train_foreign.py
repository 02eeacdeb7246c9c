"""Files that are given for a checkpoint and are none: what they are is said, and nothing of them is run."""

import collections
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from corrnet_train.checkpoint.state import Checkpoint, CheckpointError

MODEL = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))


class Plain:
    """An object that pickle takes along."""


def wrapped(prefix):
    return {prefix + name: tensor for name, tensor in MODEL.state_dict().items()}


def torch_file(content):
    return lambda path: torch.save(content, path)


def a_tar(path):
    with tarfile.open(path, "w") as tar:
        tar.add(__file__)


NO_CHECKPOINTS = {
    "it is empty": lambda path: path.touch(),
    "it begins with zeros": lambda path: path.write_bytes(bytes(1000)),
    "it is a text file": lambda path: path.write_text("extends: motionbench\n"),
    "it is a page of the web": lambda path: path.write_text("<!DOCTYPE html>"),
    "it is a pointer of Git LFS": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "it is a picture": lambda path: Image.new("RGB", (4, 4)).save(path, "png"),
    "it is a tar": a_tar,
    "it is a file of safetensors": lambda path: save_file({"a": torch.zeros(2)}, path),
    r"it holds a Python object \(\S*Sequential\)": torch_file(MODEL),
    r"it holds a Python object \(\S*Plain\)": torch_file({"args": Plain(), "model": wrapped("")}),
    r"it holds 7 tensors, 0.weight for one, without the recipe": torch_file(MODEL.state_dict()),
    r"it holds 7 tensors under 'state_dict', 0.weight for one": torch_file({"state_dict": wrapped(""), "epoch": 3}),
    r"7 tensors of a model in DistributedDataParallel or DataParallel \(names begin with 'module.'\) under 'model'":
        torch_file({"epoch": 3, "model": wrapped("module."), "optimizer": {"state": {}}}),
    r"7 tensors of a model in torch.compile": torch_file(wrapped("_orig_mod.")),
    r"it holds a tensor of shape \[2, 3\]": torch_file(torch.zeros(2, 3)),
    r"it holds a list": torch_file([1]),
    r'it holds no weights, but \["epoch"\]': torch_file(collections.OrderedDict(epoch=1)),
}  # fmt: skip


@pytest.mark.parametrize("text", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_told_in_a_line(text, tmp_path):
    path = tmp_path / "model.pth"
    NO_CHECKPOINTS[text](path)
    with pytest.raises(CheckpointError, match=text) as error:
        Checkpoint.load(path)
    message = str(error.value)
    assert message.startswith(f"{path} is ") and "\n" not in message
    assert "give a checkpoint that `corrnet train` wrote" in message
    assert "weights_only" not in message


def test_a_video_is_told_as_one(motionbench):
    path = next(Path(motionbench[0]).rglob("*.mp4"))
    with pytest.raises(CheckpointError, match="it is a video"):
        Checkpoint.load(path)


def test_files_of_other_tools(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    for name in ("a.npz", "a.json"):
        with pytest.raises(CheckpointError, match="is not a readable checkpoint") as error:
            Checkpoint.load(tmp_path / name)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
