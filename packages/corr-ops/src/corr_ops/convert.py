"""Trained weights from and to the layout of tefantasy/CorrNet (corr_net/models/correlation_net/corr.py).

Its WeightedCorrelationLayer takes positions from the previous frame and searches the current one, which is
``searched="current"`` here. Beyond that, two orders differ from `corr_ops.VideoCorrelation`:

- Filters are [C, L, K, K] instead of [L, C, K, K].
- Displacements come before groups in the output channels: channel (i*K + j)*G + q is q*K*K + i*K + j here. A
  convolution that reads the output has to have its input channels reordered alike: all of those of
  ``decode_conv.0.weight`` in mode "sum", the first G*K*K of those of the next stage in mode "concat". With
  one group the orders are the same.

For a layer of two groups, with ``state`` the state of a WeightedCorrelationBlock:

    module = VideoCorrelation(channels, num_frames, dilation=2, groups=2, searched="current")
    module.load_state_dict({"weight": weight_from_corrnet(state["correlation.filter_weight"])})
    decode_weight = channels_from_corrnet(state["decode_conv.0.weight"], groups=2)
"""

import torch
from torch import Tensor

__all__ = ["channels_from_corrnet", "channels_to_corrnet", "weight_from_corrnet", "weight_to_corrnet"]


def weight_from_corrnet(filter_weight: Tensor) -> Tensor:
    """Convert the filters of a WeightedCorrelationLayer to those of `corr_ops.VideoCorrelation`.

    Args:
        filter_weight: Filters [C, L, K, K].

    Returns:
        The same filters as [L, C, K, K], in memory of their own.

    Raises:
        ValueError: If the filters do not have four dimensions, the last two alike.
    """
    return _swap_frames_and_channels("filter_weight", "[C, L, K, K]", filter_weight)


def weight_to_corrnet(weight: Tensor) -> Tensor:
    """Convert the filters of a `corr_ops.VideoCorrelation` to those of a WeightedCorrelationLayer.

    Args:
        weight: Filters per frame [L, C, K, K].

    Returns:
        The same filters as [C, L, K, K], in memory of their own.

    Raises:
        ValueError: If the filters do not have four dimensions, the last two alike.
    """
    return _swap_frames_and_channels("weight", "[L, C, K, K]", weight)


def channels_from_corrnet(tensor: Tensor, *, groups: int, dim: int = 1) -> Tensor:
    """Reorder output channels of a WeightedCorrelationLayer to those of `corr_ops.VideoCorrelation`.

    Args:
        tensor: Outputs [N, G*K*K, L, H, W]; or the weight [Cout, G*K*K, ...] of a convolution that reads
            them, which then reads the reordered outputs with the same result.
        groups: Number of channel groups G.
        dim: Dimension that holds the G*K*K channels; 0 for vectors of values per channel.

    Returns:
        A tensor of the same shape; channel q*K*K + i*K + j is channel (i*K + j)*G + q of `tensor`.

    Raises:
        ValueError: If the dimension does not have a positive multiple of G channels.
    """
    _check_reorder(tensor, groups, dim)
    return _transpose_channels(tensor, tensor.shape[dim] // groups, groups, dim)


def channels_to_corrnet(tensor: Tensor, *, groups: int, dim: int = 1) -> Tensor:
    """Reorder output channels of a `corr_ops.VideoCorrelation` to those of a WeightedCorrelationLayer.

    Args:
        tensor: As in `channels_from_corrnet`.
        groups: As there.
        dim: As there.

    Returns:
        A tensor of the same shape; channel (i*K + j)*G + q is channel q*K*K + i*K + j of `tensor`.

    Raises:
        ValueError: If the dimension does not have a positive multiple of G channels.
    """
    _check_reorder(tensor, groups, dim)
    return _transpose_channels(tensor, groups, tensor.shape[dim] // groups, dim)


def _swap_frames_and_channels(name: str, layout: str, weight: Tensor) -> Tensor:
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"{name} must be {layout}, got shape {list(weight.shape)}")
    return weight.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _check_reorder(tensor: Tensor, groups: int, dim: int) -> None:
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an integer of at least 1, got {groups!r}")
    if not -tensor.dim() <= dim < tensor.dim():
        raise ValueError(f"dim must be a dimension of the tensor, got {dim} for shape {list(tensor.shape)}")
    if tensor.shape[dim] < 1 or tensor.shape[dim] % groups:
        raise ValueError(
            f"dimension {dim} must have a positive multiple of groups={groups} channels, "
            f"got shape {list(tensor.shape)}"
        )


def _transpose_channels(tensor: Tensor, outer: int, inner: int, dim: int) -> Tensor:
    """Read a dimension as [outer, inner] and return it as [inner, outer]."""
    first = dim % tensor.dim()
    pairs: Tensor = tensor.unflatten(first, (outer, inner))
    return pairs.transpose(first, first + 1).flatten(first, first + 1)
