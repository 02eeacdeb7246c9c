"""Networks of other packages by name, with correlation blocks put in, and what is told where that does not work."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from corrnet_models import CorrelationBlock, CorrelationConfig, FrameByFrame
from corrnet_train.config.load import config_to_dict, load_config, parse_config
from corrnet_train.config.recipes import ConfigError
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.networks import by_name
from corrnet_train.networks.build import build_from_config
from corrnet_train.networks.cost import clip_gmacs
from corrnet_train.networks.head import find_head
from corrnet_train.training.optim import build_optimizer
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.errors import InputError, MissingPackageError
from video_data import normalize

MODULES = Path(__file__).with_name("modules")
RESNET, S3D, PICTURES = (f"small_networks:{name}" for name in ("VideoResNet", "S3D", "PictureNet"))
BLOCKS = "model.correlation={layer1: {kernel_size: 3, dilation: 1}, layer2: {kernel_size: 3}}"


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """A user's module; each test begins as a process that was told of none."""
    monkeypatch.syspath_prepend(MODULES)
    monkeypatch.setattr(by_name, "_named", set())


@pytest.fixture
def config_of(make_config):
    clips = ["data.clip.num_frames=8", "data.clip.crop_size=28"]

    def make(model, *overrides, **more):
        return make_config("model.options={}", *clips, *overrides, model=model, **more)

    return make


@pytest.fixture
def packages(monkeypatch):
    """torchvision and timm as far as they are asked for; `calls` has what they were asked to build."""
    import small_networks

    calls = []

    def get_model(name, *, weights, **keywords):
        calls.append((name, weights, keywords))
        return small_networks.VideoResNet(**keywords)

    def create_model(name, *, pretrained, **keywords):
        calls.append((name, pretrained, keywords))
        return small_networks.PictureNet(**keywords)

    video = ModuleType("torchvision.models.video")
    models = ModuleType("torchvision.models")
    models.video, models.get_model = video, get_model
    models.list_models = lambda module: ["mc3_18", "r2plus1d_18", "r3d_18"] if module is video else []
    timm = ModuleType("timm")
    timm.create_model, timm.is_model = create_model, lambda name: name.partition(".")[0] == "resnet18"
    timm.list_models = lambda: ["resnet18", "resnet34"]
    for module in (ModuleType("torchvision"), models, video, timm):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(calls=calls)


def test_a_network_of_torchvision_is_built_without_weights(config_of, packages):
    model = build_from_config(config_of("torchvision/r2plus1d_18", "model.options={dropout: 0.5}"), 8)
    assert packages.calls == [("r2plus1d_18", None, {"num_classes": 8, "dropout": 0.5})]
    assert model.training and model(torch.randn(2, 3, 8, 28, 28)).shape == (2, 8)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_a_network_of_timm_is_applied_frame_by_frame(name, config_of, packages):
    config = config_of(f"timm/{name}", "model.correlation={network.layer1: {kernel_size: 3}}")
    model = build_from_config(config, 8)
    assert packages.calls == [(name, False, {"num_classes": 8, "in_chans": 3})]
    assert isinstance(model, FrameByFrame) and isinstance(model.network.layer1.correlation, CorrelationBlock)
    assert model(torch.randn(2, 3, 8, 28, 28)).shape == (2, 8)


def test_a_factory_gets_the_length_of_clips_where_it_takes_it(config_of):
    assert build_from_config(config_of("small_networks:OfFrames"), 8).fc.weight.shape == (8, 8)
    nested = build_from_config(config_of("small_networks:Factories.resnet"), 3)
    assert nested.fc.weight.shape == (3, 16)


