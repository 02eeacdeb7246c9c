"""The functions users call: they check a call, choose an implementation and hand over to `corr_ops.ops`."""

import operator
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor

from corr_ops._backends import IMPLEMENTATIONS, Backend, Explanation
from corr_ops._positions import correlation_at
from corr_ops.ops import autocast_dtype, choose, correlation_op

Padding = Literal["same", "valid"]
Searched = Literal["previous", "current"]

_BACKENDS = ("auto", *IMPLEMENTATIONS)
_PADDINGS = ("same", "valid")
_LAGS: dict[Searched, int] = {"previous": 1, "current": -1}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def correlation(
    base: Tensor,
    search: Tensor,
    weight: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    stride: int | tuple[int, int] = 1,
    padding: Padding = "same",
    backend: Backend = "auto",
) -> Tensor:
    """Correlate every position of `base` with its neighborhood in `search` (section 3, eq. 1).

    Output channel ``q*Ky*Kx + i*Kx + j`` at (y, x) is the mean, over the C/G channels c of group q, of
    ``weight[c, i, j] * base[c, y, x] * search[c, y + (i - Ky//2)*Dy, x + (j - Kx//2)*Dx]``; positions outside
    the frame count as zeros. Inside an autocast region the operator runs in the region's dtype. Products
    and sums are held in float32 at least.

    Args:
        base: Frames [N, C, H, W], or clips [N, C, L, H, W] whose frames are paired one by one.
        search: Searched frames, of the shape, dtype and device of `base`.
        weight: Filters [C, Ky, Kx] or [1, C, Ky, Kx]; for clips also [L, C, Ky, Kx]. None means ones.
        kernel_size: Neighborhood K or (Ky, Kx), odd.
        dilation: Distance between neighbors D or (Dy, Dx), in pixels.
        groups: Number of channel groups G; C must be a multiple of it.
        stride: Distance between output positions S or (Sy, Sx), in pixels; the first position is always
            there. A stride that divides the dilation saves the work for the positions it leaves out.
        padding: "same" gives an output for every position, "valid" only for those whose whole neighborhood
            lies inside the frame.
        backend: Implementation; "auto" takes the fastest that serves the call.

    Returns:
        [N, G*Ky*Kx, H', W'], or [N, G*Ky*Kx, L, H', W'] for clips, in the dtype of the inputs; channels-last
        when `base` is. H' is ceil(H / Sy) with "same" and ceil((H - (Ky-1)*Dy) / Sy) with "valid", W' alike.

    Raises:
        ValueError: If shapes, dtypes, devices or options do not fit together.
    """
    options = check_options(kernel_size=kernel_size, dilation=dilation, groups=groups)
    spacing = check_stride(stride)
    valid = check_padding(padding) == "valid"
    if base.dim() not in (4, 5):
        raise ValueError(f"base must be [N, C, H, W] or [N, C, L, H, W], got shape {list(base.shape)}")
    if search.shape != base.shape:
        raise ValueError(f"search must have the shape of base {list(base.shape)}, got {list(search.shape)}")
    if valid:
        _check_neighborhood_fits(base, options[0], options[1])
    check_channels(base.shape[1], groups)
    _check_alike(base=base, search=search, weight=weight)
    _check_backend(backend, base.device)
    clips, searched = (base, search) if base.dim() == 5 else (base.unsqueeze(2), search.unsqueeze(2))
    filters = _canonical_weight(weight, clips.shape[1], clips.shape[2], options[0])
    out = correlation_at(clips, searched, filters, *options, backend, stride=spacing, valid=valid)
    return out if base.dim() == 5 else out.squeeze(2)


