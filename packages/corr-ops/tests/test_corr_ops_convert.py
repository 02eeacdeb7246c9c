"""Weights from and to the layout of tefantasy/CorrNet."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from corr_ops import VideoCorrelation, video_correlation
from corr_ops.convert import (
    channels_from_corrnet,
    channels_to_corrnet,
    weight_from_corrnet,
    weight_to_corrnet,
)

N, C, L, H, W = 2, 12, 4, 7, 9


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weighted_correlation_layer(
    x: torch.Tensor, filter_weight: torch.Tensor, dilation: int, groups: int
) -> torch.Tensor:
    """Evaluate the formula of WeightedCorrelationLayer channel by channel.

    Source: tefantasy/CorrNet, corr_net/models/correlation_net/corr.py.
    """
    kernel_size = filter_weight.shape[-1]
    radius = (kernel_size - 1) * dilation // 2
    num_clips, channels, num_frames, height, width = x.shape
    out = x.new_zeros(num_clips, kernel_size * kernel_size * groups, num_frames, height, width)
    per_group = channels // groups
    for frame in range(num_frames):
        first, second = x[:, :, max(frame - 1, 0)], F.pad(x[:, :, frame], [radius] * 4)
        for i in range(kernel_size):
            for j in range(kernel_size):
                moved = second[
                    :, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width
                ]
                response = filter_weight[:, frame, i, j].reshape(1, -1, 1, 1) * first * moved
                for group in range(groups):
                    members = response[:, group * per_group : (group + 1) * per_group]
                    out[:, (i * kernel_size + j) * groups + group, frame] = members.mean(1)
    return out


SETTINGS = pytest.mark.parametrize(
    ("kernel_size", "dilation", "groups"), [(3, 1, 1), (3, 2, 4), (5, 1, 3), (1, 1, 2), (3, 1, 12)]
)


@SETTINGS
def test_converted_filters_and_channels_give_their_outputs(
    kernel_size: int, dilation: int, groups: int
) -> None:
    x, theirs = random(N, C, L, H, W), random(C, L, kernel_size, kernel_size, seed=1)
    module = VideoCorrelation(
        C, L, kernel_size=kernel_size, dilation=dilation, groups=groups, searched="current"
    ).double()
    module.load_state_dict({"weight": weight_from_corrnet(theirs)})
    expected = weighted_correlation_layer(x, theirs, dilation, groups)
    out = module(x)
    torch.testing.assert_close(out, channels_from_corrnet(expected, groups=groups))
    torch.testing.assert_close(channels_to_corrnet(out, groups=groups), expected)


@SETTINGS
def test_converted_convolution_reads_the_converted_channels(
    kernel_size: int, dilation: int, groups: int
) -> None:
    x, theirs = random(N, C, L, H, W), random(C, L, kernel_size, kernel_size, seed=1)
    decode_weight = random(6, groups * kernel_size**2, 1, 1, 1, seed=2)
    expected = F.conv3d(weighted_correlation_layer(x, theirs, dilation, groups), decode_weight)
    out = video_correlation(
        x,
        weight_from_corrnet(theirs),
        kernel_size=kernel_size,
        dilation=dilation,
        groups=groups,
        searched="current",
    )
    torch.testing.assert_close(F.conv3d(out, channels_from_corrnet(decode_weight, groups=groups)), expected)


def test_concatenated_outputs_have_their_first_channels_converted() -> None:
    # Mode "concat": the next stage reads the G*K*K channels and then those of a bypass.
    x, theirs, bypass = random(N, C, L, H, W), random(C, L, 3, 3, seed=1), random(N, 5, L, H, W, seed=3)
    next_weight = random(6, 2 * 9 + 5, 1, 1, 1, seed=2)
    expected = F.conv3d(torch.cat([weighted_correlation_layer(x, theirs, 1, 2), bypass], dim=1), next_weight)
    converted = next_weight.clone()
    converted[:, : 2 * 9] = channels_from_corrnet(next_weight[:, : 2 * 9], groups=2)
    out = video_correlation(x, weight_from_corrnet(theirs), kernel_size=3, groups=2, searched="current")
    torch.testing.assert_close(F.conv3d(torch.cat([out, bypass], dim=1), converted), expected)


def test_there_and_back_is_the_identity() -> None:
    weight, outputs, scales = random(C, L, 3, 3), random(N, 36, L, H, W), random(36)
    assert torch.equal(weight_to_corrnet(weight_from_corrnet(weight)), weight)
    assert torch.equal(channels_to_corrnet(channels_from_corrnet(outputs, groups=4), groups=4), outputs)
    assert torch.equal(
        channels_from_corrnet(channels_to_corrnet(scales, groups=4, dim=0), groups=4, dim=-1), scales
    )
    assert not torch.equal(channels_from_corrnet(outputs, groups=4), outputs)
    assert torch.equal(channels_from_corrnet(outputs, groups=1), outputs)


def test_converted_filters_are_parameters_of_their_own() -> None:
    theirs = nn.Parameter(random(C, L, 3, 3))
    ours = weight_from_corrnet(theirs.detach())
    assert ours.is_contiguous()
    ours.zero_()
    assert theirs.detach().abs().min() > 0


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"filter_weight must be \[C, L, K, K\], got shape \[12, 3, 3\]"):
        weight_from_corrnet(random(12, 3, 3))
    with pytest.raises(ValueError, match=r"weight must be \[L, C, K, K\], got shape \[4, 12, 3, 5\]"):
        weight_to_corrnet(random(4, 12, 3, 5))
    with pytest.raises(ValueError, match=r"multiple of groups=4 channels, got shape \[2, 9, 1, 1\]"):
        channels_from_corrnet(random(2, 9, 1, 1), groups=4)
    with pytest.raises(ValueError, match="groups must be an integer of at least 1, got 0"):
        channels_to_corrnet(random(2, 9, 1, 1), groups=0)
    with pytest.raises(ValueError, match=r"got 4 for shape \[2, 9, 1, 1\]"):
        channels_to_corrnet(random(2, 9, 1, 1), groups=3, dim=4)
