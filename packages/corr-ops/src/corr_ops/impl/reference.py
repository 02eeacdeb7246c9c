"""Eq. 1 of the paper in plain tensor operations, on any device and floating-point dtype.

For each displacement (i, j) of the neighborhood the base frames are multiplied with the displaced searched
frames and averaged over the channels of a group. Displaced frames are views of the frames with a margin of
zeros: beside its results, nothing here is larger than that. Inside, tensors are [N, G, g, L, H, W]: clips,
groups, channels per group, frames, rows, columns.

Zeros outside of a frame are multiplied as all values are, so that a NaN or an infinity at its border gives NaN
in matches that reach outside. All implementations do so in the forward pass, and the tests compare them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from corr_ops.impl.buffers import accumulation_dtype, empty_gradient, empty_output

_ALL = slice(None)


def unavailable(device: torch.device) -> str | None:
    """Return why this implementation cannot serve a device: never, whatever the device.

    Args:
        device: Where the frames are.

    Returns:
        None. Other implementations return a clause that ends a message, as "PyTorch sees no GPU".
    """
    return None


def forward(
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    lag: int,
) -> Tensor:
    """Correlate every base position with its neighborhood in the searched frame (eq. 1).

    Args:
        base: Base frames [N, C, L, H, W].
        search: Searched frames [N, C, L, H, W]; None searches in `base` itself.
        weight: Filters [L or 1, C, Ky, Kx], or None for ones.
        kernel_size: Neighborhood (Ky, Kx), odd.
        dilation: Distance between neighbors (Dy, Dx), in pixels.
        groups: Number of channel groups G.
        lag: 0 pairs equal frames; 1 searches the previous frame; -1 searches the current frame for positions
            of the previous one.

    Returns:
        [N, G*Ky*Kx, L, H, W] in the dtype of `base`.
    """
    out = empty_output(base, kernel_size, groups)
    out_view = out.unflatten(1, (groups, -1))
    margins = _margins(kernel_size, dilation)
    padded = F.pad(_grouped(base if search is None else search, groups), margins)
    base = _grouped(base, groups)
    filters = None if weight is None else _grouped_filters(weight, groups)
    for at in _matches(base.shape, kernel_size, dilation, lag):
        products = base[at.base] * padded[at.search]
        if filters is not None:
            products *= _filters_at(filters, at)
        out_view[at.out] = products.mean(2)
    return out


def backward(
    grad: Tensor,
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    lag: int,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `forward` with respect to base, search and weight.

    Args:
        grad: Gradient of the output [N, G*Ky*Kx, L, H, W].
        base: As in `forward`.
        search: As in `forward`.
        weight: As in `forward`.
        kernel_size: As in `forward`.
        dilation: As in `forward`.
        groups: As in `forward`.
        lag: As in `forward`.
        needed: Which of the three gradients are asked for; the third only with a weight.

    Returns:
        Gradients shaped like base, search and weight; an empty tensor [0] where not needed. Where search is
        None the first is the sum of the gradients in both roles.
    """
    need_base, need_search, need_weight = needed
    assert search is not None or not need_search
    assert weight is not None or not need_weight
    results = [
        empty_gradient(factor, needed=wanted, grad=grad)
        for factor, wanted in zip((base, search, weight), needed, strict=True)
    ]
    sums = [torch.zeros_like(result, dtype=accumulation_dtype(result.dtype)) for result in results]
    grad_base = _grouped(sums[0], groups) if need_base else None
    grad_search = _grouped(sums[1], groups) if need_search else grad_base if search is None else None
    grad_filters = _grouped_filters(sums[2], groups) if need_weight else None

    margins = _margins(kernel_size, dilation)
    padded = F.pad(_grouped(base if search is None else search, groups), margins)
    base = _grouped(base, groups)
    filters = None if weight is None else _grouped_filters(weight, groups)
    grad = grad.unflatten(1, (groups, -1))
    for at in _matches(base.shape, kernel_size, dilation, lag):
        grad_at = grad[at.out].unsqueeze(2).to(base.dtype) / base.shape[2]
        if grad_base is not None or grad_filters is not None:
            grad_times_search = grad_at * padded[at.search]
            if grad_base is not None:
                _add_product(grad_base[at.base], grad_times_search, filters, at)
            if grad_filters is not None:
                slot = _filters_at(grad_filters, at)
                slot += (grad_times_search * base[at.base]).sum_to_size(slot.shape)
        if grad_search is not None:
            grad_times_base = F.pad(grad_at * base[at.base], margins)
            _add_product(grad_search[at.searched], grad_times_base[at.searching], filters, at)
    grads = [total.to(result.dtype) for total, result in zip(sums, results, strict=True)]
    return grads[0], grads[1], grads[2]


