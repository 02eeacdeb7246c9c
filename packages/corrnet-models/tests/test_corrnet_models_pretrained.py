"""Models in folders: what is saved is loaded, and nothing else is."""

import hashlib
import json
import os
import random
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from corrnet_models import (
    ModelError,
    PretrainedCfg,
    create_model,
    is_pretrained,
    load_pretrained,
    save_pretrained,
    unwrap_names,
)
from corrnet_models._pretrained import CARD, CODE, CONFIG, WEIGHTS

CLASSES = [f"class {number}" for number in range(8)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("corrnet_tiny", num_classes=8, corr_filters="shared")
    for parameter in model.parameters():  # as training may leave them
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    save_pretrained(model, folder, classes=CLASSES, metadata={"clip": {"num_frames": 8}})
    return model.eval(), folder


def test_a_saved_model_is_loaded_with_its_configuration_and_classes(saved):
    model, folder = saved
    assert is_pretrained(folder) and not is_pretrained(folder.parent)
    loaded = load_pretrained(folder)
    assert loaded.model.config == model.config
    assert (loaded.classes, loaded.metadata) == (tuple(CLASSES), {"clip": {"num_frames": 8}})
    assert not loaded.model.training
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(clips), model(clips))  # the layout of weights is not kept


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_umask_says_who_may_read_the_files(saved, umask, mode, tmp_path):
    (tmp_path / WEIGHTS).touch(0o600)  # of an earlier model, where safetensors chose
    before = os.umask(umask)
    try:
        save_pretrained(saved[0], tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop(WEIGHTS) == mode and WEIGHTS not in modes
    assert set(modes.values()) == {mode}


def test_weights_that_cannot_be_written_leave_the_old_ones(saved, monkeypatch, tmp_path):
    def fail(tensors, path, metadata):
        raise SafetensorError("No space left on device (os error 28)")

    (tmp_path / WEIGHTS).write_bytes(b"old")
    monkeypatch.setattr("corrnet_models._pretrained.save_file", fail)
    with pytest.raises(OSError, match=r"model\.safetensors cannot be written: No space left"):
        save_pretrained(saved[0], tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(WEIGHTS, b"old")]


def test_names_of_wrappers_are_taken_off(saved, tmp_path):
    model, _ = saved
    save_pretrained(torch.compile(model), tmp_path)
    assert load_file(tmp_path / WEIGHTS).keys() == model.state_dict().keys()
    save_file(
        {f"module._orig_mod.{k}": v.contiguous() for k, v in model.state_dict().items()}, tmp_path / WEIGHTS
    )
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, "weights_sha256": None}))
    assert torch.equal(load_pretrained(tmp_path).model.fc.weight, model.fc.weight)
    assert unwrap_names({"module.a.module_b.weight": 1, "c._orig_mod.d": 2}) == {
        "a.module_b.weight": 1,
        "c.d": 2,
    }
    with pytest.raises(ModelError, match=r"^module.a and a are both a without the names of wrappers$"):
        unwrap_names({"module.a": 1, "a": 2})


@pytest.mark.parametrize("name", ["r2plus1d_tiny_twostream", "r2d_tiny"])
def test_every_kind_of_model_goes_round(name, tmp_path):
    model = create_model(name, num_classes=3)
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.classes == ()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], tensor), key


def test_the_card_says_how_to_load_it(saved):
    card = (saved[1] / CARD).read_text()
    assert card.startswith("---\nlibrary_name: corrnet-models")
    assert "load_pretrained" in card and "class 7" in card
    for text in (card, (saved[1] / CODE).read_text()):
        folders = re.search(r"pip install (.*)", text)[1].split()
        assert all((Path(__file__).parents[3] / folder / "pyproject.toml").is_file() for folder in folders)


def test_the_number_of_classes_must_be_that_of_the_outputs(tmp_path):
    with pytest.raises(ValueError, match="got 2 class names for a model with 5 outputs"):
        save_pretrained(create_model("r2d_tiny", num_classes=5), tmp_path / "x", classes=["a", "b"])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), r"holds no model: model.safetensors missing"),
        (lambda folder: (folder / CONFIG).write_text("{"), "is not the configuration of a model"),
        (
            lambda folder: edit(folder, library_name="timm"),
            "it is of timm 1, this version reads corrnet-models 1",
        ),
        (
            lambda folder: edit(folder, format_version=2),
            "it is of corrnet-models 2, this version reads corrnet-models 1",
        ),
        (
            lambda folder: edit(folder, model={"num_frames": -1}),
            "is not the configuration of a model: .*num_frames",
        ),
        (lambda folder: edit(folder, model=None), "is not the configuration of a model"),
        (
            lambda folder: edit_model(folder, num_classes=9),
            r"does not fit .* 2 tensors .* fc.bias: \[8\], and \[9\] by the configuration; fc.weight: \[8, ",
        ),
        (
            lambda folder: edit_model(folder, depths=(1, 1, 1, 2)),
            r"does not fit .* 24 tensors .* backbone\.res5\.block2\.\S+: nothing, and \[",
        ),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\x00" * 100), "model.safetensors cannot be read"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(saved, tmp_path, change, message):
    folder = tmp_path / "model"
    shutil.copytree(saved[1], folder)
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def test_every_flipped_bit_of_the_weights_is_refused(saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved[1], folder)
    content, rng = (folder / WEIGHTS).read_bytes(), random.Random(0)
    for place in rng.sample(range(len(content)), 20):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        (folder / WEIGHTS).write_bytes(flipped)
        with pytest.raises(
            ValueError, match=r"model.safetensors (is damaged, or|cannot be read|does not fit)"
        ):
            load_pretrained(folder)
    # Folders of other writers have no digest.
    content = json.loads((folder / CONFIG).read_text())
    del content["weights_sha256"]
    (folder / CONFIG).write_text(json.dumps(content))
    assert load_pretrained(folder).classes == tuple(CLASSES)


