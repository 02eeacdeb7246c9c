"""Stride and padding, made of slices of the frames and of the output.

Everything here is made of slices, copies of slices and one call of the operator, so derivatives, transforms
and implementations need to know nothing of it.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from corr_ops.ops import correlation_op


def correlation_at(
    base: Tensor,
    search: Tensor,
    weight: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    backend: str,
    *,
    stride: Sequence[int],
    valid: bool,
) -> Tensor:
    """Correlate at every (Sy, Sx)-th position, counted from the first one.

    Along an axis, every position and all its neighbors are multiples of the greatest common divisor of
    stride and dilation. The operator runs on those rows and columns alone, with stride and dilation divided
    by it. Where a stride is left after that, positions are computed that are not kept.

    Args:
        base: Frames [N, C, L, H, W].
        search: Searched frames [N, C, L, H, W].
        weight: Filters [L or 1, C, Ky, Kx], or None for ones.
        kernel_size: Neighborhood (Ky, Kx), odd.
        dilation: Distance between neighbors (Dy, Dx), in pixels.
        groups: Number of channel groups G.
        backend: Implementation.
        stride: Distance between positions (Sy, Sx), in pixels.
        valid: Whether to leave out positions with neighbors outside the frame.

    Returns:
        [N, G*Ky*Kx, L, H', W'] with H' = ceil(H/Sy), or ceil((H - 2*(Ky//2)*Dy) / Sy) when `valid`, and W'
        alike; channels_last_3d when `base` is, contiguous otherwise.
    """
    # With a single neighbor the dilation means nothing.
    common = [
        spacing if size == 1 else math.gcd(spacing, step)
        for size, step, spacing in zip(kernel_size, dilation, stride, strict=True)
    ]
    steps = [max(1, step // divisor) for step, divisor in zip(dilation, common, strict=True)]
    hops = [spacing // divisor for spacing, divisor in zip(stride, common, strict=True)]
    margins = [size // 2 * step if valid else 0 for size, step in zip(kernel_size, steps, strict=True)]
    if max(common) > 1:
        base, search = (frames[..., :: common[0], :: common[1]].clone() for frames in (base, search))
    out: Tensor = correlation_op(base, search, weight, kernel_size, steps, groups, 0, backend)
    if max(hops) > 1 or max(margins) > 0:
        rows, columns = (
            slice(margin, -margin or None, hop) for margin, hop in zip(margins, hops, strict=True)
        )
        out = out[..., rows, columns].clone()
    return out
