"""Tables of the rows on record for a GPU, for the README of corr-ops and the page about the first run.

python -m bench.gpu.report     # writes both and prints them
"""

from pathlib import Path

from bench.gpu.measure import read
from bench.tables import Row, find, number, table, write_between_markers

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "bench" / "results" / "gpu" / "h100-2026-11-26"
STAGES = ("res2", "res3", "res4")
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
    ]
    page = "\n\n".join(part.strip() for part in parts)
    write_between_markers(ROOT / "docs" / "gpu-first-run.md", "bench.gpu.report", page)
    print(page)


if __name__ == "__main__":
    main()
