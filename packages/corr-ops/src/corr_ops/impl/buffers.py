"""Shapes, dtypes and memory formats of what every implementation returns."""

from collections.abc import Sequence

import torch
from torch import Tensor


def empty_output(base: Tensor, kernel_size: Sequence[int], groups: int) -> Tensor:
    """Return an uninitialized output of the forward operator.

    Args:
        base: Base frames [N, C, L, H, W].
        kernel_size: Neighborhood (Ky, Kx).
        groups: Number of channel groups G.

    Returns:
        [N, G*Ky*Kx, L, H, W] in the dtype of `base`; channels_last_3d when `base` is, contiguous otherwise.
    """
    num_clips, _, *frames_rows_columns = base.shape
    shape = (num_clips, groups * kernel_size[0] * kernel_size[1], *frames_rows_columns)
    channels_last = not base.is_contiguous() and base.is_contiguous(memory_format=torch.channels_last_3d)
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=base.dtype, device=base.device, memory_format=memory_format)


def empty_gradient(factor: Tensor | None, *, needed: bool, grad: Tensor) -> Tensor:
    """Return an uninitialized gradient of one factor of the product (base, search or weight).

    Args:
        factor: The factor, or None where the call has no weight.
        needed: Whether its gradient is asked for.
        grad: Gradient of the output, which gives the placeholder its dtype and device.

    Returns:
        A tensor like `factor`, in its strides where they are dense; an empty placeholder [0] when not needed.
    """
    return torch.empty_like(factor) if needed and factor is not None else grad.new_empty(0)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of products and sums: float32, or `dtype` itself where that is wider."""
    return torch.promote_types(dtype, torch.float32)