def test_a_factory_may_be_in_the_current_folder(config_of, tmp_path, monkeypatch):
    code = "from torch import nn\ndef net(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))"
    (tmp_path / "networks_of_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert len(build_from_config(config_of("networks_of_mine:net"), 8)) == 2


@pytest.mark.parametrize("name", ["OfPixels", "OfFirstClip"])
def test_a_network_may_be_made_for_one_size_of_clips(name, config_of):
    """Others are tried on small clips first; these take none, or would be made for those."""
    model = build_from_config(config_of(f"small_networks:{name}", "data.clip.crop_size=40"), 8)
    assert model(torch.randn(2, 3, 8, 40, 40)).shape == (2, 8)


WRONG = {
    "torchvision/r2plus1d_81": "torchvision has no such network; did you mean r2plus1d_18.*it has mc3_18, r2p",
    "timm/resnet19": "timm has no such network; did you mean resnet18",
    "timm/hf-hub:someone/net": "timm has no such network",
    "small_networks:VideoResnet": "small_networks has no VideoResnet; did you mean VideoResNet",
    "small_networks:number": "is of type int, and no function or class that makes networks",
    "small_networks:no_module": "made a list, and no torch.nn.Module",
    "small_networks:failing": r"cannot be built: FileNotFoundError: my.cfg",
    "small_networks:without_classes": r"puts out \[1, 3\] for a clip, and not \[1, 8\]",
    "no_such_module:net": "no_such_module cannot be imported, neither from the current folder .* No module named",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_built_is_told(name, config_of, packages):
    with pytest.raises(InputError, match=WRONG[name]):
        build_from_config(config_of(name), 8)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["model.correlation={layer7: {}}"],
            "model.correlation: no module 'layer7': the network has stem, layer1",
        ),
        (["model.correlation={fc: {}}"], r"model.correlation: fc puts out \[1, 8\]"),
        (
            ["data.clip.modality=flow"],
            r"does not take clips \[1, 2, 8, 28, 28\].*modality=flow\).*RuntimeError",
        ),
        (["model.pixel_mean=[0.4]", "model.pixel_std=[0.2]"], "have 1 values, the clips 3 channels"),
        (["model.options={depth: 3}"], "cannot be built: .* unexpected keyword argument 'depth'"),
    ],
)
def test_what_does_not_fit_a_network_is_told(overrides, text, config_of):
    with pytest.raises(InputError, match=text):
        build_from_config(config_of(RESNET, *overrides), 8)


@pytest.mark.parametrize(
    ("name", "overrides", "text"),
    [
        ("caffe/resnet", [], "model.name=caffe/resnet is neither a name of `corrnet models` nor one of networks of"),
        ("torchvision/", [], "is neither a name"),
        ("os:", [], "is neither a name"),
        ("corrnet26", ["model.correlation={layer1: {}}"], "model.correlation is for networks of other packages"),
        ("corrnet26", ["model.pixel_mean=[0.4]"], "model.pixel_mean is for networks of other packages"),
        (RESNET, ["model.correlation={layer1: {kernel_size: 4}}"], "layer1.kernel_size: must be odd"),
        (RESNET, ["model.correlation={layer1: {kernel: 3}}"], "did you mean model.correlation.layer1.kernel_size"),
        (RESNET, ["model.pixel_mean=[0.4, 0.4, 0.4]"], "pixel_mean and model.pixel_std belong together"),
        (RESNET, ["model.pixel_std=[0.2]", "model.pixel_mean=[0.4, 0.4]"], "belong together"),
        (RESNET, ["model.init_from=w", "model.frozen_stages=1"], "frozen_stages is for models of `corrnet models`"),
        (RESNET, ["train.grad_checkpointing=true"], "grad_checkpointing=true goes by the blocks of models of"),
        (RESNET, ["train.parallel=fsdp"], "train.parallel=fsdp goes by the blocks of models of"),
        (RESNET, ["model.options={num_classes: 3}"], "num_classes cannot be set"),
    ],
)  # fmt: skip
def test_settings_are_checked_before_any_work(name, overrides, text, config_of):
    with pytest.raises(ConfigError, match=text):
        config_of(name, *overrides)


