"""Stage `kernels`: each kernel of the operator alone, beside what it must equal and what bounds it.

A kernel also runs in variants that the review of the code asked for, made by changing the text of `kernels.py`: the
groups of a position visited one after the other (`group fastest`), and rows of 8 columns between the operator and the
convolution behind it (`rows of 8`).
"""

import functools
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.gpu.measure import (
    Rows,
    copy_bytes_per_second,
    errors,
    matrix_flops_per_second,
    milliseconds,
    num_sets,
    seconds_of,
)
from bench.ops.cases import KERNEL_SIZE, OPTIONS, Case
from corr_ops.impl import reference
from corr_ops.impl import triton as backend
from corr_ops.impl.triton import launch

STAGES = (("res2", 64, 2, 56, 32), ("res3", 128, 4, 28, 32), ("res4", 256, 8, 14, 16))
"""The three correlations of CorrNet-26 on 32 frames of 224x224: name, channels, groups, size, frames."""

TINY = (("tiny", 8, 2, 4, 1),)
BATCHES = (1, 8)
_GRID_ID = """@triton.jit
def _grid_id(axis: tl.constexpr):
    number = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    return number // tl.num_programs(1) if axis == 0 else number % tl.num_programs(1)


"""
_FIRST_FUNCTION = "@triton.jit\ndef _decode"
_GROUP_FASTEST = (("tl.program_id(", "_grid_id("), (_FIRST_FUNCTION, _GRID_ID + _FIRST_FUNCTION))
_ROWS_OF_8 = (
    ("out += (q * KY * KX).to(tl.int64) * out_c", "out += (q * KY * 8).to(tl.int64) * out_c"),
    ("(i * KX + columns) * out_c", "(i * 8 + columns) * out_c"),
    ("[:, None] & (columns < KX)[None, :]", "[:, None]"),
    ("grad += n.to(tl.int64) * grad_n + (q * KY * KX)", "grad += n.to(tl.int64) * grad_n + (q * KY * 8)"),
    ("row_grad += KX * grad_c", "row_grad += 8 * grad_c"),
    ("(q * KY * KX + i * KX).to(tl.int64) * grad_c", "(q * KY * 8 + i * 8).to(tl.int64) * grad_c"),
    ("height, width, grad_w, STRIP, DX, KX != COLUMNS", "height, width, grad_w, STRIP, DX, False"),
)  # fmt: skip
VARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "as it is": (),
    "group fastest": _GROUP_FASTEST,
    "rows of 8": _ROWS_OF_8,
    "both": (*_ROWS_OF_8, *_GROUP_FASTEST),
}


