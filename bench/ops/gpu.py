"""The operator and the models on a GPU, beside the convolutions they stand for, the reference and others.

    python -m bench.ops.gpu     # minutes; records the rows and writes the tables into the README of corr-ops

Contenders take turns in one process. A round replays a CUDA graph of as many calls as fill about 2 ms, so that
times are those of the GPU; `eager_ms` is a call as Python makes it. What was read or written by the call before
may still be in the cache, for all alike. Rates are measured first: of copying memory, and of a large bfloat16
matrix product; `floor_ms` is what two instructions for each multiply-accumulate take at the highest clock.
"""

import argparse
import copy
import importlib.metadata
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from bench import record
from bench.interleave import Contender, alternate, row
from bench.ops import gpu_report
from bench.ops.cases import (
    DIRECTIONS,
    Case,
    compiled_reference,
    convolution,
    correlation,
    pair_contenders,
)
from corr_ops.ops import choose
from corrnet_models import count_gmacs, create_model

ROUNDS, ROUND_SECONDS = 20, 2e-3
# The three correlations of CorrNet-26 on 32 frames of 224x224.
STAGES = (("res2", 64, 2, 56, 32), ("res3", 128, 4, 28, 32), ("res4", 256, 8, 14, 16))
CASES = [Case(*stage, batch) for batch in (1, 8) for stage in STAGES]
FORMATS = (("bfloat16", "channels_last_3d"), ("float32", "contiguous"))
CONVOLUTIONS = ((3, 3, 3), (1, 7, 7))  # what the operator would replace, and filters of its size (Table 1)
MODELS = ("r2plus1d26", "corrnet26", "corrnet50", "corrnet101", "r2plus1d_18 of torchvision")
NUM_FRAMES, RESOLUTION, NUM_CLASSES = 32, 224, 400
LANES = 128  # of a multiprocessor: single-precision instructions a cycle


@dataclass
class _Captured(Contender):
    """A contender on a GPU whose calls are replayed as a graph."""

    graph: torch.cuda.CUDAGraph | None = None
    repeats: int = 1

    def time(self) -> float:
        assert self.graph is not None
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        self.seconds.append(start.elapsed_time(end) / 1e3 / self.repeats)
        return self.seconds[-1]


def capture(contender: Contender, device: torch.device) -> Contender:
    """Return the contender as a graph of calls; as it is without a GPU."""
    if contender.call is None or device.type != "cuda":
        return contender
    seconds = _eager_seconds(contender.call, device)
    repeats = max(1, int(ROUND_SECONDS / seconds))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            contender.call()
    fields = (contender.provider, contender.call, contender.dtype, contender.layout)
    return _Captured(*fields, note=contender.note, graph=graph, repeats=repeats)


