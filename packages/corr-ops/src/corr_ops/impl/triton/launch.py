"""What is launched for a call: kernel, grid, arguments. Nothing here touches the data."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corr_ops.impl.triton import configs

_MAX_CHANNELS = 32  # of one tile
_MAX_SPLITS, _MIN_TILES = 16, 8  # of the sums for filters


class Launch(NamedTuple):
    """One call of a kernel.

    Attributes:
        kernel: Its name in `kernels`.
        grid: Programs on the two axes.
        arguments: Tensors, sizes and strides by name.
        constants: What the kernel is compiled for, by name.
        num_warps: Warps of a program.
    """

    kernel: str
    grid: tuple[int, int]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    num_warps: int


class Call(NamedTuple):
    """The operator's options for frames [N, C, L, H, W]."""

    kernel_size: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    lag: int
    target: str

    def constants(self, channels: int) -> dict[str, Any]:
        """Return the constants that every kernel has."""
        return {
            "GROUP": channels // self.groups,
            "KY": self.kernel_size[0],
            "KX": self.kernel_size[1],
            "DY": self.dilation[0],
            "DX": self.dilation[1],
            "BASE_LAG": int(self.lag == -1),
            "SEARCH_LAG": int(self.lag == 1),
        }

    def multiplies_by_bits(self, dtype: torch.dtype) -> bool:
        """Return whether the target has no multiplication for a 16-bit dtype: CDNA GPUs before gfx950."""
        return dtype == torch.bfloat16 and self.target.startswith("hip-gfx9") and self.target < "hip-gfx950"