class _Match(NamedTuple):
    """One displacement over one run of frames.

    Attributes:
        base: The base frames.
        search: Their neighbors, in the padded searched frames.
        out: The matches.
        searched: The searched frames, without padding.
        searching: The positions whose neighbors those are, in padded products of this run.
        frames: The run of output frames.
        i, j: The displacement, whose filters these are.
    """

    base: tuple[slice, ...]
    search: tuple[slice, ...]
    out: tuple[slice | int, ...]
    searched: tuple[slice, ...]
    searching: tuple[slice, ...]
    frames: slice
    i: int
    j: int


def _matches(
    shape: Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int], lag: int
) -> Iterator[_Match]:
    """Yield every displacement (i, j) for every run of frames."""
    num_frames, height, width = shape[-3:]
    ky, kx = kernel_size
    for frames, base_frames, search_frames in _frame_runs(num_frames, lag):
        for i in range(ky):
            for j in range(kx):
                rows, mirrored_rows = (
                    slice(k * dilation[0], k * dilation[0] + height) for k in (i, ky - 1 - i)
                )
                columns, mirrored_columns = (
                    slice(k * dilation[1], k * dilation[1] + width) for k in (j, kx - 1 - j)
                )
                yield _Match(
                    base=(_ALL, _ALL, _ALL, base_frames),
                    search=(_ALL, _ALL, _ALL, search_frames, rows, columns),
                    out=(_ALL, _ALL, i * kx + j, frames),
                    searched=(_ALL, _ALL, _ALL, search_frames),
                    searching=(_ALL, _ALL, _ALL, _ALL, mirrored_rows, mirrored_columns),
                    frames=frames,
                    i=i,
                    j=j,
                )


def _margins(kernel_size: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Return how far neighbors reach on each side, as `F.pad` takes it."""
    rows, columns = (size // 2 * step for size, step in zip(kernel_size, dilation, strict=True))
    return [columns, columns, rows, rows]


def _frame_runs(num_frames: int, lag: int) -> list[tuple[slice, slice, slice]]:
    """Return runs of (output, base, searched) frames; a clip's first frame is matched with itself."""
    every, first = slice(0, num_frames), slice(0, 1)
    later, earlier = slice(1, num_frames), slice(0, num_frames - 1)
    if lag == 0:
        return [(every, every, every)]
    return [(first, first, first), (later, later, earlier) if lag == 1 else (later, earlier, later)]


def _grouped(frames: Tensor, groups: int) -> Tensor:
    """View [N, C, L, H, W] as [N, G, g, L, H, W]; 16-bit values become float32."""
    grouped: Tensor = frames.to(accumulation_dtype(frames.dtype)).unflatten(1, (groups, -1))
    return grouped


def _grouped_filters(weight: Tensor, groups: int) -> Tensor:
    """View [L or 1, C, Ky, Kx] as [G, g, L or 1, Ky, Kx]; 16-bit values become float32."""
    channels_first = weight.to(accumulation_dtype(weight.dtype)).transpose(0, 1)
    grouped: Tensor = channels_first.unflatten(0, (groups, -1))
    return grouped


def _filters_at(filters: Tensor, at: _Match) -> Tensor:
    """View the filters of one displacement and run of frames as [G, g, frames or 1, 1, 1]."""
    frames = at.frames if filters.shape[2] > 1 else _ALL
    return filters[:, :, frames, at.i, at.j, None, None]


def _add_product(total: Tensor, factor: Tensor, filters: Tensor | None, at: _Match) -> None:
    """Add factor times the filters of a displacement to `total` in place; filters None means ones."""
    if filters is None:
        total += factor
    else:
        total.addcmul_(factor, _filters_at(filters, at))
