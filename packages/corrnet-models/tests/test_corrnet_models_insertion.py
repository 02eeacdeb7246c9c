"""Correlation blocks in networks of other packages: ones of their structure and names, and some real ones."""

import copy
import io
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from corrnet_models import (
    CorrelationBlock,
    CorrelationConfig,
    FrameByFrame,
    ModelError,
    add_correlation,
    create_model,
)

SMALL = CorrelationConfig(kernel_size=3, dilation=1, group_size=8)
RESIDUAL = CorrelationConfig(kernel_size=3, dilation=1, group_size=8, relu=True)


class Residual(nn.Module):
    """A block of torchvision's r3d, or of a ResNet of timm with `dims=2`."""

    def __init__(self, channels: int, out: int, stride: int, dims: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if dims == 3 else (nn.Conv2d, nn.BatchNorm2d)
        self.conv1 = nn.Sequential(conv(channels, out, 3, stride, 1, bias=False), norm(out), nn.ReLU())
        self.conv2 = nn.Sequential(conv(out, out, 3, 1, 1, bias=False), norm(out))
        self.downsample = nn.Sequential(conv(channels, out, 1, stride, bias=False), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.conv2(self.conv1(x)) + self.downsample(x))


class ResNet(nn.Module):
    """The modules and names of torchvision's video ResNets and of timm's ResNets."""

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        conv = nn.Conv3d if dims == 3 else nn.Conv2d
        self.stem = nn.Sequential(conv(3, 16, 3, padding=1, bias=False), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(Residual(16, 16, 1, dims), Residual(16, 16, 1, dims))
        self.layer2 = nn.Sequential(Residual(16, 32, 2, dims), Residual(32, 32, 1, dims))
        self.layer3 = nn.Sequential(Residual(32, 72, 2, dims))
        self.fc = nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(x.flatten(2).mean(2))


class Multipathway(nn.Module):
    """A network of pytorchvideo: blocks in a list, called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual(3, 16, 1, 3), Residual(16, 32, 2, 3), nn.AdaptiveAvgPool3d(1)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)


class Stage(nn.Module):
    """A stage of timm's RegNet, which runs all its children, or with `named` a sequence that knows its own alone."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.b1 = Residual(3, 16, 1, 3)
        self.named = named

    def forward(self, x: Tensor) -> Tensor:
        for block in [self.b1] if self.named else self.children():
            x = block(x)
        return x


class Stages(nn.Sequential):
    """Two stages, of both kinds, and a forward of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), Stage(named=False), nn.Conv3d(16, 3, 1), Stage(named=True))

    def forward(self, x: Tensor) -> Tensor:
        return self[3](self[2](self[1](self[0](x)))).mean((2, 3, 4))


class Layer(nn.Module):
    """A layer of a transformer: tokens [N, tokens, C], in a tuple as older layers of Hugging Face return them."""

    def __init__(self, channels: int, in_tuple: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        self.in_tuple = in_tuple

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        y = self.norm(x)
        y = x + self.attention(y, y, y, need_weights=False)[0]
        return (y,) if self.in_tuple else y


class Transformer(nn.Module):
    """VideoMAE, TimeSformer (`order="HWT"`, a class token, tuples) or a ViT of timm (`dims=2`) in small."""

    def __init__(
        self, order: str = "THW", class_token: bool = False, in_tuple: bool = False, dims: int = 3
    ) -> None:
        super().__init__()
        self.order, self.dims = order, dims
        self.patch = nn.Conv3d(3, 32, (2, 8, 8), (2, 8, 8)) if dims == 3 else nn.Conv2d(3, 32, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, int(class_token), 32))
        self.layer = nn.ModuleList(Layer(32, in_tuple) for _ in range(2))
        self.classifier = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.patch(x.transpose(1, 2)) if self.dims == 3 else self.patch(x)
        )  # Hugging Face takes [N, T, C, H, W]
        x = x.permute(0, 3, 4, 2, 1) if self.order == "HWT" else x.movedim(1, -1)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, -2)], dim=1)
        for layer in self.layer:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.classifier(x.mean(1))


class ChannelsLast(nn.Module):
    """Maps [N, T, H, W, C], as in torchvision's Swin3D."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, 24, (1, 4, 4), (1, 4, 4))
        self.features = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.patch(x).movedim(1, -1)).mean((1, 2, 3))


def clips(number: int = 1, frames: int = 8) -> Tensor:
    return torch.randn(number, 3, frames, 16, 16, generator=torch.Generator().manual_seed(1))


def of_transformers(number: int = 1) -> Tensor:
    return clips(number).transpose(1, 2)


CASES = {
    "torchvision": (ResNet, clips, {"layer2": RESIDUAL, "layer3": SMALL, "layer1.0": RESIDUAL}),
    "pytorchvideo": (Multipathway, clips, {"blocks.1": RESIDUAL}),
    "timm": (
        lambda: FrameByFrame(ResNet(dims=2), 8),
        clips,
        {"network.layer2": RESIDUAL, "network.layer3.0": SMALL},
    ),
    "timm ViT": (
        lambda: FrameByFrame(Transformer(class_token=True, dims=2), 8),
        clips,
        {"network.layer.0": SMALL.model_copy(update={"grid": (2, 2), "prefix_tokens": 1})},
    ),
    "VideoMAE": (Transformer, of_transformers, {"layer.0": CorrelationConfig(kernel_size=3, grid=(4, 2, 2))}),
    "TimeSformer": (
        lambda: Transformer("HWT", class_token=True, in_tuple=True),
        of_transformers,
        {"layer.1": CorrelationConfig(grid=(4, 2, 2), token_order="HWT", prefix_tokens=1)},
    ),
    "RegNet": (Stages, clips, {"1": RESIDUAL, "3": RESIDUAL}),
    "Swin3D": (ChannelsLast, clips, {"features": SMALL}),
    "corrnet": (lambda: create_model("r2d_tiny", num_frames=8), clips, {"backbone.res3": RESIDUAL}),
}


@cache
def networks(name):
    """Return a network whose batch norms have seen something, and the same with blocks."""
    torch.manual_seed(0)
    make, example, blocks = CASES[name]
    plain = make()
    with torch.no_grad():
        for _ in range(2):
            plain(example(2))
    return plain, add_correlation(copy.deepcopy(plain), blocks, example())


@pytest.fixture(params=CASES)
def case(request):
    """Copies of the two networks, and clips for them."""
    _, example, _ = CASES[request.param]
    return *copy.deepcopy(networks(request.param)), example(3)


def blocks_of(model: nn.Module) -> dict[str, CorrelationBlock]:
    return {path: part for path, part in model.named_modules() if isinstance(part, CorrelationBlock)}


@pytest.mark.parametrize(
    ("precision", "training"), [("fp32", False), ("fp32", True), ("bf16", False), ("autocast", True)]
)
def test_outputs_are_unchanged_to_the_bit(case, precision, training):
    plain, model, x = case
    if precision == "bf16":
        plain, model, x = plain.bfloat16(), model.bfloat16(), x.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        before, after = plain.train(training)(x), model.train(training)(x)
    assert after.dtype == before.dtype
    assert torch.equal(after, before)


def test_blocks_take_part_once_they_are_trained(case):
    plain, model, x = case
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1)
    for _ in range(2):  # the first step moves the scale, the second all that is behind it
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for block in blocks_of(model).values():
        assert all(p.grad is not None and p.grad.any() for p in block.parameters())
    model.load_state_dict(plain.state_dict(), strict=False)  # all but the blocks as it was
    assert not torch.equal(model.eval()(x), plain.eval()(x))


