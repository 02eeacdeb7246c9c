"""Stage `network`: where the time of a network goes, and what would take less of it.

Layers first (batch norm of clips and of the same clips as pictures, convolutions, the input channels of the one behind
the operator), then whole networks: eager, with batch norm of clips, compiled, and the profiler's longest kernels.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.gpu.measure import Rows, copy_bytes_per_second, matrix_flops_per_second, milliseconds, seconds_of
from corrnet_models import VideoModel, count_gmacs, create_model

LAST = torch.channels_last_3d
BATCH, NUM_FRAMES, RESOLUTION, NUM_CLASSES = 8, 32, 224, 400
# Stage of CorrNet-26 at 8 clips -> channels of the block, frames, side.
MAPS = {"res2": (64, 32, 56), "res3": (128, 32, 28), "res4": (256, 16, 14)}
CONVOLUTIONS = {
    "reduce 1x1x1, 4C to C": (4, 1, (1, 1, 1)),
    "temporal 3x1x1": (1, 1, (3, 1, 1)),
    "spatial 1x3x3": (1, 1, (1, 3, 3)),
    "expand 1x1x1, C to 4C": (1, 4, (1, 1, 1)),
}


def run(rows: Rows, device: torch.device, *, tiny: bool = False) -> None:
    """Layers, then networks, the most telling first."""
    rows.add(
        "rates",
        copy_gb_s=copy_bytes_per_second(device) / 1e9,
        matrix_tflops=matrix_flops_per_second(device) / 1e12,
    )
    batch = 2 if tiny else BATCH
    maps = {"tiny": (16, 4, 8)} if tiny else MAPS
    for stage, (channels, frames, size) in maps.items():
        shape = (batch, channels, frames, size, size)
        _norms(rows, stage, shape, device)
        if stage != "res4":
            _convolutions(rows, stage, shape, device)
    for columns in (98, 104, 112):
        channels, frames, size = next(iter(maps.values()))
        convolution = nn.Conv3d(columns, 4 * channels, 1, bias=False)
        shape = (batch, columns, frames, size, size)
        rows.attempt("convolution after the operator", partial(_layer, convolution, shape, device))
    names = ("r2plus1d_tiny", "corrnet_tiny") if tiny else ("r2plus1d26", "corrnet26")
    clip = (3, 8, 32, 32) if tiny else (3, NUM_FRAMES, RESOLUTION, RESOLUTION)
    plans: list[tuple[str, dict[str, Any]]] = [
        ("eager", {}),
        ("eager, norms of clips", {"pictures": False}),
        ("eager, fp16", {"dtype": torch.float16}),
        ("compiled", {"compile": "default"}),
        ("compiled, autotuned", {"compile": "max-autotune-no-cudagraphs"}),
    ]
    for way, options in plans[:2] if tiny else plans[:3]:
        for name in reversed(names):
            _network(rows, name, way, batch, clip, device, **options)
    rows.attempt("profile", partial(_profile, names[1], batch, clip, device), model=names[1], way="eager")
    if tiny:
        return
    for way, options in plans[3:]:
        for name in reversed(names) if way == "compiled" else names[1:]:
            if not rows.late(share=0.6 if "autotuned" in way else 0.85):
                _network(rows, name, way, batch, clip, device, **options)


def _norms(rows: Rows, stage: str, shape: tuple[int, ...], device: torch.device) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for view in (False, True):
            layer = _NormOfPictures(shape[1]) if view else nn.BatchNorm3d(shape[1])
            columns = {"stage": stage, "view": view, "dtype": str(dtype)[6:]}
            rows.attempt("norm", partial(_layer, layer, shape, device, dtype=dtype, cast=False), **columns)


class _NormOfPictures(nn.BatchNorm2d):
    """Batch norm of clips as pictures of L*H rows."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.flatten(2, 3))
        return y.unflatten(2, x.shape[2:4])


def _convolutions(rows: Rows, stage: str, shape: tuple[int, ...], device: torch.device) -> None:
    for name, (wide_in, wide_out, kernel) in CONVOLUTIONS.items():
        padding = tuple(side // 2 for side in kernel)
        layer = nn.Conv3d(wide_in * shape[1], wide_out * shape[1], kernel, padding=padding, bias=False)
        clip = (shape[0], wide_in * shape[1], *shape[2:])
        rows.attempt("convolution", partial(_layer, layer, clip, device), stage=stage, layer=name, view=False)


def _layer(
    layer: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    cast: bool = True,
) -> dict[str, Any]:
    """Return the times of a layer's forward pass and of its forward and backward pass, on inputs that rotate."""
    layer = layer.to(device, dtype if cast else None).train()
    for parameter in layer.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=LAST)
    sets = [
        torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=LAST).requires_grad_()
        for _ in range(3)
    ]
    grads = [torch.randn_like(layer(x)) for x in sets]
    parameters = list(layer.parameters())

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x)  # type: ignore[no-any-return]

    def both(x: Tensor, grad: Tensor) -> object:
        return torch.autograd.grad(layer(x), [x, *parameters], grad)

    forwards: list[Callable[[], object]] = [partial(forward, x) for x in sets]
    boths: list[Callable[[], object]] = [partial(both, *pair) for pair in zip(sets, grads, strict=True)]
    found = {
        "shape": "x".join(map(str, shape)),
        "forward_ms": 1e3 * statistics.median(seconds_of(forwards, device, rounds=7)),
        "both_ms": 1e3 * statistics.median(seconds_of(boths, device, rounds=7)),
        "input_mb": sets[0].nbytes / 1e6,
    }
    if isinstance(layer, nn.BatchNorm3d) and device.type == "cuda":
        found["chosen"] = str(_norm_backend(sets[0], layer))
    return found


