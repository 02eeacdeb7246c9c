"""Tables of the rows on record for a GPU, for the README of corr-ops and the page about the first run.

python -m bench.gpu.report     # writes both and prints them
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from bench.gpu import model
from bench.gpu.kernels import STAGES as CORRELATIONS
from bench.gpu.measure import read
from bench.gpu.network import CONVOLUTIONS
from bench.tables import Row, find, number, table, write_between_markers
from corr_ops import VideoCorrelation

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "bench" / "results" / "gpu" / "h100-2026-11-26"
STAGES = ("res2", "res3", "res4")
GOAL = 0.45
DIRECTIONS = ("forward", "forward+backward")


def operator(peers: list[Row]) -> str:
    """Return the times of the operator beside convolutions and the reference."""
    body = []
    for dtype in ("bfloat16", "float32"):
        for batch in (1, 8):
            for direction in DIRECTIONS:
                rows = [
                    find(peers, dtype=dtype, batch=batch, direction=direction, stage=stage)
                    for stage in STAGES
                ]
                times = [row.get("triton_ms") for row in rows]
                ratios = [_ratio(rows, other) for other in ("conv3x3x3", "conv1x7x7", "reference")]
                cells = [number(1e3 * time) if time else "" for time in times]
                body.append([dtype, str(batch), direction, *cells, *ratios])
    header = ["dtype", "N", "direction", *(f"{stage}, us" for stage in STAGES)]
    return table([*header, "Conv3d 3x3x3", "Conv3d 1x7x7", "reference"], body, left=3)


def _ratio(rows: list[Row], other: str) -> str:
    """Return the time of the other over ours, summed over the layers; empty where one was not measured."""
    if not all(f"{other}_ms" in row for row in rows):
        return ""
    return number(sum(row[f"{other}_ms"] for row in rows) / sum(row["triton_ms"] for row in rows))


def variants(kernels: list[Row]) -> str:
    """Return the times of each kernel in its variants."""
    body = []
    for batch in (1, 8):
        for stage in STAGES:
            for kernel in ("forward", "grad_frames", "grad_filters"):
                rows = [row for row in kernels if row["table"] == "kernel" and row["dtype"] == "bfloat16"]
                names = ("as it is", "group fastest", "rows of 8", "both")
                times = [find(rows, batch=batch, stage=stage, variant=name)[f"{kernel}_us"] for name in names]
                body.append([stage, str(batch), kernel.replace("_", " of "), *map(number, times)])
    return table(["stage", "N", "kernel", "as it is, us", "group fastest", "rows of 8", "both"], body, left=3)


def layers(network: list[Row]) -> str:
    """Return the times of layers in both ways."""
    body = []
    for row in network:
        if row["table"] == "norm":
            what = f"batch norm, {row['dtype']}"
        elif row["table"] == "convolution":
            what = f"convolution {row['layer']}"
        elif row["table"] == "convolution after the operator":
            what = f"1x1x1 convolution of {row['shape'].split('x')[1]} channels"
        else:
            continue
        way = {True: "view", False: "5-d"}.get(row.get("view"), "5-d")
        body.append([what, row.get("stage", "res2"), way, number(row["forward_ms"]), number(row["both_ms"])])
    return table(["layer", "stage", "computed", "forward, ms", "forward+backward, ms"], body, left=3)


def networks(network: list[Row]) -> str:
    """Return clips a second of whole networks."""
    body = [
        [
            row["model"],
            row["way"],
            row["direction"],
            number(row["clips_per_second"]),
            number(row["tflops"]),
            number(row["peak_gib"]),
            number(row["first_seconds"]),
        ]
        for row in network
        if row["table"] == "network" and "ms" in row
    ]
    header = ["model", "way", "direction", "clips/s", "TFLOP/s", "peak memory, GiB", "first step, s"]
    return table(header, body, left=3)


def steps(network: list[Row], batch: int = 8) -> str:
    """Return the modeled time of each network's step beside the measured ones, what was reached, and if it suffices."""
    rates = model.rates(network)
    about = (
        "`python -m bench.gpu.model` models the time; its docstring says what is counted. The rates are those that "
        f"this machine reached in a copy ({rates.bytes / 1e12:.1f} TB/s) and in a matrix product "
        f"({rates.flops / 1e12:.0f} TFLOP/s). Eager: each pass over tensors is a kernel. Fused: element-wise work is "
        "done where it is read. Shares are modeled / measured, how much of what the model allows was reached. All in "
        "bfloat16 but where it says float16; what is empty was not measured."
    )
    body, judged = [], ""
    for row in model.totals(batch, rates):
        columns = {"model": row["model"], "direction": row["direction"], "batch": batch}
        eager, compiled = (
            find(network, table="network", way=way, **columns).get("ms") for way in ("eager", "compiled")
        )
        cells = [number(row["eager_ms"]), number(eager), _share(row["eager_ms"], eager)]
        cells += [number(row["fused_ms"]), number(compiled), _share(row["fused_ms"], compiled)]
        body.append([row["model"], row["direction"], *cells, _share(row["fused_ms"], eager)])
        if (row["model"], row["direction"]) == ("corrnet26", "training"):
            judged = (
                f"The goal is that CorrNet-26 trains at {100 * GOAL:.0f} % or more of what the model allows. "
                f"Compiled, against the fused total: {_judged(row['fused_ms'], compiled)}. Eager, against the eager "
                f"total: {_judged(row['eager_ms'], eager)}. Eager, against the fused total: "
                f"{_judged(row['fused_ms'], eager)}."
            )
    header = ["network", "direction", "eager modeled, ms", "eager measured, ms", "share"]
    header += ["fused modeled, ms", "compiled measured, ms", "share", "fused modeled / eager measured"]
    return f"{about}\n\n{judged}\n\n{table(header, body, left=2)}"


