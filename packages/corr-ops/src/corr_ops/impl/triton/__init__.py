"""Kernels for GPUs, written in Triton.

16-bit frames have their channels reduced by the tensor cores, in float32; float32 and float64 are computed as
such. Kernels take strides; frames in another layout than theirs are copied once.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from corr_ops.impl.buffers import empty_gradient, empty_output
from corr_ops.impl.triton import launch

__all__ = ["backward", "compiled_constants", "forward", "unavailable"]

_MIN_CAPABILITY = (8, 0)
_HALVES = (torch.float16, torch.bfloat16)


@functools.cache
def unavailable(device: torch.device) -> str | None:
    """Return why the kernels cannot serve a device, or None when they can."""
    if device.type != "cuda":
        return f"it serves GPUs alone, not {device.type}"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install corr-ops[triton]"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _MIN_CAPABILITY:
            return f"it needs compute capability 8.0 or newer, this GPU has {capability[0]}.{capability[1]}"
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
    """Correlate, as `corr_ops.impl.reference.forward` does."""
    out = empty_output(base, kernel_size, groups)
    if out.numel() == 0:
        return out
    call = _call(base, kernel_size, dilation, groups, lag)
    dot = base.dtype in _HALVES
    arrange = launch.channels_last if dot else launch.rows_last
    frames = arrange(base)
    searched = frames if search is None else arrange(search)
    result = launch.empty_like(out, channels_are_last=dot)
    make = launch.forward_dot if dot else launch.forward_exact
    _run(make(call, frames, searched, weight, result))
    return out if result is out else out.copy_(result)


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
    """Return gradients, as `corr_ops.impl.reference.backward` does."""
    grads = [
        empty_gradient(factor, needed=wanted, grad=grad)
        for factor, wanted in zip((base, search, weight), needed, strict=True)
    ]
    if grad.numel() == 0:
        grads[2].zero_()
        return grads[0], grads[1], grads[2]
    call = _call(base, kernel_size, dilation, groups, lag)
    grad, frames = launch.channels_last(grad), launch.channels_last(base)
    searched = frames if search is None else launch.channels_last(search)
    roles = [(True, search is None), (False, True)]
    for target, wanted, (as_base, as_searched) in zip(grads, needed, roles, strict=False):
        if wanted:
            result = launch.empty_like(target, channels_are_last=True)
            _run(
                launch.grad_frames(
                    call, grad, frames, searched, weight, result, as_base=as_base, as_searched=as_searched
                )
            )
            if result is not target:
                target.copy_(result)
    if needed[2]:
        planned = launch.grad_filters(call, grad, frames, searched, dot=base.dtype in _HALVES)
        _run(planned)
        partial = planned.arguments["out"]
        total = partial.sum(0) if grads[2].shape[0] == partial.shape[1] else partial.sum((0, 1)).unsqueeze(0)
        grads[2].copy_(total.transpose(1, 2).reshape(grads[2].shape))
    return grads[0], grads[1], grads[2]


def _call(
    base: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], groups: int, lag: int
) -> launch.Call:
    ky, kx = kernel_size
    dy, dx = dilation
    return launch.Call((ky, kx), (dy, dx), groups, lag, _target(base.device))


@functools.cache
def _target(device: torch.device) -> str:
    """Return what configurations are looked up for; without a GPU, in the interpreter, that of Hopper."""
    if device.type != "cuda":
        return "cuda-90"
    if torch.version.hip is not None:
        return f"hip-{torch.cuda.get_device_properties(device).gcnArchName.partition(':')[0]}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda-{major}{minor}"


def _run(planned: launch.Launch) -> None:
    from corr_ops.impl.triton import kernels

    kernel = getattr(kernels, planned.kernel)
    device = planned.arguments["base"].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[planned.grid](**planned.arguments, **compiled_constants(planned), num_warps=planned.num_warps)


def compiled_constants(planned: launch.Launch) -> dict[str, Any]:
    """Return what a kernel is compiled for, in Triton's types."""
    import triton.language as tl

    types = {torch.float32: tl.float32, torch.float64: tl.float64}
    return {name: types.get(value, value) for name, value in planned.constants.items()}
