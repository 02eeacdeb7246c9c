"""Helpers to test an implementation of the operator: an oracle, an error budget and shapes worth trying.

The oracle shares no code with the implementations: it pads the searched frames, loops over every output
channel and every input channel of its group, and leaves the gradients to autograd.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "LAGS",
    "Case",
    "assert_within_budget",
    "cases",
    "make_factors",
    "make_frames",
    "make_grad",
    "make_weight",
    "oracle_correlation",
    "oracle_results",
    "oracle_video_correlation",
    "run_implementation",
]

LAGS = {"pair": 0, "previous": 1, "current": -1}  # kinds of call, with what an implementation is told


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one call of the operator.

    Attributes:
        name: What is special about it; serves as a test id.
        num_clips: N.
        channels: C.
        num_frames: L.
        height: H, in pixels.
        width: W, in pixels.
        kernel_size: (Ky, Kx).
        dilation: (Dy, Dx), in pixels.
        groups: G.
    """

    name: str
    num_clips: int = 2
    channels: int = 4
    num_frames: int = 3
    height: int = 7
    width: int = 6
    kernel_size: tuple[int, int] = (3, 3)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 2


def cases() -> list[Case]:
    """Return small cases that cover the corners of the definition.

    Returns:
        Cases with unique names.
    """
    return [
        Case(name="plain"),
        Case(name="paper", kernel_size=(7, 7), dilation=(2, 2), height=14, width=14, channels=8),
        Case(name="one-group", groups=1),
        Case(name="group-per-channel", groups=4),
        Case(name="odd-sizes", num_clips=3, channels=9, height=11, width=5, groups=3, num_frames=5),
        Case(name="rectangular", kernel_size=(3, 5), dilation=(2, 1)),
        Case(name="kernel-1", kernel_size=(1, 1)),
        Case(name="kernel-wider-than-frame", kernel_size=(7, 9), height=3, width=4),
        Case(name="dilation-past-frame", kernel_size=(3, 3), dilation=(5, 9), height=4, width=6),
        Case(name="one-row", height=1, width=9),
        Case(name="one-pixel", height=1, width=1),
        Case(name="one-frame", num_frames=1),
        Case(name="two-frames", num_frames=2),
        Case(name="no-clips", num_clips=0),
    ]


def make_frames(
    case: Case, *, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0
) -> Tensor:
    """Return random frames of a case.

    Args:
        case: Sizes.
        dtype: Floating-point dtype.
        device: Where the tensor lives; the values are the same on every device.
        seed: Seed of the values.

    Returns:
        [N, C, L, H, W], normally distributed.
    """
    shape = (case.num_clips, case.channels, case.num_frames, case.height, case.width)
    return _normal(shape, dtype, device, seed)


def make_weight(
    case: Case,
    *,
    num_frames: int | None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 1,
) -> Tensor:
    """Return random filters of a case.

    Args:
        case: Sizes.
        num_frames: Number of frames with their own filters, or None for one set without a frame dimension.
        dtype: Floating-point dtype.
        device: Where the tensor lives; the values are the same on every device.
        seed: Seed of the values.

    Returns:
        [num_frames, C, Ky, Kx], or [C, Ky, Kx] when num_frames is None; normally distributed.
    """
    leading = () if num_frames is None else (num_frames,)
    return _normal((*leading, case.channels, *case.kernel_size), dtype, device, seed)


def _normal(shape: Sequence[int], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)


def make_factors(case: Case, kind: str, *, dtype: torch.dtype, device: str = "cpu") -> list[Tensor | None]:
    """Return random factors of a case, with other filters for each kind of call.

    Args:
        case: Sizes.
        kind: "pair" has one set of filters, "previous" one for each frame, "current" none; see `LAGS`.
        dtype: Floating-point dtype.
        device: Where the tensors live.

    Returns:
        base, search and weight as implementations take them.
    """
    x = make_frames(case, dtype=dtype, device=device)
    if kind == "pair":
        search = make_frames(case, dtype=dtype, device=device, seed=5)
        return [x, search, make_weight(case, num_frames=1, dtype=dtype, device=device)]
    if kind == "current":
        return [x, None, None]
    return [x, None, make_weight(case, num_frames=case.num_frames, dtype=dtype, device=device)]