def _norm_backend(x: Tensor, norm: nn.BatchNorm3d) -> Any:
    return torch._C._select_batch_norm_backend(  # type: ignore[attr-defined]
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, norm.eps
    )


def _network(
    rows: Rows,
    name: str,
    way: str,
    batch: int,
    clip: tuple[int, ...],
    device: torch.device,
    *,
    pictures: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    compile: str | None = None,
) -> None:
    """Rows of training and inference of a network in one way."""

    def make() -> VideoModel:
        torch.manual_seed(0)
        model = create_model(name, num_frames=clip[1], num_classes=NUM_CLASSES).to(device)
        for parameter in model.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=LAST)
        if compile is not None:
            torch._dynamo.reset()
            model.compile(mode=compile)
        return model

    for direction in ("training", "inference"):
        if compile is not None and direction == "inference" and rows.late(share=0.6):
            continue
        columns = {"model": name, "way": way, "direction": direction, "batch": batch}
        with nullcontext() if pictures else _norms_of_clips():
            rows.attempt("network", partial(_steps, make, direction, dtype, batch, clip, device), **columns)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _norms_of_clips() -> AbstractContextManager[object]:
    return mock.patch("corrnet_models._blocks._normalizes_pictures", lambda x: False)


def _steps(
    make: Callable[[], VideoModel],
    direction: str,
    dtype: torch.dtype,
    batch: int,
    clip: tuple[int, ...],
    device: torch.device,
) -> dict[str, Any]:
    """Return what a step takes, its memory, and the loss or scores by which ways can be compared."""
    model = make().train(direction == "training")
    step, first = _make_step(model, direction, dtype, batch, clip, device)
    started = time.perf_counter()
    value = first()
    found: dict[str, Any] = {"first_seconds": time.perf_counter() - started, "value": value}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of([step], device, rounds=12, graph=False)
    gmacs = count_gmacs(model.config, resolution=clip[2])
    flops = 2e9 * gmacs * batch * (3 if direction == "training" else 1)
    middle = statistics.median(seconds)
    found |= milliseconds(seconds) | {"clips_per_second": batch / middle, "tflops": flops / middle / 1e12}
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def _make_step(
    model: VideoModel,
    direction: str,
    dtype: torch.dtype,
    batch: int,
    clip: tuple[int, ...],
    device: torch.device,
) -> tuple[Callable[[], object], Callable[[], float]]:
    """Return a step, and the same once with its loss (or the norm of its scores) as a number."""
    generator = torch.Generator(device).manual_seed(1)
    clips = torch.randn(batch, *clip, device=device, generator=generator).contiguous(memory_format=LAST)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    fused = device.type == "cuda"
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def infer() -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype):
            return model(clips)  # type: ignore[no-any-return]

    def train() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype):
            loss = nn.functional.cross_entropy(model(clips).float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    if direction == "training":
        return train, lambda: float(train())
    return infer, lambda: float(infer().float().norm())


def _profile(name: str, batch: int, clip: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Return the kernels that take the longest in a training step: name, calls and share of the GPU's time."""
    from torch.profiler import ProfilerActivity, profile

    torch.manual_seed(0)
    model = create_model(name, num_frames=clip[1], num_classes=NUM_CLASSES).to(device).train()
    for parameter in model.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=LAST)
    step, _ = _make_step(model, "training", torch.bfloat16, batch, clip, device)
    for _ in range(3):
        step()
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if is_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        step()
        if is_gpu:
            torch.cuda.synchronize(device)
    events = [
        (event.key, event.count, event.self_device_time_total if is_gpu else event.self_cpu_time_total)
        for event in found.key_averages()
        if not is_gpu or event.device_type == torch.autograd.DeviceType.CUDA
    ]
    total = sum(us for _, _, us in events) or 1
    events.sort(key=lambda event: -event[2])
    longest = [
        {"kernel": key[:90], "calls": calls, "ms": round(us / 1e3, 3), "share": round(us / total, 4)}
        for key, calls, us in events[:20]
    ]
    return {"total_ms": total / 1e3, "longest": longest}
