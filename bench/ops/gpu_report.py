"""Tables of what the GPU kernels are meant to reach, with what was measured and what is modelled beside it.

    python -m bench.ops.gpu_report     # writes them into the README of corr-ops and prints them

Measured figures come from the rows on record (`python -m bench.ops.gpu`), modelled ones from the counts of
compiled instructions (`packages/corr-ops/tools/triton_code.py`).
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import record
from bench.tables import Row, find, milliseconds, number, table, write_between_markers
from corr_ops.impl import reference
from corrnet_models import count_gmacs, create_model

ROOT = Path(__file__).parents[2] / "packages" / "corr-ops"
STAGES = ("res2", "res3", "res4")
# The H200 of the model: multiprocessors, lanes of each, highest clock in GHz; TFLOP/s that cuDNN and TB/s that
# operations on tensors are taken to reach.
MULTIPROCESSORS, LANES, GHZ, CONVOLUTION_TFLOPS, MEMORY_TB_S = 132, 128, 1.98, 430, 4.3
# Kernel of the counts, and how many times the forward pass's multiply-accumulates it has.
KERNELS = {
    "forward": (("forward", 1),),
    "forward+backward": (("forward", 1), ("gradient of frames", 2), ("gradient of filters", 1)),
}
SHAPES = {"res2": (64, 32, 56), "res3": (128, 32, 28), "res4": (256, 16, 14)}  # C, L, H = W
TAPS = 49
CASE = ("stage", "num_frames", "batch", "direction", "dtype")
OTHERS = ("reference", "inductor", "conv3x3x3", "conv1x7x7")


def markdown(rows: list[Row]) -> str:
    """Return the targets, and the tables for which there are rows."""
    parts = [_machine(rows), _targets(rows), _times(rows), _models(rows)]
    return "\n\n".join(part for part in parts if part)


def _machine(rows: list[Row]) -> str:
    if not rows:
        return (
            "Nothing was measured yet: `python -m bench.ops.gpu` in the repository fills the table on a GPU."
        )
    gpu = rows[0]
    return (
        f"{gpu['gpu']}, driver {gpu['driver']}, torch {gpu['torch']}, triton {gpu['triton']}, CUDA {gpu['cuda']}; "
        f"measured rates: copies {number(gpu['copy_gb_s'])} GB/s, bfloat16 matrix product "
        f"{number(gpu['matrix_tflops'])} TFLOP/s. Times are medians with the 20 and 80 % quantiles, ratios are "
        "(time of the other) / (time of ours) in the same round, medians again."
    )


def modelled_us(direction: str, counts: dict[str, Row]) -> float:
    """Return the modelled time of the three layers of CorrNet-26, one clip in bfloat16, in microseconds.

    Of a kernel's issued instructions, its load/store unit's cycles and its matrix instructions the most limits it.
    """
    total = 0.0
    for stage in STAGES:
        for kernel, times in KERNELS[direction]:
            count = counts[f"cuda-90, {stage}, {kernel}, bfloat16"]
            slots = max(count["slots"], count["memory_slots"], count["matrix_slots"])
            total += slots * times * macs(stage)
    return 1e6 * total / (MULTIPROCESSORS * LANES * GHZ * 1e9)


def modelled_floor_us(direction: str) -> float:
    """Return what two instructions for each multiply-accumulate take, in microseconds."""
    total = sum(times * macs(stage) for stage in STAGES for _, times in KERNELS[direction])
    return 1e6 * 2 * total / (MULTIPROCESSORS * LANES * GHZ * 1e9)


def modelled_convolution_us(direction: str) -> float:
    """Return the time of the three 3x3x3 convolutions with as many output as input channels, in microseconds."""
    flops = sum(2 * 27 * channels**2 * length * size**2 for channels, length, size in SHAPES.values())
    return 1e-6 * flops * (1 if direction == "forward" else 3) / CONVOLUTION_TFLOPS


def modelled_reference_us() -> float:
    """Return what the reference's operations read and write in the forward pass, as a time in microseconds."""
    traffic = _Traffic()
    for channels, length, size in SHAPES.values():
        options = {"dtype": torch.bfloat16, "device": "meta"}
        x = torch.empty(1, channels, length, size, size, **options)
        weight = torch.empty(length, channels, 7, 7, **options)
        with traffic:
            reference.forward(x, None, weight, (7, 7), (2, 2), channels // 32, 1)
    return 1e-6 * traffic.bytes / MEMORY_TB_S


class _Traffic(TorchDispatchMode):
    """Counts the bytes of the operands and results of all operations that touch data."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor))
            self.bytes += sum(tensor.numel() * tensor.itemsize for tensor in tensors)
        return out


def modelled_training_ratio(counts: dict[str, Row]) -> float:
    """Return clips/s of CorrNet-26 in relation to R(2+1)D-26 by matrix products and correlations alone."""
    gmacs = [count_gmacs(create_model(name, num_frames=32).config) for name in ("corrnet26", "r2plus1d26")]
    gmacs[0] -= sum(map(macs, STAGES)) / 1e9
    seconds = [3 * 2e9 * number / (CONVOLUTION_TFLOPS * 1e12) for number in gmacs]
    return seconds[1] / (seconds[0] + 1e-6 * modelled_us("forward+backward", counts))


def macs(stage: str) -> int:
    """Return the multiply-accumulates of a layer's forward pass."""
    channels, length, size = SHAPES[stage]
    return channels * length * size**2 * TAPS


def _targets(rows: list[Row]) -> str:
    counts = json.loads((ROOT / "tests" / "triton_code.json").read_text(encoding="utf-8"))
    forward, both = (modelled_us(direction, counts) for direction in KERNELS)
    to_convolution = [modelled_convolution_us(d) / modelled_us(d, counts) for d in KERNELS]
    to_floor = [time / modelled_floor_us(d) for time, d in zip((forward, both), KERNELS, strict=True)]
    body = [
        _target(
            "forward: at least 3 times as fast as Conv3d 3x3x3",
            _to_other(rows, "forward", "conv3x3x3"),
            to_convolution[0],
            lambda value: value >= 3,
        ),
        _target(
            "forward: at least 30 times as fast as the reference",
            _to_other(rows, "forward", "reference"),
            modelled_reference_us() / forward,
            lambda value: value >= 30,
        ),
        _target(
            "forward: at most the floor's time",
            _to_floor(rows, "forward"),
            to_floor[0],
            lambda value: value <= 1,
        ),
        _target(
            "forward+backward: at least 1.5 times as fast as Conv3d 3x3x3",
            _to_other(rows, "forward+backward", "conv3x3x3"),
            to_convolution[1],
            lambda value: value >= 1.5,
        ),
        _target(
            "forward+backward: at most 1.3 times the floor's time",
            _to_floor(rows, "forward+backward"),
            to_floor[1],
            lambda value: value <= 1.3,
        ),
        _target("kept for backward: inputs only", _kept(rows), 1, lambda value: value <= 1),
        _target(
            "CorrNet-26 trains at least 0.97 times as many clips as R(2+1)D-26",
            _clips(rows),
            modelled_training_ratio(counts),
            lambda value: value >= 0.97,
        ),
    ]
    header = ["target, bfloat16, one clip, sum of the three layers", "measured", "met", "modelled"]
    return (
        table(header, body)
        + "\n\n"
        + (
            f"Modelled for an H200 ({MULTIPROCESSORS} multiprocessors at {GHZ} GHz) from the counts above: forward "
            f"{forward:.0f} us, forward+backward {both:.0f} us; two instructions for each multiply-accumulate take "
            f"{modelled_floor_us('forward'):.0f} and {modelled_floor_us('forward+backward'):.0f} us; the convolution "
            f"is taken to run at {CONVOLUTION_TFLOPS} TFLOP/s, the reference at what its operations read and write at "
            f"{MEMORY_TB_S} TB/s, and models at their convolutions and correlations alone."
        )
    )


def _target(
    text: str, measured: float | None, modelled: float | None, is_met: Callable[[float], bool]
) -> list[str]:
    met = "" if measured is None else "yes" if is_met(measured) else "no"
    return [text, number(measured), met, number(modelled)]


def _layers(rows: list[Row], direction: str, provider: str) -> list[Row]:
    """Return the rows of one clip in bfloat16, none unless all layers were measured."""
    key = {"table": "operator", "batch": 1, "direction": direction, "dtype": "bfloat16", "provider": provider}
    found = [find(rows, stage=stage, **key) for stage in STAGES]
    return found if all("ms50" in row for row in found) else []


def _sum(rows: list[Row], column: str = "ms50") -> float | None:
    return sum(row[column] for row in rows) if rows and all(column in row for row in rows) else None


def _to_other(rows: list[Row], direction: str, other: str) -> float | None:
    ours, others = (_sum(_layers(rows, direction, provider)) for provider in ("triton", other))
    return others / ours if ours and others else None


def _to_floor(rows: list[Row], direction: str) -> float | None:
    layers = _layers(rows, direction, "triton")
    ours, floor = _sum(layers), _sum(layers, "floor_ms")
    return ours / floor if ours and floor else None


def _kept(rows: list[Row]) -> float | None:
    """Return what autograd keeps in relation to the inputs."""
    key = {"table": "kept", "batch": 1, "dtype": "bfloat16", "provider": "triton"}
    found = [row for stage in STAGES if (row := find(rows, stage=stage, **key))]
    kept, inputs = _sum(found, "kept_bytes"), _sum(found, "input_bytes")
    return kept / inputs if kept and inputs else None


def _clips(rows: list[Row]) -> float | None:
    key = {"table": "models", "direction": "training"}
    ours, other = (
        find(rows, provider=name, **key).get("clips_per_second") for name in ("corrnet26", "r2plus1d26")
    )
    return ours / other if ours and other else None


def _times(rows: list[Row]) -> str:
    cases: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["table"] == "operator":
            cases.setdefault(tuple(row.get(key, "") for key in CASE), []).append(row)
    body = []
    for key, contenders in cases.items():
        ours = contenders[0]
        ratios = [number(find(contenders, provider=other).get("ratio50")) for other in OTHERS]
        costs = [number(ours.get("floor_ms")), number(ours.get("eager_ms"))]
        body.append([*map(str, key), milliseconds(ours), *costs, *ratios])
    header = ["stage", "L", "N", "direction", "dtype", "ours, ms", "floor, ms", "eager call, ms", *OTHERS]
    return table(header, body, left=5)


def _models(rows: list[Row]) -> str:
    body = []
    for row in rows:
        if row["table"] != "models":
            continue
        flops = row["gmacs"] * 2e9 * (3 if row["direction"] == "training" else 1) if "gmacs" in row else 0
        share = flops * row.get("clips_per_second", 0) / (row.get("matrix_tflops", 0) * 1e12 or float("inf"))
        cells = [row["provider"], row["direction"], str(row["batch"]), str(row["num_frames"])]
        memory = row["peak_bytes"] / 2**30 if "peak_bytes" in row else None
        values = [row.get("clips_per_second"), memory, share or None]
        body.append([*cells, *map(number, values), row.get("note", "")])
    header = [
        "model",
        "direction",
        "N",
        "L",
        "clips/s",
        "peak memory, GiB",
        "share of the matrix rate",
        "note",
    ]
    return table(header, body, left=2)


def main() -> None:
    text = markdown(record.read("gpu"))
    write_between_markers(ROOT / "README.md", "bench.ops.gpu_report", text)
    print(text)


if __name__ == "__main__":
    main()
