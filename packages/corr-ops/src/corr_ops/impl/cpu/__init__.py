"""Compiled kernels for processors: plain C in native/, called through ctypes.

The kernels read and write tensors of any strides in any of the four dtypes; 16-bit values are float32
inside. Results do not depend on the number of threads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from corr_ops.impl.buffers import accumulation_dtype, empty_gradient, empty_output
from corr_ops.impl.cpu import library
from corr_ops.impl.cpu.library import BACKWARD, DTYPES, FORWARD, Job, advise_large_pages, run

__all__ = ["backward", "forward", "unavailable"]

_MIN_TASKS = 32  # enough to share them out evenly
_MIN_BAND = 8  # rows of a task; smaller bands would read their surroundings too often


def unavailable(device: torch.device) -> str | None:
    """Return why the kernels cannot serve a device, or None when they can."""
    if device.type != "cpu":
        return f"it serves the CPU alone, not {device.type}"
    return library.unavailable()


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
    out = advise_large_pages(empty_output(base, kernel_size, groups))
    if out.numel() == 0:
        return out
    taps = _reaching_taps(base, kernel_size, dilation)
    out_taps = out.unflatten(1, (groups, *kernel_size))[:, :, *taps]
    if out_taps.numel() < out.numel():
        out.zero_()
    job = _make_job(base, search, weight, taps, out_taps, dilation=dilation, lag=lag)
    job.direction = FORWARD
    job.out = out_taps.data_ptr()
    run(job, _num_tasks(job))
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
    """Return gradients, as `corr_ops.impl.reference.backward` does."""
    grad_base, grad_search, grad_weight = (
        advise_large_pages(empty_gradient(factor, needed=wanted, grad=grad))
        for factor, wanted in zip((base, search, weight), needed, strict=True)
    )
    if grad.numel() == 0:
        return grad_base, grad_search, grad_weight.zero_()
    taps = _reaching_taps(base, kernel_size, dilation)
    grad_taps = grad.unflatten(1, (groups, *kernel_size))[:, :, *taps]
    job = _make_job(base, search, weight, taps, grad_taps, dilation=dilation, lag=lag)
    job.direction = BACKWARD
    job.grad = grad_taps.data_ptr()
    if needed[0]:
        job.grad_base, job.grad_base_strides = grad_base.data_ptr(), grad_base.stride()
    if needed[1]:
        job.grad_search, job.grad_search_strides = grad_search.data_ptr(), grad_search.stride()
    if needed[2]:
        assert weight is not None
        # Every task writes sums of its own; they are added in a fixed order.
        shape = (job.bands * job.num_clips, job.num_frames, job.channels, *job.kernel)
        partial = base.new_empty(shape, dtype=accumulation_dtype(base.dtype))
        job.grad_weight = partial.data_ptr()
    run(job, _num_tasks(job))
    if needed[2]:
        total = partial.sum(0) if grad_weight.shape[0] == job.num_frames else partial.sum((0, 1)).unsqueeze(0)
        grad_weight.zero_()[:, :, *taps] = total.to(grad_weight.dtype)
    return grad_base, grad_search, grad_weight


def _reaching_taps(base: Tensor, kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[slice, slice]:
    """Return the displacements (i, j) that reach positions inside the frame; all others give zeros."""
    ranges = []
    for kernel, step, size in zip(kernel_size, dilation, base.shape[-2:], strict=True):
        radius = min(kernel // 2, (size - 1) // step)
        ranges.append(slice(kernel // 2 - radius, kernel // 2 + radius + 1))
    return ranges[0], ranges[1]


def _make_job(
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    taps: tuple[slice, slice],
    matches: Tensor,
    *,
    dilation: Sequence[int],
    lag: int,
) -> Job:
    """Describe a call; `matches` is the output or its gradient as [N, G, Ky, Kx, L, H, W], within `taps`."""
    num_clips, channels, num_frames, height, width = base.shape
    groups = matches.shape[1]
    searched = base if search is None else search
    job = Job(
        base=base.data_ptr(),
        base_strides=base.stride(),
        search=searched.data_ptr(),
        search_strides=searched.stride(),
        match_strides=matches.stride(),
        num_clips=num_clips,
        channels=channels,
        num_frames=num_frames,
        height=height,
        width=width,
        groups=groups,
        kernel=tuple(matches.shape[2:4]),
        dilation=tuple(dilation),
        lag=lag,
        shared=search is None,
        dtype=DTYPES[base.dtype],
    )
    num_tasks = num_clips * num_frames * groups
    job.bands = max(1, min(-(-_MIN_TASKS // num_tasks), height // _MIN_BAND))
    if weight is not None:
        weight = weight.expand(num_frames, -1, -1, -1)[:, :, *taps]
        job.weight, job.weight_strides = weight.data_ptr(), weight.stride()
    return job


def _num_tasks(job: Job) -> int:
    count: int = job.num_clips * job.num_frames * job.groups * job.bands
    return count
