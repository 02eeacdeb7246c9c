"""Rewrites the operator into PyTorch's own operators, for exporters that know no others, as ONNX's."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corr_ops.impl.buffers import accumulation_dtype
from corr_ops.ops import correlation_op


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the table that rewrites the operator into PyTorch's own operators.

    For a program from ``torch.export.export``: ``program.run_decompositions(corr_ops.decompositions())``. The
    program then runs without this package, and ``torch.onnx.export`` takes it. It holds one product and one
    mean for every position of the neighborhood, of any batch size that the program allows.

    Returns:
        A new dictionary from the operator to its decomposition, to be merged with other tables at will.
    """
    return {correlation_op: _correlation}


def _correlation(
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    lag: int,
    backend: str,
) -> Tensor:
    """Evaluate eq. 1 without writing into any tensor; arguments as in `corr_ops.ops`."""
    height, width = base.shape[-2:]
    wide = accumulation_dtype(base.dtype)
    base_frames, search_frames = _paired(base.to(wide), (base if search is None else search).to(wide), lag)
    margins = [size // 2 * step for size, step in zip(kernel_size, dilation, strict=True)]
    padded = F.pad(search_frames, (margins[1], margins[1], margins[0], margins[0]))
    # Inside, frames are [N, G, C/G, L, H, W] and filters [G, C/G, L or 1, 1, 1, Ky*Kx], so that a position takes one
    # operator to choose its own: exporters take as long as the program.
    base_frames, padded = base_frames.unflatten(1, (groups, -1)), padded.unflatten(1, (groups, -1))
    filters = None
    if weight is not None:
        by_channel = weight.to(wide).transpose(0, 1).unflatten(0, (groups, -1))
        filters = by_channel[:, :, :, None, None].flatten(-2)
    matches = []
    for i in range(kernel_size[0]):
        rows = padded[..., i * dilation[0] : i * dilation[0] + height, :]
        for j in range(kernel_size[1]):
            products = base_frames * rows[..., j * dilation[1] : j * dilation[1] + width]
            if filters is not None:
                products = products * filters.select(-1, i * kernel_size[1] + j)
            matches.append(products.mean(2))
    return torch.stack(matches, dim=2).flatten(1, 2).to(base.dtype)


def _paired(base: Tensor, search: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Return the base and the searched frame of every output frame; see `corr_ops.impl.reference`."""
    if lag == 0:
        return base, search
    if lag == 1:
        return base, torch.cat([search[:, :, :1], search[:, :, :-1]], dim=2)
    return torch.cat([base[:, :, :1], base[:, :, :-1]], dim=2), search
