"""Models in folders: what is saved is loaded, and nothing else is."""

import json
import random
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from corrnet_models import (
    ModelError,
    create_model,
    is_pretrained,
    load_pretrained,
    save_pretrained,
    unwrap_names,
)
from corrnet_models._pretrained import CARD, CONFIG, WEIGHTS

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