def forward_dot(call: Call, base: Tensor, search: Tensor, weight: Tensor | None, out: Tensor) -> Launch:
    """Return the launch of the forward pass for 16-bit frames."""
    num_clips, channels, num_frames, height, width = base.shape
    config = _along_x("forward_dot", call, width)
    lanes, num_warps = _fitting(config, height, width, call.dilation[1])
    block = _block(channels // call.groups)
    num_strips, num_tiles = _tiles(height, width, call.dilation[1], config.strip, lanes)
    padded = _pad_filters(call, weight, base, block, config.columns)
    return Launch(
        "forward_dot",
        (num_clips * num_frames * num_tiles, call.groups),
        {
            "base": base,
            "search": search,
            "weight": padded,
            "out": out,
            **_sizes(base, num_strips=num_strips, num_tiles=num_tiles),
            **_strides("nclh", base=base, search=search, out=out),
            "weight_l": padded.stride(0) if padded.shape[0] > 1 else 0,
        },
        {
            **call.constants(channels),
            **_strides("w", base=base, search=search, out=out),
            "GROUPS": call.groups,
            "WIDE": _is_wide(base, search, out),
            "STRIP": config.strip,
            "LANES": lanes,
            "CHANNELS": block,
            "COLUMNS": config.columns,
            "BY_BITS": call.multiplies_by_bits(base.dtype),
        },
        num_warps,
    )


def forward_exact(call: Call, base: Tensor, search: Tensor, weight: Tensor | None, out: Tensor) -> Launch:
    """Return the launch of the forward pass in float32 or float64."""
    num_clips, channels, num_frames, height, width = base.shape
    config = configs.find(
        "forward_exact", call.target, size=height, taps=call.kernel_size[0], dilation=call.dilation[0]
    )
    num_strips = -(-height // (call.dilation[0] * config.strip))
    num_tiles = -(-num_strips * call.dilation[0] * width // config.lanes)
    strides = (0,) * 4 if weight is None else weight.stride()
    if weight is not None and weight.shape[0] == 1:
        strides = (0, *strides[1:])
    return Launch(
        "forward_exact",
        (num_clips * num_frames * num_tiles * call.kernel_size[1], call.groups),
        {
            "base": base,
            "search": search,
            "weight": base if weight is None else weight,
            "out": out,
            **_sizes(base, num_tiles=num_tiles),
            **_strides("nclw", base=base, search=search, out=out),
            **dict(zip(("weight_l", "weight_c", "weight_i", "weight_j"), strides, strict=True)),
        },
        {
            **call.constants(channels),
            **_strides("h", base=base, search=search, out=out),
            "WIDE": _is_wide(base, search, out),
            "HAS_WEIGHT": weight is not None,
            "STRIP": config.strip,
            "LANES": config.lanes,
            "SUM": sum_dtype(base.dtype),
        },
        config.num_warps,
    )


def grad_frames(
    call: Call,
    grad: Tensor,
    base: Tensor,
    search: Tensor,
    weight: Tensor | None,
    out: Tensor,
    *,
    as_base: bool,
    as_searched: bool,
) -> Launch:
    """Return the launch of the gradient of frames in one of their roles or in both."""
    num_clips, channels, num_frames, height, width = base.shape
    config = _along_x("grad_frames_16_bit" if base.element_size() == 2 else "grad_frames_exact", call, width)
    lanes, num_warps = _fitting(config, height, width, call.dilation[1])
    group = channels // call.groups
    block = min(_power_of_two(group), _MAX_CHANNELS)
    num_strips, num_tiles = _tiles(height, width, call.dilation[1], config.strip, lanes)
    filters = _taps_first(call, weight, base)
    return Launch(
        "grad_frames",
        (num_clips * num_frames * num_tiles, call.groups * -(-group // block)),
        {
            "grad": grad,
            "base": base,
            "search": search,
            "weight": filters,
            "out": out,
            **_sizes(base, num_strips=num_strips, num_tiles=num_tiles),
            **_strides("nclh", grad=grad, base=base, search=search, out=out),
            "weight_l": filters.stride(0) if filters.shape[0] > 1 else 0,
            "weight_k": filters.stride(1),
        },
        {
            **call.constants(channels),
            **_strides("w", grad=grad, base=base, search=search, out=out),
            "WIDE": _is_wide(grad, base, search, out),
            "AS_BASE": as_base,
            "AS_SEARCHED": as_searched,
            "SUM": sum_dtype(base.dtype),
            "STRIP": config.strip,
            "LANES": lanes,
            "CHANNELS": block,
        },
        num_warps,
    )


def grad_filters(call: Call, grad: Tensor, base: Tensor, search: Tensor, *, dot: bool) -> Launch:
    """Return the launch of the partial sums for the gradient of the filters; its `out` is made here."""
    num_clips, channels, num_frames, height, width = base.shape
    config = _along_x("grad_filters_dot" if dot else "grad_filters_exact", call, width)
    group = channels // call.groups
    block = _block(group) if dot else min(_power_of_two(group), _MAX_CHANNELS)
    num_strips, num_tiles = _tiles(height, width, call.dilation[1], config.strip, config.lanes)
    # The number of splits follows from shape and configuration alone: it decides the order of summation.
    splits = max(1, min(_MAX_SPLITS, num_clips * num_tiles // _MIN_TILES))
    taps = call.kernel_size[0] * call.kernel_size[1]
    out = base.new_empty(splits, num_frames, taps, channels, dtype=sum_dtype(base.dtype))
    return Launch(
        "grad_filters",
        (splits * num_frames, call.groups * -(-group // block) * call.kernel_size[0]),
        {
            "grad": grad,
            "base": base,
            "search": search,
            "out": out,
            "num_clips": num_clips,
            **_sizes(base, num_strips=num_strips, num_tiles=num_tiles),
            "tiles_per_split": -(-num_clips * num_tiles // splits),
            **_strides("nclh", grad=grad, base=base, search=search),
        },
        {
            **call.constants(channels),
            **_strides("w", grad=grad, base=base, search=search),
            "GROUPS": call.groups,
            "WIDE": _is_wide(grad, base, search),
            "SUM": sum_dtype(base.dtype),
            "DOT": dot,
            "STRIP": config.strip,
            "LANES": config.lanes,
            "CHANNELS": block,
            "COLUMNS": config.columns if dot else 1,
            "BY_BITS": dot and call.multiplies_by_bits(base.dtype),
        },
        config.num_warps,
    )


def channels_last(x: Tensor) -> Tensor:
    """Return frames whose channels lie side by side, aligned for wide loads: `x` itself or a copy."""
    wide = [stride for stride, size in zip(x.stride(), x.shape, strict=True) if stride != 1 and size > 1]
    aligned = x.data_ptr() % 16 == 0 and (x.shape[1] % 16 or all(stride % 16 == 0 for stride in wide))
    if (x.stride(1) == 1 or x.shape[1] == 1) and aligned:
        return x
    return _dense_copy(x, (0, 2, 3, 4, 1))


def rows_last(x: Tensor) -> Tensor:
    """Return frames whose rows are contiguous: `x` itself or a copy."""
    return x if x.stride(4) == 1 or x.shape[4] == 1 else _dense_copy(x, (0, 1, 2, 3, 4))


def empty_like(x: Tensor, *, channels_are_last: bool) -> Tensor:
    """Return memory for what is computed in the place of `x`: `x` itself where its layout is the one asked for."""
    if x.stride(1 if channels_are_last else 4) == 1:
        return x
    return torch.empty_like(
        x, memory_format=torch.channels_last_3d if channels_are_last else torch.contiguous_format
    )


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _dense_copy(x: Tensor, order: Sequence[int]) -> Tensor:
    """Return a copy with the dimensions in memory in this order, whatever the sizes."""
    dense = x.new_empty([x.shape[dim] for dim in order])
    inverse = [order.index(dim) for dim in range(x.dim())]
    return dense.permute(inverse).copy_(x)


def _along_x(kernel: str, call: Call, width: int) -> configs.Config:
    return configs.find(kernel, call.target, size=width, taps=call.kernel_size[1], dilation=call.dilation[1])


def _fitting(config: configs.Config, height: int, width: int, dilation: int) -> tuple[int, int]:
    """Return lanes and warps, fewer than configured where a frame has fewer strips."""
    strips = height * dilation * -(-width // (dilation * config.strip))
    lanes = min(config.lanes, max(16, _power_of_two(strips)))
    return lanes, max(1, config.num_warps * lanes // config.lanes)


def _tiles(height: int, width: int, dilation: int, strip: int, lanes: int) -> tuple[int, int]:
    """Return the strips of a row for each remainder of the column, and the tiles of a frame."""
    num_strips = -(-width // (dilation * strip))
    return num_strips, -(-height * dilation * num_strips // lanes)


def _block(group: int) -> int:
    """Return the channels of a tile for a matrix product, which needs 16."""
    return min(max(16, _power_of_two(group)), _MAX_CHANNELS)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _sizes(base: Tensor, **more: int) -> dict[str, int]:
    _, _, num_frames, height, width = base.shape
    return {"num_frames": num_frames, "height": height, "width": width, **more}


def _strides(dims: str, **tensors: Tensor) -> dict[str, int]:
    """Return strides of frames by name, as base_n; the one along the strips is compiled in."""
    return {
        f"{name}_{dim}": stride
        for name, tensor in tensors.items()
        for dim, stride in zip("nclhw", tensor.stride(), strict=True)
        if dim in dims
    }


def _is_wide(*tensors: Tensor) -> bool:
    """Return whether offsets inside a frame need 64 bits."""
    return any(
        sum((tensor.shape[dim] - 1) * tensor.stride(dim) for dim in (1, 3, 4)) >= 1 << 31
        for tensor in tensors
    )


def _pad_filters(call: Call, weight: Tensor | None, base: Tensor, block: int, columns: int) -> Tensor:
    """Return filters as [L or 1, Ky, G, padded g, columns] in the dtype of the frames, zero in the padding."""
    group = base.shape[1] // call.groups
    if weight is None:
        weight = base.new_ones(1, base.shape[1], *call.kernel_size)
    frames, (ky, kx) = weight.shape[0], call.kernel_size
    padded = base.new_zeros(frames, ky, call.groups, -(-group // block) * block, columns)
    padded[..., :group, :kx] = weight.reshape(frames, call.groups, group, ky, kx).permute(0, 3, 1, 2, 4)
    return padded


def _taps_first(call: Call, weight: Tensor | None, base: Tensor) -> Tensor:
    """Return filters divided by g as [L or 1, Ky*Kx, C] in the dtype of sums."""
    group = base.shape[1] // call.groups
    dtype = sum_dtype(base.dtype)
    if weight is None:
        taps = call.kernel_size[0] * call.kernel_size[1]
        return base.new_full((1, taps, base.shape[1]), 1 / group, dtype=dtype)
    return (weight.flatten(2).transpose(1, 2).to(dtype) / group).contiguous()