@contextmanager
def variant(name: str) -> Iterator[None]:
    """Run the kernels in a variant.

    Raises:
        ValueError: The text to change is no longer in the kernels.
    """
    from corr_ops.impl.triton import kernels

    changes = VARIANTS[name]
    if not changes:
        yield
        return
    text = Path(kernels.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        if old not in text:
            raise ValueError(f"variant {name!r} changes {old!r}, which is not in the kernels")
        text = text.replace(old, new)
    changed = _load(f"kernels_{name.replace(' ', '_')}", text)
    # `from corr_ops.impl.triton import kernels` takes the attribute of the package
    with mock.patch.object(sys.modules["corr_ops.impl.triton"], "kernels", changed):
        yield


@functools.cache
def _load(name: str, text: str) -> ModuleType:
    """Return the text as a module; Triton reads functions from a file."""
    path = Path(tempfile.mkdtemp(), f"{name}.py")
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Inputs:
    """A set of inputs of one layer, [N, C, L, H, W] in channels_last_3d; gradients have rows of `columns` columns."""

    def __init__(
        self,
        case: Case,
        dtype: torch.dtype,
        device: torch.device,
        *,
        taps: int = KERNEL_SIZE,
        columns: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.case, self.taps, self.columns = case, taps, columns or taps
        self.window = ((taps, taps), (OPTIONS["dilation"],) * 2)
        self.x = torch.randn(case.shape, **options).contiguous(memory_format=torch.channels_last_3d)
        self.weight = torch.randn(case.num_frames, case.channels, taps, taps, **options)
        shape = (case.batch, case.groups, taps, self.columns, case.num_frames, case.size, case.size)
        wide = torch.randn(shape, **options)
        wide[:, :, :, taps:] = 0
        self.grad = wide.flatten(1, 3).contiguous(memory_format=torch.channels_last_3d)

    def narrowed(self, wide: Tensor) -> Tensor:
        """Return matches without the columns that pad their rows."""
        rows = wide.unflatten(1, (self.case.groups, self.taps, self.columns))
        return rows[:, :, :, : self.taps].flatten(1, 3)


KERNELS = ("forward", "gradient of frames", "gradient of filters")


def plan(kernel: str, inputs: Inputs) -> launch.Launch:
    """Return the launch of a kernel; what it is to write is not a number yet."""
    x, case = inputs.x, inputs.case
    call = launch.Call(*inputs.window, case.groups, 1, backend._target(x.device))
    dot = x.element_size() == 2
    if kernel == "forward":
        out = torch.full_like(inputs.grad, torch.nan)
        if dot:
            return launch.forward_dot(call, x, x, inputs.weight, out)
        rows, out = launch.rows_last(x), launch.empty_like(out, channels_are_last=False)
        return launch.forward_exact(call, rows, rows, inputs.weight, out)
    if kernel == "gradient of frames":
        out = torch.full_like(x, torch.nan)
        return launch.grad_frames(call, inputs.grad, x, x, inputs.weight, out, as_base=True, as_searched=True)
    return launch.grad_filters(call, inputs.grad, x, x, dot=dot)


def truths(inputs: Inputs) -> dict[str, Tensor]:
    """Return what the kernels must equal, in float64."""
    x, weight, grad = (factor.double() for factor in (inputs.x, inputs.weight, inputs.narrowed(inputs.grad)))
    options = (*inputs.window, inputs.case.groups, 1)
    out = reference.forward(x, None, weight, *options)
    grads = reference.backward(grad, x, None, weight, *options, needed=(True, False, True))
    return dict(zip(KERNELS, (out, grads[0], grads[2]), strict=True))


def result_of(kernel: str, planned: launch.Launch, inputs: Inputs) -> Tensor:
    """Return what a launch wrote, in the shape of its truth."""
    out: Tensor = planned.arguments["out"]
    if kernel == "forward":
        return inputs.narrowed(out)
    if kernel == "gradient of frames":
        return out
    return out.sum(0).transpose(1, 2).reshape(inputs.weight.shape)


def run(rows: Rows, device: torch.device, *, tiny: bool = False) -> None:
    """Measure rates, then each kernel in each variant, 16 bit first."""
    rates = {"copy_gb_s": copy_bytes_per_second(device) / 1e9}
    rates["matrix_tflops"] = matrix_flops_per_second(device) / 1e12
    rows.add("rates", **rates)
    stages, batches, taps = (TINY, (1,), 3) if tiny else (STAGES, BATCHES, KERNEL_SIZE)
    # Triton's interpreter has no bfloat16.
    halves = (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.float16,)
    if device.type == "cuda":
        _compile_ahead(rows)
    variants = ("as it is", "both") if tiny else tuple(VARIANTS)
    for dtype in (*halves, torch.float32):
        for stage, batch in itertools.product(stages, batches):
            case = Case(*stage, batch)
            columns = {**case.columns, "dtype": str(dtype).removeprefix("torch.")}
            for name in variants if dtype == halves[0] else ("as it is",):
                check = functools.partial(_kernels, case, name, dtype, device, taps)
                rows.attempt("kernel", check, **columns, variant=name)
            for backward, graph in itertools.product((False, True), (True,) if tiny else (True, False)):
                measure = functools.partial(_call, case, dtype, device, taps, backward=backward, graph=graph)
                direction = "backward" if backward else "forward"
                timed = "graph" if graph else "eager"
                rows.attempt("whole call", measure, **columns, direction=direction, timed=timed)


def _compile_ahead(rows: Rows) -> None:
    """Compile everything that will run into Triton's cache, in processes of their own."""
    jobs = [(stage, name, torch.bfloat16) for name in VARIANTS for stage in STAGES]
    jobs += [(stage, "as it is", dtype) for dtype in (torch.float16, torch.float32) for stage in STAGES]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2), mp_context=context) as pool:
        failed = [job.exception() for job in [pool.submit(_run_once, *job) for job in jobs]]
    rows.add("compiled", jobs=len(jobs), failed=[str(error)[:200] for error in failed if error])


def _run_once(stage: tuple[Any, ...], name: str, dtype: torch.dtype) -> None:
    columns = 8 if name in ("rows of 8", "both") else KERNEL_SIZE
    with variant(name):
        for batch, kernel in itertools.product(BATCHES, KERNELS):
            case = Case(*stage, batch)
            backend._run(plan(kernel, Inputs(case, dtype, torch.device("cuda", 0), columns=columns)))


def _kernels(case: Case, name: str, dtype: torch.dtype, device: torch.device, taps: int) -> dict[str, Any]:
    """Return times and errors of the three kernels, each alone."""
    found: dict[str, Any] = {}
    with variant(name):
        columns = 8 if name in ("rows of 8", "both") else taps
        sets = [Inputs(case, dtype, device, taps=taps, columns=columns) for _ in range(num_sets(device))]
        wanted = truths(sets[0])
        for kernel in KERNELS:
            planned = [plan(kernel, inputs) for inputs in sets]
            seconds = seconds_of([functools.partial(backend._run, one) for one in planned], device, rounds=7)
            short = kernel.replace("gradient of ", "grad_")
            found[f"{short}_us"] = 1e6 * statistics.median(seconds)
            found[f"{short}_error"] = errors(result_of(kernel, planned[0], sets[0]), wanted[kernel])["error"]
    return found


def _call(
    case: Case, dtype: torch.dtype, device: torch.device, taps: int, *, backward: bool, graph: bool
) -> dict[str, Any]:
    """Return the time of whole calls of the operator: preparation, kernels and sums; eager with the host's time."""
    sets = [Inputs(case, dtype, device, taps=taps) for _ in range(num_sets(device))]

    def call(inputs: Inputs) -> object:
        options = (*inputs.window, case.groups, 1)
        if backward:
            wanted = (True, False, True)
            return backend.backward(inputs.grad, inputs.x, None, inputs.weight, *options, needed=wanted)
        return backend.forward(inputs.x, None, inputs.weight, *options)

    return milliseconds(
        seconds_of([functools.partial(call, inputs) for inputs in sets], device, rounds=7, graph=graph)
    )
