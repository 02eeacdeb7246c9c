"""Every variant of Table 4 and Figure 3, and the structure of Tables 2 and 3, built and looked at."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corr_ops import VideoCorrelation
from corrnet_models import VideoModel, create_model, model_config
from corrnet_models._blocks import Bottleneck, CorrelationConcat, CorrelationSum

VARIANTS: list[dict[str, Any]] = [
    {},
    {"corr_filters": "none"},
    {"corr_filters": "shared"},
    {"corr_group_size": None},
    {"corr_block": "concat"},
    {"corr_kernel_size": 3},
    {"corr_kernel_size": 7},
    {"corr_kernel_size": 9, "corr_block": "sum"},
    {"corr_dilation": 2},
    {"corr_searched": "current"},
    {"corr_norm_before": "none"},
    {"corr_norm_before": "bn_relu"},
    {"corr_norm_after": "bn"},
    {"corr_norm_after": "bn_relu"},
    {"corr_after": ("res3",)},
    {"corr_after": ("res2", "res3", "res4", "res5")},
    {"corr_middle": ("res4",), "depths": (1, 1, 3, 1)},
    {"temporal_convs": (True, True, True, True)},
    {"temporal_strides": (1, 1, 1, 1)},
    {"in_channels": 2},
]


def on_meta(name: str, **overrides: Any) -> VideoModel:
    with torch.device("meta"):
        return create_model(name, **overrides)


def operators(model: VideoModel) -> list[VideoCorrelation]:
    return [module for module in model.modules() if isinstance(module, VideoCorrelation)]


def filter_shapes(model: VideoModel) -> list[tuple[int, ...]]:
    return [tuple(operator.weight.shape) for operator in operators(model) if operator.weight is not None]


def bottlenecks(model: VideoModel, stage: str) -> list[Bottleneck]:
    return [block for block in model.get_submodule(stage).children() if isinstance(block, Bottleneck)]


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_every_variant_trains(overrides: dict[str, Any]) -> None:
    model = create_model("corrnet_tiny", **overrides)
    x = torch.randn(2, model.config.in_channels, 8, 32, 32)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_filters_have_the_shape_of_figure_4() -> None:
    assert filter_shapes(on_meta("corrnet26")) == [(32, 64, 7, 7), (32, 128, 7, 7), (16, 256, 7, 7)]
    assert filter_shapes(on_meta("corrnet101")) == [
        (32, 64, 7, 7),
        (32, 128, 7, 7),
        (16, 256, 7, 7),
        (16, 256, 7, 7),
    ]


def test_defaults_of_section_5() -> None:
    config = model_config("corrnet26")
    assert (config.corr_block, config.corr_kernel_size, config.corr_dilation) == ("sum", 7, 2)
    assert (config.corr_group_size, config.corr_filters) == (32, "per_frame")
    assert config.corr_after == ("res2", "res3", "res4")
    assert all(isinstance(block, CorrelationSum) for block in correlation_blocks(on_meta("corrnet26")))


def correlation_blocks(model: VideoModel) -> list[nn.Module]:
    return [block for block in model.modules() if isinstance(block, CorrelationSum | CorrelationConcat)]


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9])
def test_figure_3_window_sizes(kernel_size: int) -> None:
    model = on_meta("corrnet26", corr_kernel_size=kernel_size)
    area = kernel_size**2
    assert [block.expand.in_channels for block in correlation_blocks(model)] == [2 * area, 4 * area, 8 * area]
    assert all(shape[2:] == (kernel_size, kernel_size) for shape in filter_shapes(model))


def test_table_4_without_filter() -> None:
    model = on_meta("corrnet26", corr_filters="none")
    assert len(operators(model)) == 3
    assert filter_shapes(model) == []
    assert [block.expand.in_channels for block in correlation_blocks(model)] == [98, 196, 392]


def test_one_filter_for_all_frames() -> None:
    model = on_meta("corrnet26", corr_filters="shared")
    sizes = [operator.weight.numel() for operator in operators(model)]
    assert sizes == [64 * 49, 128 * 49, 256 * 49]


def test_table_4_without_grouping() -> None:
    model = on_meta("corrnet26", corr_group_size=None)
    assert [block.expand.in_channels for block in correlation_blocks(model)] == [49, 49, 49]
    assert filter_shapes(model) == filter_shapes(on_meta("corrnet26"))


def test_table_4_concat() -> None:
    model = on_meta("corrnet26", corr_block="concat")
    blocks = correlation_blocks(model)
    assert all(isinstance(block, CorrelationConcat) for block in blocks)
    assert [block.matching.out_channels for block in blocks] == [98, 196, 392]
    assert [block.appearance.conv.out_channels for block in blocks] == [256 - 98, 512 - 196, 1024 - 392]


def test_the_operators_have_the_options_of_the_configuration() -> None:
    """None of them as the operator has it by default."""
    model = on_meta(
        "corrnet26", corr_kernel_size=3, corr_dilation=1, corr_searched="current", corr_filters="shared",
        corr_group_size=16,
    )  # fmt: skip
    for index, operator in enumerate(operators(model)):
        assert (operator.kernel_size, operator.dilation) == ((3, 3), (1, 1))
        assert (operator.searched, operator.filters) == ("current", "shared")
        assert (operator.channels, operator.groups) == (64 << index, 4 << index)
    assert [operator.num_frames for operator in operators(on_meta("corrnet26"))] == [32, 32, 16]


def test_searched_frame_changes_the_scores() -> None:
    torch.manual_seed(0)
    previous = create_model("corrnet_tiny").eval()
    current = create_model("corrnet_tiny", corr_searched="current").eval()
    current.load_state_dict(previous.state_dict())
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(previous(x), current(x))


def test_sum_block_is_a_residual() -> None:
    block = correlation_blocks(create_model("corrnet_tiny"))[0]
    nn.init.zeros_(block.expand_bn.weight)
    x = torch.randn(2, 64, 8, 8, 8)
    assert torch.equal(block(x), torch.relu(x))


@pytest.mark.parametrize(("in_channels", "stride"), [(64, 1), (32, 1), (64, 2)])
def test_bottleneck_is_a_residual(in_channels: int, stride: int) -> None:
    block = Bottleneck(in_channels, 16, temporal_stride=stride, spatial_stride=stride)
    nn.init.zeros_(block.expand_bn.weight)
    shortcut = x = torch.randn(2, in_channels, 4, 8, 8)
    if (in_channels, stride) != (64, 1):
        shortcut = F.conv3d(x, block.get_parameter("shortcut.conv.weight"), stride=stride)
        shortcut = F.batch_norm(shortcut, None, None, training=True)
    torch.testing.assert_close(block(x), shortcut.relu(), rtol=1e-4, atol=1e-5)


def test_concat_block_puts_the_matches_first() -> None:
    block = correlation_blocks(create_model("corrnet_tiny", corr_block="concat"))[0].eval()
    x = torch.randn(2, 64, 8, 8, 8)
    with torch.no_grad():
        out = block(x)
        assert torch.equal(out[:, :50], torch.relu(block.matching(x)))
        assert torch.equal(out[:, 50:], torch.relu(block.appearance(x)))


@pytest.mark.parametrize("option", ["corr_norm_before", "corr_norm_after"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", lambda x: x),
        ("bn", lambda x: F.batch_norm(x, None, None, training=True)),
        ("bn_relu", lambda x: F.batch_norm(x, None, None, training=True).relu()),
    ],
)
def test_norms_around_the_operator_do_what_their_names_say(option: str, kind: str, expected: Any) -> None:
    matching = correlation_blocks(create_model("corrnet_tiny", **{option: kind}))[0].matching
    seen: list[Tensor] = []
    norm = matching.get_submodule(option.removeprefix("corr_"))
    norm.register_forward_hook(lambda module, inputs, output: seen.extend([*inputs, output]))
    matching(torch.randn(2, 64, 8, 8, 8))
    before, after = seen
    assert before.min() < 0
    torch.testing.assert_close(after, expected(before), rtol=1e-4, atol=1e-5)


def test_a_clip_of_one_repeated_frame_has_the_same_matches_everywhere() -> None:
    """The first frame is matched with itself (section 3), as the others are here."""
    block = correlation_blocks(create_model("corrnet_tiny"))[0].eval()
    x = torch.randn(1, 64, 1, 8, 8).expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        out = block(x)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))


def test_corrnet101_has_its_extra_block_amid_res4() -> None:
    names = [name for name, _ in on_meta("corrnet101").get_submodule("backbone.res4").named_children()]
    assert names.index("corr_middle") == 11
    assert names[-1] == "corr"
    assert len(names) == 23 + 2


def test_strides_of_table_2_stand_where_the_figures_need_them() -> None:
    model = on_meta("r2plus1d26")
    strides = {"res2": 1, "res3": 1, "res4": 2, "res5": 2}
    for stage, temporal_stride in strides.items():
        first, second = bottlenecks(model, f"backbone.{stage}")
        assert first.reduce.conv.stride == (1, 1, 1)
        assert first.temporal.conv.stride == (temporal_stride, 1, 1)
        assert first.spatial.conv.stride == (1, 2, 2)
        assert first.shortcut.conv.stride == (temporal_stride, 2, 2)
        assert isinstance(second.shortcut, nn.Identity)


def test_r2d_pools_where_it_strides_in_time() -> None:
    model = on_meta("r2d26")
    assert not any(isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1 for m in model.modules())
    pools = {name: m for name, m in model.named_modules() if isinstance(m, nn.MaxPool3d)}
    assert list(pools) == ["backbone.res4.block1.temporal", "backbone.res5.block1.temporal"]
    assert all(pool.kernel_size == (3, 1, 1) and pool.stride == (2, 1, 1) for pool in pools.values())


def test_corrnet_is_r2plus1d_with_a_narrow_stem_and_no_temporal_convolution_in_res2() -> None:
    corrnet, r2plus1d = on_meta("corrnet26"), on_meta("r2plus1d26")
    assert corrnet.get_submodule("backbone.stem.conv").out_channels == 32
    assert r2plus1d.get_submodule("backbone.stem.conv").out_channels == 64
    assert all(isinstance(block.temporal, nn.Identity) for block in bottlenecks(corrnet, "backbone.res2"))
    ours = {name for name in corrnet.state_dict() if ".corr." not in name}
    theirs = {name for name in r2plus1d.state_dict() if ".temporal." not in name or ".res2." not in name}
    assert ours == theirs


def test_two_streams_are_concatenated_after_pooling() -> None:
    model = create_model("r2plus1d_tiny_twostream").eval()
    x = torch.randn(2, 5, 8, 32, 32)

    def pooled(features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3, 4))

    with torch.no_grad():
        both = torch.cat([pooled(model.rgb(x[:, :3])), pooled(model.flow(x[:, 3:]))], dim=1)
        assert model.num_features == both.shape[1] == 1024
        torch.testing.assert_close(model(x), model.fc(both))


def test_table_5_single_stream_on_flow() -> None:
    model = create_model("r2plus1d_tiny", in_channels=2)
    assert model(torch.randn(1, 2, 8, 32, 32)).shape == (1, 8)