def make_grad(case: Case, *, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Return a random gradient of the output of a case, [N, G*Ky*Kx, L, H, W].

    Args:
        case: Sizes.
        dtype: Floating-point dtype.
        device: Where the tensor lives.

    Returns:
        Normally distributed values.
    """
    taps = case.kernel_size[0] * case.kernel_size[1]
    shape = (case.num_clips, case.groups * taps, case.num_frames, case.height, case.width)
    return _normal(shape, dtype, device, seed=9)


def run_implementation(
    implementation: ModuleType,
    factors: Sequence[Tensor | None],
    grad: Tensor,
    case: Case,
    lag: int,
    needed: Sequence[bool] | None = None,
) -> list[Tensor]:
    """Call both directions of an implementation.

    Args:
        implementation: A module with `forward` and `backward` as in `corr_ops.impl.reference`.
        factors: base, search and weight.
        grad: Gradient of the output.
        case: Kernel size, dilation and groups.
        lag: As the implementation takes it.
        needed: Which gradients are asked for; None stands for all factors that there are.

    Returns:
        The output and the gradients that are needed.
    """
    numbers = (case.kernel_size, case.dilation, case.groups, lag)
    needed = needed or tuple(factor is not None for factor in factors)
    grads = implementation.backward(grad, *factors, *numbers, needed)
    wanted = [result for result, need in zip(grads, needed, strict=True) if need]
    return [implementation.forward(*factors, *numbers), *wanted]


@functools.cache
def oracle_results(case: Case, kind: str, dtype: torch.dtype, precision: torch.dtype) -> list[Tensor]:
    """Return what `run_implementation` has to for `make_factors` and `make_grad`.

    Args:
        case: Sizes and options.
        kind: Kind of call.
        dtype: Dtype to which the factors are rounded.
        precision: Dtype of every step.

    Returns:
        The output and the gradients of all factors, on the CPU, in `precision`.
    """
    factors = [
        None if factor is None else factor.to(precision) for factor in make_factors(case, kind, dtype=dtype)
    ]
    leaves = [factor.requires_grad_() for factor in factors if factor is not None]
    base, search, weight = factors
    assert base is not None
    if search is None:
        previous = torch.cat([base[:, :, :1], base[:, :, :-1]], dim=2)
        positions, searched = (base, previous) if kind == "previous" else (previous, base)
    else:
        positions, searched = base, search
    out = oracle_correlation(
        positions,
        searched,
        weight,
        kernel_size=case.kernel_size,
        dilation=case.dilation,
        groups=case.groups,
        dtype=precision,
    )
    grads = torch.autograd.grad(out, leaves, make_grad(case, dtype=dtype).to(precision))
    return [out.detach(), *grads]


def oracle_correlation(
    base: Tensor,
    search: Tensor,
    weight: Tensor | None = None,
    *,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Evaluate eq. 1 by brute force, differentiably.

    Args:
        base: Frames [N, C, L, H, W].
        search: Searched frames [N, C, L, H, W].
        weight: Filters [L or 1, C, Ky, Kx] or [C, Ky, Kx], or None.
        kernel_size: (Ky, Kx).
        dilation: (Dy, Dx), in pixels.
        groups: Number of channel groups G.
        dtype: Dtype of every step. float64 gives the exact result for practical purposes; the dtype of the
            inputs gives the error that plain tensor operations make.

    Returns:
        [N, G*Ky*Kx, L, H, W] in `dtype`.
    """
    base, search = base.to(dtype), search.to(dtype)
    num_clips, channels, num_frames, height, width = base.shape
    per_group = channels // groups
    pad_y, pad_x = (size // 2 * step for size, step in zip(kernel_size, dilation, strict=True))
    padded = F.pad(search, (pad_x, pad_x, pad_y, pad_y))
    channels_out = []
    for group, i, j in product(range(groups), range(kernel_size[0]), range(kernel_size[1])):
        row, column = i * dilation[0], j * dilation[1]
        total = torch.zeros(num_clips, num_frames, height, width, dtype=dtype, device=base.device)
        for channel in range(group * per_group, (group + 1) * per_group):
            neighbor = padded[:, channel, :, row : row + height, column : column + width]
            term = base[:, channel] * neighbor
            if weight is not None:
                term = term * weight[..., channel, i, j].to(dtype).reshape(-1, 1, 1)
            total = total + term
        channels_out.append(total / per_group)
    return torch.stack(channels_out, dim=1)


def oracle_video_correlation(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    searched: str = "previous",
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Evaluate the operator on clips by brute force, differentiably.

    Args:
        x: Clips [N, C, L, H, W].
        weight: As in `oracle_correlation`.
        kernel_size: (Ky, Kx).
        dilation: (Dy, Dx), in pixels.
        groups: Number of channel groups G.
        searched: "previous" or "current".
        dtype: As in `oracle_correlation`.

    Returns:
        [N, G*Ky*Kx, L, H, W] in `dtype`.
    """
    previous = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)
    base, search = (x, previous) if searched == "previous" else (previous, x)
    return oracle_correlation(
        base, search, weight, kernel_size=kernel_size, dilation=dilation, groups=groups, dtype=dtype
    )


def assert_within_budget(actual: Tensor, *, exact: Tensor, low_precision: Tensor) -> None:
    """Check a result against an error budget derived from the data.

    The largest error may be twice as large as that of plain tensor operations in the same dtype, plus a few
    roundings: ``2 * (max|low_precision - exact| + eps * max|exact|)``.

    Args:
        actual: Result under test.
        exact: The oracle's result in float64, same shape.
        low_precision: The oracle's result in the dtype of `actual`, same shape.

    Raises:
        AssertionError: If the shape differs, a value is not finite, or the budget is exceeded.
    """
    assert actual.shape == exact.shape, f"shape {list(actual.shape)} instead of {list(exact.shape)}"
    if exact.numel() == 0:
        return
    assert actual.isfinite().all(), "result has values that are not finite"
    inherent = (low_precision.double() - exact).abs().max().item()
    rounding = torch.finfo(actual.dtype).eps * exact.abs().max().item()
    error = (actual.double() - exact).abs().max().item()
    budget = 2 * (inherent + rounding)
    assert error <= budget, f"error {error:.3e} exceeds the budget {budget:.3e}"