def video_correlation(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    searched: Searched = "previous",
    backend: Backend = "auto",
) -> Tensor:
    """Correlate every frame of a clip with the frame before it (section 3, Table 1).

    Frame 0 is correlated with itself, so the output has as many frames as the input. No shifted copy of the
    clip is made. See `correlation` for the formula, the output channels and the dtypes.

    Args:
        x: Clips [N, C, L, H, W].
        weight: Filters [L, C, Ky, Kx], one set for each frame, or [C, Ky, Kx] or [1, C, Ky, Kx] for all of
            them. None means ones.
        kernel_size: Neighborhood K or (Ky, Kx), odd.
        dilation: Distance between neighbors D or (Dy, Dx), in pixels.
        groups: Number of channel groups G; C must be a multiple of it.
        searched: The frame whose neighborhoods are searched. "previous" takes positions from frame l and
            neighborhoods from frame l-1; "current" takes positions from frame l-1 and neighborhoods from
            frame l.
        backend: Implementation; "auto" takes the fastest that serves the call.

    Returns:
        [N, G*Ky*Kx, L, H, W] in the dtype of `x`; channels_last_3d when `x` is.

    Raises:
        ValueError: If shapes, dtypes, devices or options do not fit together.
    """
    options = check_options(kernel_size=kernel_size, dilation=dilation, groups=groups)
    lag = _LAGS[check_searched(searched)]
    if x.dim() != 5:
        raise ValueError(f"x must be [N, C, L, H, W], got shape {list(x.shape)}")
    check_channels(x.shape[1], groups)
    _check_alike(x=x, weight=weight)
    _check_backend(backend, x.device)
    hint = "; VideoCorrelation.set_num_frames converts trained filters to another clip length"
    filters = _canonical_weight(weight, x.shape[1], x.shape[2], options[0], hint=hint)
    return correlation_op(x, None, filters, *options, lag, backend)


def explain(x: Tensor, *, backend: Backend = "auto") -> Explanation:
    """Say which implementation serves a call on frames like `x`, and why.

    Args:
        x: Frames as given to `correlation` or `video_correlation`.
        backend: As given to them.

    Returns:
        The answer: true where compiled kernels serve the call, and one sentence as a string.

    Raises:
        ValueError: If no implementation of that name or for that dtype exists, or it cannot serve the call.
    """
    _check_alike(x=x)
    _check_backend(backend, x.device)
    name = choose(backend, x.device)
    unable = {
        other: reason
        for other, implementation in IMPLEMENTATIONS.items()
        if (reason := implementation.kernels.unavailable(x.device)) is not None
    }
    if backend == "auto":
        earlier = takewhile(lambda other: other != name, IMPLEMENTATIONS)
        steps = [f"{other} does not: {unable[other]}" for other in earlier]
        steps.append("the next that does" if steps else "the first that serves the call")
    else:
        steps = ["asked for by name"]
    dtype = str(autocast_dtype(x)).removeprefix("torch.")
    sentence = f"{name}: {IMPLEMENTATIONS[name].summary}; {'; '.join(steps)} ({dtype} on {x.device.type})."
    return Explanation(name, unable, sentence)


def check_options(
    *, kernel_size: int | tuple[int, int], dilation: int | tuple[int, int], groups: int
) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Check the options of the operator and spell them out.

    Args:
        kernel_size: Neighborhood K or (Ky, Kx).
        dilation: Distance between neighbors D or (Dy, Dx), in pixels.
        groups: Number of channel groups.

    Returns:
        (Ky, Kx), (Dy, Dx) and groups.

    Raises:
        ValueError: If kernel_size is not odd and positive, or dilation or groups not positive.
    """
    kernel = check_pair("kernel_size", kernel_size)
    steps = check_pair("dilation", dilation)
    if any(size < 1 or size % 2 == 0 for size in kernel):
        raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
    if any(step < 1 for step in steps):
        raise ValueError(f"dilation must be at least 1, got {dilation}")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an integer of at least 1, got {groups!r}")
    return kernel, steps, groups


def check_searched(searched: Searched) -> Searched:
    """Return `searched` when it is known.

    Args:
        searched: Which frame is searched.

    Returns:
        The argument.

    Raises:
        ValueError: If it is neither "previous" nor "current".
    """
    if searched not in _LAGS:
        raise ValueError(f"searched must be one of {list(_LAGS)}, got {searched!r}")
    return searched


def check_stride(stride: int | tuple[int, int]) -> tuple[int, int]:
    """Check a stride and spell it out.

    Args:
        stride: Distance between output positions S or (Sy, Sx), in pixels.

    Returns:
        (Sy, Sx).

    Raises:
        ValueError: If it is not positive.
    """
    spacing = check_pair("stride", stride)
    if any(step < 1 for step in spacing):
        raise ValueError(f"stride must be at least 1, got {stride}")
    return spacing


def check_padding(padding: Padding) -> Padding:
    """Return `padding` when it is known.

    Args:
        padding: Which positions have an output.

    Returns:
        The argument.

    Raises:
        ValueError: If it is neither "same" nor "valid".
    """
    if padding not in _PADDINGS:
        raise ValueError(f"padding must be one of {list(_PADDINGS)}, got {padding!r}")
    return padding


def check_pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Spell out an option for rows and columns.

    Args:
        name: Its name, for the message.
        value: One integer for both, or (y, x).

    Returns:
        (y, x).

    Raises:
        ValueError: If it is neither.
    """
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(v, int) for v in pair):
        raise ValueError(f"{name} must be an integer or a (y, x) pair of integers, got {value!r}")
    # Options are constants of a compiled graph, where torch.compile would take them for symbolic sizes.
    return operator.index(pair[0]), operator.index(pair[1])