def test_state_dicts_load_in_both_directions(case):
    plain, model, x = case
    names = [name for name in model.state_dict() if ".correlation." in name]
    assert len(names) == sum(len(block.state_dict()) for block in blocks_of(model).values()) > 0
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.01)
    found = model.load_state_dict(plain.state_dict(), strict=False)
    counters = {name for name in names if name.endswith("num_batches_tracked")}  # torch never misses them
    assert set(names) - counters <= set(found.missing_keys) <= set(names) and found.unexpected_keys == []
    assert torch.equal(model.eval()(x), plain.eval()(x))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    found = plain.load_state_dict(model.state_dict(), strict=False)
    assert sorted(found.unexpected_keys) == sorted(names) and found.missing_keys == []


def test_copies_and_pickles_have_blocks_of_their_own(case):
    _, model, x = case
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)
    for block in blocks_of(model).values():
        nn.init.ones_(block.expand_bn.weight)
    changed = model.eval()(x)
    for other in (
        copy.deepcopy(model).eval(),
        torch.load(io.BytesIO(file.getvalue()), weights_only=False).eval(),
    ):
        before = other(x)
        for block in blocks_of(other).values():
            nn.init.constant_(block.expand_bn.weight, 2)
        assert not torch.equal(other(x), before)
        assert torch.equal(model(x), changed)


@pytest.mark.parametrize("name", CASES)
def test_the_network_keeps_its_modes_and_buffers(name):
    make, example, blocks = CASES[name]
    model = make()
    first = next(model.children()).eval()
    modes = {path: module.training for path, module in model.named_modules()}
    buffers = {path: buffer.clone() for path, buffer in model.named_buffers()}
    assert add_correlation(model, blocks, example()) is model
    assert not first.training
    assert {path: model.get_submodule(path).training for path in modes} == modes
    assert all(torch.equal(model.get_buffer(path), buffer) for path, buffer in buffers.items())
    for path in blocks:
        block = model.get_submodule(f"{path}.correlation")
        assert all(part.training == modes[path] for part in block.modules())


