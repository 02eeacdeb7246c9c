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
from torch.nn.parallel import DistributedDataParallel
from typer.testing import CliRunner

from corrnet_models import create_model, load_pretrained
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.cli import app
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.networks.build import build_from_config
from corrnet_train.training.initialize import initialize

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


def a_program(path):
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


NO_CHECKPOINTS = {
    "it is an exported program, which runs without corrnet": a_program,
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
    r"7 tensors of a model in a wrapper, as .* \(names begin with 'module.'\) under 'model', module.0.weight":
        torch_file({"epoch": 3, "model": wrapped("module."), "optimizer": {"state": {}}}),
    r"7 tensors of a model in a wrapper.* 'module._orig_mod.'": torch_file(wrapped("module._orig_mod.")),
    r"it holds 7 tensors, modules.0.weight for one": torch_file(wrapped("modules.")),
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


@pytest.fixture
def trained(model_folder):
    """A model whose weights are not those of `model_folder`."""
    torch.manual_seed(1)
    return create_model("corrnet_tiny", num_frames=8, num_classes=8)


def prefixed(prefix):
    return lambda model: {prefix + name: tensor for name, tensor in model.state_dict().items()}


def in_parallel(model):
    """The state dict of a model in DistributedDataParallel, as that names it."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        return DistributedDataParallel(model).state_dict()
    finally:
        torch.distributed.destroy_process_group()


STATES = {
    "plain": lambda model: model.state_dict(),
    "DDP": in_parallel,
    "torch.compile": lambda model: torch.compile(model).state_dict(),
    "torch.compile in DDP": lambda model: in_parallel(torch.compile(model)),
    "DDP in torch.compile": prefixed("_orig_mod.module."),
    "a compiled stage": lambda model: {
        name.replace("res2.", "res2._orig_mod."): tensor for name, tensor in model.state_dict().items()
    },
    "DDP under state_dict": lambda model: {"epoch": 3, "state_dict": prefixed("module.")(model), "rng": {}},
}


@pytest.mark.parametrize("how", STATES)
def test_weights_without_a_recipe_load_with_one_that_they_are_like(how, trained, model_folder, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(STATES[how](trained), path)
    with pytest.raises(
        CheckpointError, match=r"; or give --like CHECKPOINT, one whose recipe and classes the weights have$"
    ):
        VideoClassifier.from_checkpoint(path, device="cpu")
    classifier = VideoClassifier.from_checkpoint(str(path), device="cpu", like=str(model_folder))
    like = VideoClassifier.from_checkpoint(model_folder, device="cpu")
    assert classifier.classes == like.classes and classifier.clip == like.clip
    for name, tensor in classifier.model.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


@pytest.mark.parametrize("how", ["plain", "DDP under state_dict"])
def test_weights_without_a_recipe_start_a_run(how, trained, make_config, motionbench, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(STATES[how](trained), path)
    model = build_from_config(make_config("data.clip.num_frames=8", model="corrnet_tiny"), 8)
    classes = tuple(map(str, range(8)))
    message = initialize(model, path, classes=classes, new_head=False)
    assert "it names no classes: its outputs count as those of the shards, in their order" in message
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    other = build_from_config(make_config("data.clip.num_frames=8", model="corrnet_tiny"), 3)
    head = other.fc.weight.detach().clone()
    assert "new: fc.weight, fc.bias" in initialize(other, path, classes=classes[:3], new_head=True)
    assert torch.equal(other.fc.weight, head) and torch.equal(
        list(other.parameters())[-1], list(trained.parameters())[-1]
    )
    with pytest.raises(
        CheckpointError, match=r"of another shape: fc.weight: \[8, .*\] in the checkpoint, \[3, "
    ):
        initialize(other, path, classes=classes[:3], new_head=False)


def test_a_file_of_safetensors_loads_too(trained, model_folder, tmp_path):
    save_file(prefixed("module.")(trained), tmp_path / "weights.safetensors")
    classifier = VideoClassifier.from_checkpoint(
        tmp_path / "weights.safetensors", device="cpu", like=model_folder
    )
    assert torch.equal(classifier.model.fc.weight, trained.fc.weight)
    for name in ("", "model.safetensors"):  # whose classes have an order of their own
        with pytest.raises(ValueError, match="has a recipe of its own: leave out --like"):
            VideoClassifier.from_checkpoint(model_folder / name, device="cpu", like=model_folder)
    content = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read, it may be cut off"):
        VideoClassifier.from_checkpoint(tmp_path / "weights.safetensors", device="cpu", like=model_folder)
    own = VideoClassifier.from_checkpoint(model_folder / "model.safetensors", device="cpu")
    assert torch.equal(own.model.fc.weight, load_pretrained(model_folder).model.fc.weight)


def test_a_file_whose_names_are_no_text_is_no_bug(model_folder, trained, tmp_path):
    torch.save({0: torch.ones(2), "model": trained.state_dict(), 5: {"a": torch.ones(1)}}, tmp_path / "a.pth")
    classifier = VideoClassifier.from_checkpoint(tmp_path / "a.pth", device="cpu", like=model_folder)
    assert torch.equal(classifier.model.fc.weight, trained.fc.weight)


def test_weights_that_do_not_fit_are_told_by_their_first_names(model_folder, trained, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(wrapped("module."), path)
    with pytest.raises(
        CheckpointError, match=r"another model: missing: .* more; unexpected: 0.weight, 0.bias, .*"
    ):
        VideoClassifier.from_checkpoint(path, device="cpu", like=model_folder)
    torch.save({"model": trained.state_dict(), "ema": trained.state_dict()}, path)
    with pytest.raises(
        ValueError, match=r"holds weights of the model under 'model' and 'ema': save the ones"
    ):
        VideoClassifier.from_checkpoint(path, device="cpu", like=model_folder)
    empty = {"config": {}, "model": {}, "optimizer": {}, "loader": {}, "rng": [], "classes": ()}
    Checkpoint(step=0, best_score=0.0, train_seconds=0.0, **empty).save(path)
    with pytest.raises(ValueError, match=r"weights.pth has a recipe of its own: leave out --like"):
        VideoClassifier.from_checkpoint(path, device="cpu", like=model_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_frames": 16},
            r"res2\.\S*correlation\.weight: \[16, 16, 5, 5\] in the checkpoint, \[8, 16, 5, 5\] in the model.*"
            r"; it is for clips of 16 frames, the model for 8: take .* with data.clip.num_frames=16; ",
        ),
        (
            {"num_frames": 4, "num_classes": 3},
            r"it tells apart 3 classes, the model 8: .*model.new_head=true.*; it is for clips of 4 frames",
        ),
        (
            {"in_channels": 2},
            r"it takes clips of 2 channels, the model of 3: data.clip.modality decides on them$",
        ),
        ({"widths": (8, 16, 32, 64)}, r"of another shape: fc.weight: [^;]*$"),
        ({"corr_filters": "shared"}, r"of another shape: \S*res2[^;]*$"),
    ],
)
def test_a_shape_that_differs_is_told_with_what_it_means(changes, message, model_folder, tmp_path):
    other = create_model("corrnet_tiny", **{"num_frames": 8, "num_classes": 8} | changes)
    torch.save(prefixed("module.")(other), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        VideoClassifier.from_checkpoint(tmp_path / "weights.pth", device="cpu", like=model_folder)


@pytest.mark.slow
def test_every_command_takes_weights_without_a_recipe(trained, model_folder, motionbench, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(prefixed("module.")(trained), path)
    video = next(motionbench[0].rglob("*.mp4"))
    for words in (
        ["eval", path, motionbench[1], "--num-clips", 1, "--device", "cpu"],
        ["predict", path, video, "--num-clips", 1, "--device", "cpu"],
        ["features", path, video, "--num-clips", 1, "--device", "cpu", "-o", tmp_path / "a.npz"],
        ["export", path, tmp_path / "exported"],
        ["visualize", "filters", path, "-o", tmp_path / "filters.html"],
        ["visualize", "motion", path, video, "-o", tmp_path / "motion.png", "--device", "cpu"],
    ):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == 2 and "or give --like CHECKPOINT" in result.output, words
        result = CliRunner().invoke(app, [*map(str, words), "--like", str(model_folder)])
        assert result.exit_code == 0, result.output
    assert torch.equal(load_pretrained(tmp_path / "exported").model.fc.weight, trained.fc.weight)