def check_channels(channels: int, groups: int) -> None:
    """Check that channels split evenly into groups.

    Args:
        channels: Number of channels C.
        groups: Number of groups G.

    Raises:
        ValueError: If C is not a positive multiple of G.
    """
    if channels < 1 or channels % groups:
        raise ValueError(f"channels must be a positive multiple of groups={groups}, got {channels}")


def _check_neighborhood_fits(base: Tensor, kernel: tuple[int, int], steps: tuple[int, int]) -> None:
    """Check that at least one position has its whole neighborhood inside the frame."""
    needed = tuple((size - 1) * step + 1 for size, step in zip(kernel, steps, strict=True))
    if base.shape[-2] < needed[0] or base.shape[-1] < needed[1]:
        raise ValueError(
            f'padding "valid" with kernel_size={kernel} and dilation={steps} needs frames of at least '
            f"{needed[0]} x {needed[1]} pixels, got {base.shape[-2]} x {base.shape[-1]}"
        )


def _check_backend(backend: str, device: torch.device) -> None:
    """Check that an implementation is known and serves the device."""
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {list(_BACKENDS)}, got {backend!r}")
    if not torch.compiler.is_compiling():  # a graph finds out when it runs
        choose(backend, device)


def _check_alike(**tensors: Tensor | None) -> None:
    """Check that all tensors given by name have one supported dtype and one device."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} must have a dtype of {list(_DTYPES)}, got {tensor.dtype}")
    if len({autocast_dtype(tensor) for tensor in given.values()}) > 1:
        dtypes = {name: autocast_dtype(tensor) for name, tensor in given.items()}
        raise ValueError(f"all tensors must have one dtype, got {dtypes}")
    if len({tensor.device for tensor in given.values()}) > 1:
        devices = {name: str(tensor.device) for name, tensor in given.items()}
        raise ValueError(f"all tensors must be on one device, got {devices}")


def _canonical_weight(
    weight: Tensor | None, channels: int, num_frames: int, kernel: tuple[int, int], *, hint: str = ""
) -> Tensor | None:
    """Return filters as [L or 1, C, Ky, Kx]; `hint` ends the message about filters of another clip length."""
    if weight is None:
        return None
    filters = weight if weight.dim() == 4 else weight.unsqueeze(0)
    if filters.dim() != 4 or tuple(filters.shape[1:]) != (channels, *kernel):
        shared, frames = [channels, *kernel], [num_frames, channels, *kernel]
        raise ValueError(f"weight must be {shared} or {frames}, got shape {list(weight.shape)}")
    # Two comparisons, not "in": torch.compile answers "in" wrongly for symbolic sizes.
    if filters.shape[0] != 1 and filters.shape[0] != num_frames:
        raise ValueError(f"weight must have filters for {num_frames} frames, got {filters.shape[0]}{hint}")
    return filters