def test_a_block_sees_clips_in_their_order(case):
    _, model, x = case
    seen = {}
    for path, block in blocks_of(model).items():
        block.matching.register_forward_pre_hook(lambda _, args, path=path: seen.update({path: args[0]}))
    model.eval()(x)
    for path, block in blocks_of(model).items():
        y = seen[path]
        assert y.dim() == 5 and y.shape[0] == 3 and y.shape[1] == block.expand_bn.num_features
        assert y.shape[2] == block.matching.correlation.num_frames and y.shape[3] == y.shape[4]


@pytest.mark.parametrize(("order", "prefix"), [("THW", 0), ("HWT", 2)])
def test_tokens_are_unfolded_in_their_order(order, prefix):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x)

    clip = torch.arange(2 * 8 * 3 * 4 * 5.0).reshape(2, 8, 3, 4, 5)
    tokens = clip.flatten(2) if order == "THW" else clip.permute(0, 1, 3, 4, 2).flatten(2)
    tokens = torch.cat([torch.full((2, prefix, 8), -1.0), tokens.transpose(1, 2)], dim=1)
    config = CorrelationConfig(kernel_size=3, grid=(3, 4, 5), token_order=order, prefix_tokens=prefix)
    model = add_correlation(Tokens(), {"last": config}, tokens)
    seen = []
    block = model.last.correlation
    block.matching.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block.expand_bn.register_forward_hook(lambda _, args, out: torch.full_like(out, 0.5))
    out = model(tokens)
    assert torch.equal(seen[0], clip)
    assert torch.equal(out[:, :prefix], tokens[:, :prefix])
    assert torch.equal(out[:, prefix:], tokens[:, prefix:] + 0.5)


def test_frames_of_different_clips_never_meet():
    torch.manual_seed(0)
    model = add_correlation(FrameByFrame(ResNet(dims=2), 8), {"network.layer2": RESIDUAL}, clips()).eval()
    nn.init.ones_(model.network.layer2.correlation.expand_bn.weight)
    x = clips(2)
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    with pytest.raises(ValueError, match=r"expected clips \[N, C, 8, H, W\]; got \[2, 3, 6, 16, 16\]"):
        model(clips(2, frames=6))
    with pytest.raises(ValueError, match="num_frames must be at least 1; got 0"):
        FrameByFrame(ResNet(dims=2), 0)


def test_frame_by_frame_is_the_mean_over_frames():
    network = ResNet(dims=2).eval()
    x = clips(2)
    expected = torch.stack([network(x[:, :, t]) for t in range(8)]).mean(0)
    torch.testing.assert_close(FrameByFrame(network, 8)(x), expected)


class Odd(nn.Module):
    """What no block can stand behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 1)
        self.twice = nn.Conv3d(8, 8, 1)
        self.named = Named()
        self.dense = Dense({"layer": First()})
        self.summed = Summed({"layer": nn.Identity()})
        self.unused = nn.Conv3d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool3d((1, 2, 2))
        self.oblong = nn.AdaptiveAvgPool3d((2, 3, 4))
        self.flat = nn.Flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.named(self.twice(self.twice(self.conv(x))))["x"]
        self.dense(x), self.summed(x)
        self.pool(x), self.oblong(x)
        return self.flat(x)


class Dense(nn.ModuleDict):
    """A block of timm's DenseNet: it gives each of its layers a list of all maps so far."""

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.values():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class Summed(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x) for layer in self.values())


class First(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0]


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