def operator_rows(
    case: Case, device: torch.device, *, rounds: int = ROUNDS, with_inductor: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield a row for each contender, direction and format on a case; the first one of each is ours."""
    ours = choose("auto", device)
    for direction in DIRECTIONS:
        for dtype, layout in FORMATS:
            options = {"dtype": dtype, "layout": layout, "device": device}
            makers: dict[str, Callable[[], Contender]] = {
                backend: partial(correlation, case, direction, backend, **options)
                for backend in (ours, "reference")
            }
            if with_inductor:
                makers["inductor"] = partial(compiled_reference, case, direction, **options)
            for kernel in CONVOLUTIONS:
                name = "conv" + "x".join(map(str, kernel))
                makers[name] = partial(convolution, case, direction, kernel, **options)
            yield from _rows("operator", case, direction, makers, device, rounds)
        pair = pair_contenders(case, direction, device=device)
        makers = {contender.provider: partial(copy.copy, contender) for contender in pair}
        yield from _rows("pairs", case, direction, makers, device, rounds)


def _rows(
    table: str,
    case: Case,
    direction: str,
    makers: dict[str, Callable[[], Contender]],
    device: torch.device,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    contenders, extras = [], []
    for name, make in makers.items():
        try:
            contender = make()
            extra = _call_costs(contender, device)
            contenders.append(capture(contender, device))
            extras.append(extra)
        except torch.OutOfMemoryError as error:
            contenders.append(Contender(name, None, note=str(error).partition(". ")[0]))
            extras.append({})
    alternate(contenders, rounds=rounds)
    columns = {"table": table, **case.columns, "direction": direction}
    for contender, extra in zip(contenders, extras, strict=True):
        yield {**columns, **row(contender, contenders[0]), **extra}


def _call_costs(contender: Contender, device: torch.device) -> dict[str, Any]:
    """Return the time of an eager call, the memory that it adds at its peak, and how much of that it returns."""
    if contender.call is None:
        return {}
    costs: dict[str, Any] = {"eager_ms": 1e3 * _eager_seconds(contender.call, device)}
    if device.type == "cuda":
        before = _reset_peak(device)
        results = contender.call()
        peak, after = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        del results
        costs |= {"peak_bytes": peak - before, "result_bytes": after - before}
    return costs


def kept_rows(case: Case, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the bytes that autograd keeps beside inputs and outputs, for ours and the convolution."""
    ours = choose("auto", device)
    for dtype, layout in FORMATS:
        options = {"dtype": dtype, "layout": layout, "device": device}
        for contender in (
            correlation(case, "forward+backward", ours, **options),
            convolution(case, "forward+backward", (3, 3, 3), **options),
        ):
            kept: dict[int, int] = {}

            def note(saved: Tensor, kept: dict[int, int] = kept) -> Tensor:
                storage = saved.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
                return saved

            with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
                contender.run()
            contender.release()
            inputs = sum(factor.nbytes for factor in _inputs(contender, case, dtype))
            yield {
                "table": "kept",
                **case.columns,
                "provider": contender.provider,
                "dtype": dtype,
                "layout": layout,
                "kept_bytes": sum(kept.values()),
                "input_bytes": inputs,
            }


def _inputs(contender: Contender, case: Case, dtype: str) -> tuple[Tensor, Tensor]:
    x = torch.empty(case.shape, dtype=getattr(torch, dtype), device="meta")
    if contender.provider.startswith("conv"):
        return x, x.new_empty(case.channels, case.channels, 3, 3, 3)
    return x, x.new_empty(case.num_frames, case.channels, 7, 7)


def model_rows(
    names: Iterable[str],
    device: torch.device,
    *,
    batch: int,
    num_frames: int = NUM_FRAMES,
    resolution: int = RESOLUTION,
    rounds: int = ROUNDS,
) -> Iterator[dict[str, Any]]:
    """Yield clips a second, memory and share of the matrix rate of models in bfloat16, all taking turns.

    Ratios are to the first model. Training is forward, backward and an update by SGD with momentum.
    """
    for direction in ("inference", "training"):
        contenders, extras = [], []
        for name in names:
            try:
                call, gmacs = _model_call(name, device, direction, batch, num_frames, resolution)
                before = _reset_peak(device) if device.type == "cuda" else 0
                _eager_seconds(call, device)
                extra: dict[str, Any] = {"gmacs": gmacs}
                if device.type == "cuda":
                    extra["peak_bytes"] = torch.cuda.max_memory_allocated(device) - before
                contenders.append(Contender(name, _synchronised(call, device), "bfloat16", FORMATS[0][1]))
                extras.append(extra)
            except (ImportError, torch.OutOfMemoryError) as error:
                contenders.append(Contender(name, None, note=str(error).partition(". ")[0]))
                extras.append({})
        alternate(contenders, rounds=rounds)
        columns = {"table": "models", "direction": direction, "batch": batch, "num_frames": num_frames}
        for contender, extra in zip(contenders, extras, strict=True):
            measured = row(contender, contenders[0])
            if contender.call is not None:
                extra["clips_per_second"] = 1e3 * batch / measured["ms50"]
            yield {**columns, "resolution": resolution, **measured, **extra}


def _model_call(
    name: str, device: torch.device, direction: str, batch: int, num_frames: int, resolution: int
) -> tuple[Callable[[], object], float]:
    """Return a step of a model and the GMACs of a clip."""
    torch.manual_seed(0)
    model: nn.Module
    if name.endswith("torchvision"):
        from torchvision.models.video import r2plus1d_18

        model = r2plus1d_18(num_classes=NUM_CLASSES)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            model.to("meta")(torch.empty(1, 3, num_frames, resolution, resolution, device="meta"))
        gmacs = counter.get_total_flops() / 2e9
        model = r2plus1d_18(num_classes=NUM_CLASSES)
    else:
        ours = create_model(name, num_frames=num_frames, num_classes=NUM_CLASSES)
        model, gmacs = ours, count_gmacs(ours.config, resolution=resolution)
    model = model.to(device)
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    clips = torch.randn(batch, 3, num_frames, resolution, resolution, device=device)
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    labels = torch.randint(NUM_CLASSES, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def infer() -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            return model(clips)  # type: ignore[no-any-return]

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(clips), labels)
        loss.backward()
        optimizer.step()

    model.train(direction == "training")
    return (train if direction == "training" else infer), gmacs


def describe(device: torch.device) -> dict[str, Any]:
    """Return versions and rates of a device as columns of the rows."""
    columns: dict[str, Any] = {"torch": torch.__version__, "triton": _version("triton")}
    if device.type != "cuda":
        return columns
    properties = torch.cuda.get_device_properties(device)
    driver, ghz = _driver_and_clock(device)
    return {
        **columns,
        "gpu": properties.name,
        "driver": driver,
        "cuda": torch.version.cuda or torch.version.hip,
        "multiprocessors": properties.multi_processor_count,
        "ghz": ghz,
        "copy_gb_s": _copy_rate(device) / 1e9,
        "matrix_tflops": _matrix_rate(device) / 1e12,
    }


def floor_ms(row: dict[str, Any]) -> float | None:
    """Return what two instructions for each multiply-accumulate take; with gradients there are four times as many."""
    if not row.get("ghz"):
        return None
    macs = row["macs"] * (1 if row["direction"] == "forward" else 4)
    return 1e3 * 2 * macs / (row["multiprocessors"] * LANES * row["ghz"] * 1e9)


def _driver_and_clock(device: torch.device) -> tuple[str, float | str]:
    """Return the driver's version and the highest clock in GHz, empty where nvidia-smi is not there."""
    query = ["nvidia-smi", f"--id={device.index or 0}", "--query-gpu=driver_version,clocks.max.sm"]
    try:
        command = [*query, "--format=csv,noheader,nounits"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "", ""
    driver, _, clock = printed.strip().partition(", ")
    return driver, float(clock) / 1e3


def _copy_rate(device: torch.device) -> float:
    """Return bytes read and written a second."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _eager_seconds(lambda: target.copy_(source), device)


def _matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Return floating-point operations a second of a bfloat16 matrix product."""
    factors = [torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2)]
    return 2 * size**3 / _eager_seconds(lambda: factors[0] @ factors[1], device)


def _synchronised(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    def wait() -> object:
        result = call()
        _wait(device)
        return result

    return wait


def _eager_seconds(call: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Return the time of a call after three that warm up, the GPU's work included."""
    for _ in range(3):
        call()
    _wait(device)
    start = perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="clips of a step of the models (default: 8)")
    parser.add_argument("--only", choices=["operator", "models"], help="leave the other rows as they are")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "no GPU: torch sees none, so there is nothing to measure\n")
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda", torch.cuda.current_device())
    columns = describe(device)
    rows = [row for row in record.read("gpu") if chosen.only and not _belongs(row, chosen.only)]
    if chosen.only != "models":
        for case in CASES:
            for found in (*operator_rows(case, device), *kept_rows(case, device)):
                rows.append({**found, **columns, "floor_ms": floor_ms({**found, **columns})})
            print(case, flush=True)
            record.write("gpu", rows)  # what is measured stays measured
    if chosen.only != "operator":
        rows += [{**found, **columns} for found in model_rows(MODELS, device, batch=chosen.batch)]
    record.write("gpu", rows)
    gpu_report.main()


def _belongs(row: dict[str, Any], part: str) -> bool:
    return (row["table"] == "models") == (part == "models")


if __name__ == "__main__":
    main()