@pytest.mark.parametrize("option", ["weights: DEFAULT", "pretrained: true", "checkpoint_path: /x.pth"])
@pytest.mark.parametrize("name", ["torchvision/r3d_18", "timm/resnet18"])
def test_no_option_fetches_or_reads_weights(name, option, config_of, packages):
    with pytest.raises(InputError, match="weights come from a file"):
        build_from_config(config_of(name, f"model.options={{{option}}}"), 8)
    assert not packages.calls


def test_a_package_that_cannot_be_imported_is_told_with_the_reason(config_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    text = f"r3d_18 needs torchvision, .* imported: .* that belongs to torch {torch.__version__[:3]}"
    with pytest.raises(MissingPackageError, match=text):
        build_from_config(config_of("torchvision/r3d_18"), 8)


def test_settings_of_blocks_survive_a_checkpoint(config_of):
    config = config_of(RESNET, BLOCKS, "model.pixel_mean=[0.4, 0.4, 0.4]", "model.pixel_std=[0.2, 0.2, 0.2]")
    assert parse_config(config_to_dict(config)) == config
    assert config.model.correlation["layer1"] == CorrelationConfig(kernel_size=3, dilation=1)


def test_blocks_leave_the_outputs_and_the_names_of_weights(config_of):
    torch.manual_seed(0)
    plain = build_from_config(config_of(RESNET), 8).eval()
    with_blocks = build_from_config(config_of(RESNET, BLOCKS), 8).eval()
    missing, unexpected = with_blocks.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(".correlation." in name for name in missing)
    missing, unexpected = plain.load_state_dict(with_blocks.state_dict(), strict=False)
    assert not missing and unexpected and all(".correlation." in name for name in unexpected)
    clips = torch.randn(2, 3, 8, 28, 28)
    assert torch.equal(plain(clips), with_blocks(clips))


def test_a_network_gets_clips_that_are_normalized_for_its_weights(config_of):
    mean, std = [0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]
    torch.manual_seed(0)
    plain = build_from_config(config_of(RESNET), 8).eval()
    given = config_of(RESNET, f"model.pixel_mean={mean}", f"model.pixel_std={std}")
    model = build_from_config(given, 8).eval()
    model.load_state_dict(plain.state_dict())
    video = torch.randint(256, (2, 3, 8, 28, 28), dtype=torch.uint8)
    middle, deviation = (torch.tensor(values).view(3, 1, 1, 1) for values in (mean, std))
    expected = plain((video / 255 - middle) / deviation)
    torch.testing.assert_close(model(normalize(video)), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain(normalize(video)), expected, atol=1e-3)


@pytest.mark.parametrize(("name", "head"), [(RESNET, "fc"), (S3D, "classifier.1"), (PICTURES, "network.fc")])
def test_the_classifier_is_found(name, head, config_of, packages):
    config = config_of("timm/resnet18" if name == PICTURES else name)
    # A block of as many channels as there are classes is none.
    model = build_from_config(config, 16)
    assert find_head(model, 16) == head
    assert find_head(model, 17) is None
    blocks = "{network.layer1: {kernel_size: 3}}" if name == PICTURES else "{}"
    model = build_from_config(config_of(config.model.name, f"model.correlation={blocks}"), 16)
    assert find_head(model, 16) == head


def test_arithmetic_is_counted(config_of):
    config = config_of("small_networks:OfFrames")
    assert clip_gmacs(build_from_config(config, 8), config.data.clip) == pytest.approx(8 * 8 / 1e9)
    config = config_of(S3D)
    convolutions = 4 * 14 * 14 * (3 * 27 * 8 + 8 * 27 * 8 + 8 * 8)
    assert clip_gmacs(build_from_config(config, 8), config.data.clip) == pytest.approx(convolutions / 1e9)


@pytest.mark.parametrize("name", [RESNET, "timm/resnet18"])
def test_layer_decay_goes_by_the_parts_of_a_network(name, config_of, packages):
    config = config_of(name, "optim.layer_decay=0.5")
    model = build_from_config(config, 8)
    factors = {
        id(p): group["lr_factor"]
        for group in build_optimizer(model, config.optim).param_groups
        for p in group["params"]
    }
    parts = {
        RESNET: {"fc": 1, "layer3": 0.5, "layer2": 0.25, "layer1": 0.125, "stem": 0.0625},
        "timm/resnet18": {
            "network.fc": 1,
            "network.layer1": 0.5,
            "network.bn1": 0.25,
            "network.conv1": 0.125,
        },
    }[name]
    found = {part: {factors[id(p)] for p in model.get_submodule(part).parameters()} for part in parts}
    assert found == {part: {factor} for part, factor in parts.items()}
    assert len(factors) == len(list(model.parameters()))


def test_layer_decay_takes_a_shared_weight_once(config_of):
    config = config_of("small_networks:Tied", "optim.layer_decay=0.5", "optim.weight_decay=0")
    model = build_from_config(config, 8)
    groups = build_optimizer(model, config.optim).param_groups
    assert [(group["params"], group["lr_factor"]) for group in groups] == [
        ([model.second.weight], 1), ([model.bias], 0.5),
    ]  # fmt: skip


@pytest.fixture
def trained(config_of):
    """The folder of a short run of a network of another package."""
    return (
        Trainer(config_of(RESNET, BLOCKS, "optim.epochs=0.5", "eval.every_epochs=0"))
        .run()
        .checkpoint.parents[1]
    )


def test_a_checkpoint_does_not_decide_what_is_imported(trained, monkeypatch):
    monkeypatch.delitem(sys.modules, "small_networks")
    monkeypatch.setattr(by_name, "_named", set())
    text = "is small_networks:VideoResNet, code that a checkpoint names, .* CORRNET_ALLOW_MODULES=small_networks "
    for allowed in ("", "small", "other,small_networks.more"):
        monkeypatch.setenv(by_name.ALLOWED_MODULES, allowed)
        with pytest.raises(InputError, match=text):
            VideoClassifier.from_checkpoint(trained, device="cpu")
    assert "small_networks" not in sys.modules
    monkeypatch.setenv(by_name.ALLOWED_MODULES, "other, small_networks")
    assert VideoClassifier.from_checkpoint(trained, device="cpu").model.fc.out_features == 8


def test_what_the_user_has_named_is_allowed(trained):
    assert VideoClassifier.from_checkpoint(trained, device="cpu").model.fc.out_features == 8
    by_name.check_allowed(RESNET)
    by_name.check_allowed("torchvision/r3d_18")
    with pytest.raises(InputError, match="CORRNET_ALLOW_MODULES=small_networks_too"):
        by_name.check_allowed("small_networks_too:net")


def test_the_real_torchvision(config_of):
    pytest.importorskip("torchvision", exc_type=Exception)
    config = config_of("torchvision/r2plus1d_18", BLOCKS, "data.clip.crop_size=32")
    model = build_from_config(config, 8)
    assert find_head(model, 8) == "fc" and isinstance(model, nn.Module)


def test_the_recipe_of_torchvision_fine_tunes_its_weights(packages, motionbench, tmp_path, capsys):
    """With a network of the same names and few channels, on small clips, in two steps."""
    import small_networks

    torch.save(small_networks.VideoResNet(400).state_dict(), tmp_path / "r2plus1d_18.pth")
    small = [
        f"model.init_from={tmp_path / 'r2plus1d_18.pth'}", f"data.shards={motionbench[1]}", "data.clip.num_frames=8",
        "data.clip.crop_size=28", "data.num_workers=0", "optim.samples_per_epoch=32", "optim.epochs=1",
        "optim.warmup_epochs=0.5", "run.device=cpu", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    trainer = Trainer(load_config("finetune_torchvision", small))
    said = " ".join(capsys.readouterr().err.split())
    assert "new: fc.weight, fc.bias, layer2.correlation, layer3.correlation" in said
    assert trainer.run().step == 2
    without = load_config("finetune_torchvision", ["model.correlation.layer3=null"])
    assert list(without.model.correlation) == ["layer2"]