def edit(folder, **values):
    content = json.loads((folder / CONFIG).read_text()) | values
    (folder / CONFIG).write_text(json.dumps(content))


def edit_model(folder, **values):
    model = json.loads((folder / CONFIG).read_text())["model"]
    edit(folder, model=model | values)


def test_a_head_of_ones_own_goes_round(saved, tmp_path):
    def head():
        return nn.Sequential(nn.Linear(512, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 2))

    model = create_model("r2d_tiny")
    model.fc = head()
    with pytest.raises(ValueError, match="got 3 class names for a model with 2 outputs"):
        save_pretrained(model, tmp_path, classes=["a", "b", "c"])
    save_pretrained(model, tmp_path, classes=["a", "b"])
    assert model.fc.training
    with pytest.raises(
        ValueError, match=r"with a head of its own, Sequential.* load_pretrained\(..., head=...\)"
    ):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit .* tensors are missing, unexpected .*fc"):
        load_pretrained(tmp_path, head=nn.Linear(512, 2))
    loaded = load_pretrained(tmp_path, head=head())
    assert (loaded.classes, loaded.model.config.num_classes) == (("a", "b"), 2)
    clips = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(loaded.model(clips), model.eval()(clips))
    assert load_pretrained(saved[1], head=nn.Linear(512, 8)).model.config.num_classes == 8
    model.reset_classifier(0)
    save_pretrained(model, tmp_path)
    assert load_pretrained(tmp_path).model.eval()(clips).shape == (1, 512)


def test_what_the_weights_were_trained_on_is_kept(saved, tmp_path):
    assert create_model("r2d_tiny").pretrained_cfg is None
    cfg = load_pretrained(saved[1]).model.pretrained_cfg
    digest = hashlib.sha256((saved[1] / WEIGHTS).read_bytes()).hexdigest()
    assert cfg == PretrainedCfg(num_frames=8, num_classes=8, classes=tuple(CLASSES), fingerprint=digest)
    given = PretrainedCfg(
        input_size=(3, 32, 32), fps=12.5, mean=(0.5,) * 3, std=(0.2,) * 3, license="apache-2.0", num_classes=5
    )
    model = load_pretrained(saved[1]).model
    save_pretrained(model, tmp_path, pretrained_cfg=given)
    assert "\nlicense: apache-2.0\n---" in (tmp_path / CARD).read_text()
    again = load_pretrained(tmp_path).model
    assert again.pretrained_cfg == given.model_copy(
        update={"num_frames": 8, "num_classes": 8, "fingerprint": digest}
    )
    save_pretrained(again, tmp_path / "next")
    assert load_pretrained(tmp_path / "next").model.pretrained_cfg == again.pretrained_cfg
    edit(tmp_path, pretrained_cfg={"fps": -1})
    with pytest.raises(ValueError, match=r"is not the configuration of a model: .*fps"):
        load_pretrained(tmp_path)


def test_a_model_is_created_with_weights_of_ones_own(saved):
    trained, folder = saved
    clips = torch.randn(2, 3, 8, 32, 32)
    model = create_model("corrnet_tiny", pretrained=folder, corr_filters="shared", drop_rate=0.5)
    assert model.training and model.config.dropout == 0.5 and model.pretrained_cfg.classes == tuple(CLASSES)
    torch.testing.assert_close(model.eval()(clips), trained(clips), rtol=1e-3, atol=1e-3)
    other = create_model(
        "corrnet_tiny", pretrained=str(folder), corr_filters="shared", num_classes=3, num_frames=4
    )
    assert (other.config.num_classes, other.config.num_frames) == (3, 4)
    torch.testing.assert_close(
        other.eval().forward_features(clips), trained.forward_features(clips), rtol=1e-3, atol=1e-3
    )
    assert create_model("corrnet_tiny", pretrained=folder, corr_filters="shared", num_classes=0)(
        clips
    ).shape == (2, 512)
    with pytest.raises(ValueError, match="are of another model: corr_filters='shared', not 'per_frame'"):
        create_model("corrnet_tiny", pretrained=folder)
    with pytest.raises(
        ValueError, match="no weights are published for corrnet26; give those of a model of your own"
    ):
        create_model("corrnet26", pretrained=True)


def test_a_name_of_the_hub_is_downloaded(saved, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options["revision"]))
        return str(saved[1])

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert load_pretrained("owner/model", revision="v1").classes == tuple(CLASSES)
    assert asked == [("owner/model", "v1")]


def test_without_the_hub_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'corrnet-models\[hub\]'"):
        load_pretrained("owner/model")
    for name in ("missing", "./missing/model", "/missing/model"):
        with pytest.raises(ValueError, match=r"no folder .*missing.*owner/model"):
            load_pretrained(name)