@pytest.mark.parametrize(
    ("make", "path", "config", "message"),
    [
        (ResNet, "layer7", SMALL, r"no module 'layer7': the network has stem, layer1, layer2, layer3, fc"),
        (ResNet, "layer2.5", SMALL, r"no module 'layer2.5': layer2 has 0, 1$"),
        (ResNet, "fc.a", SMALL, r"no module 'fc.a': fc has no modules in it"),
        (ResNet, "", SMALL, r"no module ''"),
        (ResNet, "fc", SMALL, r"fc puts out \[1, 5\]; blocks take maps of clips"),
        (ResNet, "layer2.0.conv2", RESIDUAL, "layer2.0.conv2 puts out negative values, which relu=True"),
        (Odd, "twice", SMALL, "twice is run 2 times in a pass of the network, not once"),
        (Odd, "unused", SMALL, "unused is run 0 times"),
        (Odd, "dense", SMALL, "got a list from it: the module runs the modules in it in a way of its own"),
        (Odd, "summed", SMALL, "summed runs the modules in it in a way of its own"),
        (Odd, "named", SMALL, "named puts out a dict; blocks take a tensor"),
        (Odd, "pool", SMALL, r"pool puts out one frame, \[1, 8, 1, 2, 2\]"),
        (Odd, "oblong", SMALL, r"oblong puts out \[1, 8, 2, 3, 4\]: which of them are height and width"),
        (Odd, "flat", SMALL, r"flat puts out \[1, 8, 2048\]; for tokens \[N, tokens, C\] state their grid"),
        (
            Odd,
            "conv",
            CorrelationConfig(grid=(4, 2, 2)),
            r"conv puts out .* a grid \(T, H, W\) is for tokens",
        ),
        (Odd, "flat", CorrelationConfig(grid=(2, 2)), r"a grid \(T, H, W\) is for tokens .* got \(2, 2\)"),
        (
            Odd,
            "flat",
            CorrelationConfig(grid=(1, 2, 2)),
            r"flat: expected 4 tokens .* after prefix_tokens=0; got 8 in all",
        ),
    ],
)
def test_what_cannot_be_is_named_and_leaves_the_network_as_it_was(make, path, config, message):
    model = make()
    names = list(model.state_dict())
    fits = {"layer1": SMALL} if make is ResNet else {"conv": SMALL}
    with pytest.raises(ModelError, match=message):
        add_correlation(model, {path: config} if path in fits else {**fits, path: config}, clips())
    assert list(model.state_dict()) == names
    assert not any(part._forward_hooks for part in model.modules())
    assert model.training


def test_pictures_without_clips_and_second_blocks_are_refused():
    with pytest.raises(
        ModelError, match=r"layer2 puts out \[1, 32, 8, 8\], pictures: .* FrameByFrame\(network"
    ):
        add_correlation(ResNet(dims=2), {"layer2": SMALL}, clips()[:, :, 0])
    model = add_correlation(ResNet(), {"layer2": SMALL}, clips())
    with pytest.raises(ModelError, match="layer2 has a 'correlation' already"):
        add_correlation(model, {"layer2": SMALL}, clips())
    with pytest.raises(ValueError, match="filters for 3 frames, got 4"):
        model(clips(frames=6))
    shared = add_correlation(ResNet(), {"layer2": SMALL.model_copy(update={"filters": "shared"})}, clips())
    assert shared(clips(frames=6)).shape == (1, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernel_size": 4}, "must be odd"),
        ({"kernel": 3}, "Extra inputs are not permitted"),
        ({"prefix_tokens": 1}, "state their grid as well"),
        ({"grid": (2, 2), "token_order": "HWT"}, r"state their grid as \(T, H, W\)"),
        ({"grid": (0, 2, 2)}, "greater than 0"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CorrelationConfig(**values)


@pytest.mark.parametrize(
    ("channels", "group_size", "width", "groups"),
    [
        (256, 32, 64, 2),
        (64, 32, 16, 1),
        (160, 32, 32, 1),
        (960, 32, 224, 7),
        (960, None, 240, 1),
        (3, 32, 1, 1),
    ],
)
def test_a_block_takes_any_number_of_channels(channels, group_size, width, groups):
    block = CorrelationBlock(channels, 2, CorrelationConfig(kernel_size=3, group_size=group_size))
    assert (block.matching.correlation.channels, block.matching.correlation.groups) == (width, groups)
    x = torch.randn(2, channels, 2, 3, 3)
    assert torch.equal(block(x), x)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["torchvision", "TimeSformer"], indirect=True)
def test_compiles_to_one_graph(case):
    _, model, x = case
    for block in blocks_of(model).values():
        nn.init.ones_(block.expand_bn.weight)
    with torch.no_grad():
        compiled = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["timm", "TimeSformer"], indirect=True)
def test_exports_with_a_free_batch_size(case):
    _, model, x = case
    for block in blocks_of(model).values():
        nn.init.ones_(block.expand_bn.weight)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: batch},))
    for number in (1, 2, 3):
        torch.testing.assert_close(program.module()(x[:number]), model(x[:number]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_networks_of_torchvision(name):
    models = pytest.importorskip("torchvision.models.video", exc_type=(ImportError, RuntimeError))
    plain = getattr(models, name)().eval()
    x = torch.randn(1, 3, 4, 32, 32)
    config = CorrelationConfig(kernel_size=3, relu=True)
    model = add_correlation(copy.deepcopy(plain), {"layer2": config, "layer3": config}, x)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


@pytest.mark.slow
def test_a_network_of_timm():
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    plain = FrameByFrame(timm.create_model("resnet18", num_classes=4), 4).eval()
    x = torch.randn(1, 3, 4, 64, 64)
    model = add_correlation(copy.deepcopy(plain), {"network.layer2": CorrelationConfig(relu=True)}, x)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
