"""The shapes that CorrNet correlates, and everything that is timed on them.

x is [N, C, L, H, W]; filters are [L, C, 7, 7], dilation 2. Random numbers are drawn when a contender is made;
a call allocates its outputs.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional

import corr_ops
from bench.interleave import Contender
from corr_ops.impl import reference

FULL = os.environ.get("CORR_OPS_BENCHMARK") == "full"
KERNEL_SIZE, DILATION = 7, 2
OPTIONS = {"kernel_size": KERNEL_SIZE, "dilation": DILATION}
DIRECTIONS = ("forward", "forward+backward")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
# 3x3x3 is what the operator would replace; 1x7x7 has filters of its size (Table 1); the other two are the
# convolutions of R(2+1)D.
CONVOLUTIONS = ((3, 3, 3), (1, 7, 7), (3, 1, 1), (1, 3, 3))
CPU = torch.device("cpu")
BACKENDS = [name for name in ("cpu", "reference") if name not in corr_ops.explain(torch.empty(0)).reasons]

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Clips at one of the network's stages."""

    stage: str
    channels: int
    groups: int
    size: int
    num_frames: int = 8
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.stage}-L{self.num_frames}-N{self.batch}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, self.num_frames, self.size, self.size)

    @property
    def columns(self) -> dict[str, str | int]:
        """Columns of its rows in the record."""
        macs = math.prod(self.shape) * KERNEL_SIZE**2
        return {"stage": self.stage, "num_frames": self.num_frames, "batch": self.batch, "macs": macs}


_STAGES = (("res2", 64, 2, 56), ("res3", 128, 4, 28), ("res4", 256, 8, 14))
SMALL = [Case(*stage) for stage in _STAGES]
LARGE = [Case(*stage, L, N) for stage in _STAGES for L, N in ((8, 4), (32, 1), (32, 4))]
CASES = SMALL + LARGE if FULL else SMALL


def draw(
    case: Case, dtype: str = "float32", layout: str = "contiguous", device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Return clips and filters."""
    options = {"dtype": getattr(torch, dtype), "device": device}
    x = torch.randn(case.shape, **options).contiguous(memory_format=LAYOUTS[layout])
    return x, torch.randn(case.num_frames, case.channels, KERNEL_SIZE, KERNEL_SIZE, **options)


def make_call(function: Callable[..., Tensor], factors: tuple[Tensor, ...], direction: str) -> Call:
    """Return a call of `function`, with the gradients of all factors where the direction asks for them."""
    if direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*factors)

        return forward
    leaves = [factor.detach().requires_grad_() for factor in factors]
    grad = torch.randn_like(function(*factors))

    def forward_and_backward() -> tuple[Tensor, ...]:
        out = function(*leaves)
        return out, *torch.autograd.grad(out, leaves, grad)

    return forward_and_backward


def correlation(
    case: Case,
    direction: str,
    backend: str,
    *,
    threads: int | None = None,
    dtype: str = "float32",
    layout: str = "contiguous",
    device: torch.device = CPU,
) -> Contender:
    """Return the operator, served by one of its backends."""

    def operator(x: Tensor, weight: Tensor) -> Tensor:
        return corr_ops.video_correlation(x, weight, **OPTIONS, groups=case.groups, backend=backend)

    call = make_call(operator, draw(case, dtype, layout, device), direction)
    contender = Contender(backend, call, dtype, layout)
    contender.threads = threads or contender.threads
    return contender


def convolution(
    case: Case,
    direction: str,
    kernel: tuple[int, int, int],
    *,
    dtype: str = "float32",
    layout: str = "contiguous",
    device: torch.device = CPU,
) -> Contender:
    """Return a convolution with as many output as input channels that keeps the size."""
    x, _ = draw(case, dtype, layout, device)
    weight = torch.randn(case.channels, case.channels, *kernel, dtype=x.dtype, device=device)
    weight = weight.contiguous(memory_format=LAYOUTS[layout])
    padding = tuple(size // 2 for size in kernel)
    call = make_call(lambda x, weight: functional.conv3d(x, weight, padding=padding), (x, weight), direction)
    return Contender("conv" + "x".join(map(str, kernel)), call, dtype, layout)


def compiled_reference(
    case: Case,
    direction: str,
    *,
    dtype: str = "float32",
    layout: str = "contiguous",
    device: torch.device = CPU,
) -> Contender:
    """Return the reference implementation compiled by Inductor."""
    compiler = {"dynamic": False, "fullgraph": True}
    forward = torch.compile(reference.forward, **compiler)
    backward = torch.compile(reference.backward, **compiler)
    x, weight = draw(case, dtype, layout, device)
    options = ((KERNEL_SIZE,) * 2, (DILATION,) * 2, case.groups, 1)
    grad = torch.randn_like(reference.forward(x, None, weight, *options))

    def call() -> object:
        with torch.no_grad():
            out = forward(x, None, weight, *options)
            if direction == "forward":
                return out
            return out, backward(grad, x, None, weight, *options, (True, False, True))

    start = perf_counter()
    try:
        torch.testing.assert_close(_first(call()), reference.forward(x, None, weight, *options))
    except Exception as error:
        note = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return Contender("inductor", None, dtype, layout, note=note)
    note = f"compiled in {perf_counter() - start:.0f} s"
    return Contender("inductor", call, dtype, layout, note=note)


def _first(results: object) -> Tensor:
    return results[0] if isinstance(results, tuple) else results


def pair_contenders(case: Case, direction: str, *, device: torch.device = CPU) -> tuple[Contender, Contender]:
    """Return cost volumes of image pairs, without filters or groups: ours and spatial-correlation-sampler."""
    shape = (case.num_frames, case.channels, case.size, case.size)
    images = tuple(torch.randn(shape, device=device) for _ in range(2))

    def operator(base: Tensor, search: Tensor) -> Tensor:
        return corr_ops.correlation(base, search, **OPTIONS)

    ours = Contender(corr_ops.explain(images[0]).backend, make_call(operator, images, direction))
    try:
        from spatial_correlation_sampler import spatial_correlation_sample
    except ImportError as error:
        return ours, Contender("spatial-correlation-sampler", None, note=f"not installed: {error}")

    def sampler(base: Tensor, search: Tensor) -> Tensor:
        return spatial_correlation_sample(base, search, patch_size=KERNEL_SIZE, dilation_patch=DILATION)

    torch.testing.assert_close(sampler(*images).flatten(1, 2) / case.channels, operator(*images))
    return ours, Contender("spatial-correlation-sampler", make_call(sampler, images, direction))