def _judged(modeled: float, measured: float | None) -> str:
    if measured is None:
        return "not measured"
    verdict = "met" if modeled >= GOAL * measured else "not met"
    return f"{verdict} with {_share(modeled, measured)}"


def modeled_layers(network: list[Row], peers: list[Row]) -> str:
    """Return the modeled time of single layers beside the measured one, with modeled / measured in percent."""
    rates = model.rates(network)
    body = []
    for row in network:
        found = _layer(row)
        if found is None or row.get("view"):
            continue
        what, make = found
        shape, half = [int(side) for side in row["shape"].split("x")], row["table"] != "norm"
        body.append([what, row.get("stage", "res2")])
        for backward, measured in ((False, row["forward_ms"]), (True, row["both_ms"])):
            trace = model.trace_layer(make, shape, backward=backward, half=half)
            body[-1] += _beside(model.milliseconds(trace.eager(), rates), measured)
    for stage, channels, groups, size, frames in CORRELATIONS:
        make = partial(VideoCorrelation, channels, frames, groups=groups)
        body.append(["operator", stage])
        for direction in DIRECTIONS:
            measured = find(peers, stage=stage, batch=8, dtype="bfloat16", direction=direction)["triton_ms"]
            shape = [8, channels, frames, size, size]
            trace = model.trace_layer(make, shape, backward=direction != "forward")
            body[-1] += _beside(model.milliseconds(trace.eager(), rates), measured)
    header = ["layer", "stage"]
    for direction in DIRECTIONS:
        header += [f"{direction} modeled, ms", "measured, ms", "share"]
    return table(header, body, left=2)


def _layer(row: Row) -> tuple[str, Callable[[], nn.Module]] | None:
    """Return what a row of stage `network` measured, and how to make it; None for what is no layer."""
    if row["table"] == "norm":
        return f"batch norm, {row['dtype']}", partial(nn.BatchNorm3d, int(row["shape"].split("x")[1]))
    if row["table"] == "convolution":
        wide_in, wide_out, kernel = CONVOLUTIONS[row["layer"]]
        channels = int(row["shape"].split("x")[1])
        padding = tuple(side // 2 for side in kernel)
        make = partial(
            nn.Conv3d, channels, channels * wide_out // wide_in, kernel, padding=padding, bias=False
        )
        return f"convolution {row['layer']}", make
    if row["table"] == "convolution after the operator":
        channels = int(row["shape"].split("x")[1])
        return f"1x1x1 convolution of {channels} channels", partial(nn.Conv3d, channels, 256, 1, bias=False)
    return None


def _beside(modeled: float, measured: float) -> list[str]:
    return [number(modeled), number(measured), _share(modeled, measured)]


def _share(modeled: float, measured: float | None) -> str:
    return f"{100 * modeled / measured:.0f} %" if measured else ""


def machine(row: Row) -> str:
    """Say what the rows were measured on."""
    return (
        f"{row['gpu']} at {row['sm_mhz']} MHz, driver {row['driver']}, CUDA {row['cuda']}, torch {row['torch']}, "
        f"triton {row['triton']}; one machine, one run."
    )


def main() -> None:
    """Write the tables and print them."""
    rows = {path.stem: read(path) for path in sorted(RECORD.glob("*.jsonl"))}
    where = machine(rows["kernels"][0])
    peers = operator([row for row in rows["tune"] if row["table"] == "peers"])
    about = (
        "The layers of CorrNet-26 on N clips of 32 frames of 224x224. Times are medians of calls replayed as a CUDA "
        "graph; ratios are (time of the other) / (time of ours) over the three layers. Frames are channels_last_3d in "
        "bfloat16 and contiguous in float32, whose forward pass takes up to twice as long from channels_last_3d. "
        "Convolutions in float32 use "
        "TF32, PyTorch's default; ours does not."
    )
    readme = f"{where} {about}\n\n{peers}"
    write_between_markers(ROOT / "packages" / "corr-ops" / "README.md", "bench.gpu.report", readme)
    parts = [
        where,
        "### The operator\n",
        peers,
        "### Its kernels, each alone, bfloat16\n",
        variants(rows["kernels"]),
        "### Layers of the networks, 8 clips of 32 frames of 224x224\n",
        layers(rows["network"]),
        "### Networks, 8 clips of 32 frames of 224x224\n",
        networks(rows["network"]),
        "### The step: modeled and measured, 8 clips of 32 frames of 224x224\n",
        steps(rows["network"]),
        "Layers alone, each pass a kernel. The model knows no instructions but those of matrices; the operator has "
        "many others, so its share says more about the model than about the kernels.",
        modeled_layers(rows["network"], [row for row in rows["tune"] if row["table"] == "peers"]),
    ]
    page = "\n\n".join(part.strip() for part in parts)
    write_between_markers(ROOT / "docs" / "gpu-first-run.md", "bench.gpu.report", page)
    print(page)


if __name__ == "__main__":
    main()
