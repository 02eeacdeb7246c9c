"""Table 1 of the paper: parameters and multiply-accumulates of the operator and of 3D convolution, and what they take.

python -m bench.ops.table1            # counts, writes bench/results/table1.csv and prints it
python -m bench.ops.table1 --time     # also measures times and memory on this machine, for some seconds a shape

A few rows of it go into the README of corr-ops.

Each figure is counted in four ways, which have to agree exactly: by the paper's formula, from the parameters of the
module, by fvcore, and by PyTorch's FlopCounterMode. The operator and the convolution are timed in turns, in float32,
after the operator's output was compared with the reference. Memory is by how much a call raises the resident memory of
a fresh process.
"""

import argparse
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bench import interleave, record
from bench.interleave import Contender
from bench.machine import describe_run
from bench.ops import memory
from bench.ops.cases import DILATION, DIRECTIONS, make_call
from bench.ops.ops_report import README
from bench.tables import Row, measured_on, number, table, write_between_markers
from corr_ops import VideoCorrelation, fvcore_handles, video_correlation


@dataclass(frozen=True)
class Shape:
    """A row of the table: what the two operators take and make, with the names of the paper.

    Attributes:
        name: Where in CorrNet such maps are.
        c_in, c_out: channels of the input, and of the convolution's output.
        k: Side of the neighborhood that is searched.
        kernel: Sides Kt, Ky, Kx of the convolution's filter.
        num_frames, height, width: L, H and W of the input.
        groups: Groups of the operator; they change neither count.
    """

    name: str
    c_in: int
    c_out: int
    k: int
    kernel: tuple[int, int, int]
    num_frames: int
    height: int
    width: int
    groups: int = 1

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of a clip [1, C, L, H, W]."""
        return (1, self.c_in, self.num_frames, self.height, self.width)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the operator; the dilation is CorrNet's and changes no count."""
        return {"kernel_size": self.k, "dilation": DILATION, "groups": self.groups}

    @property
    def padding(self) -> tuple[int, ...]:
        """Padding with which the convolution keeps the size."""
        return tuple(side // 2 for side in self.kernel)

    @property
    def columns(self) -> Row:
        """Columns that name the row."""
        return {
            "where": self.name,
            "c_in": self.c_in,
            "c_out": self.c_out,
            "k": self.k,
            "kernel": "x".join(map(str, self.kernel)),
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
        }


@dataclass(frozen=True)
class Counts:
    """A figure counted in several ways.

    Attributes:
        params: By the formula, the module's parameters, and fvcore.
        macs: By the formula, fvcore, and FlopCounterMode, which counts two FLOPs for each.
    """

    params: tuple[int, int, int]
    macs: tuple[int, int, int]

    @property
    def agree(self) -> bool:
        """Whether all ways give the same."""
        return len(set(self.params)) == len(set(self.macs)) == 1


KERNELS = ((3, 3, 3), (1, 7, 7))  # a usual one, and one with as many weights as K = 7 (K*K = Kt*Ky*Kx)
_SHAPE = ("maps", "C, L x H x W", "K", "Conv3d")
_STAGES = (("res2", 64, 2, 56), ("res3", 128, 4, 28), ("res4", 256, 8, 14))


def shapes() -> Iterator[Shape]:
    """Yield the grid: CorrNet's maps for 8, 16 and 32 frames, windows of Figure 3, and sides that differ."""
    for num_frames in (8, 16, 32):
        for name, channels, groups, size in _STAGES:
            length = num_frames // 2 if name == "res4" else num_frames  # res4 halves the frames
            for kernel in KERNELS:
                yield Shape(name, channels, channels, 7, kernel, length, size, size, groups)
    for k in (3, 5, 9):
        yield Shape("res3", 128, 128, k, (1, k, k), 16, 28, 28, 4)
    yield Shape("res2", 64, 256, 7, (3, 3, 3), 16, 56, 56, 2)
    yield Shape("other sides", 48, 80, 5, (5, 3, 1), 10, 18, 30, 3)


@cache
def count_correlation(shape: Shape) -> Counts:
    """Count the correlation operator."""
    module = VideoCorrelation(shape.c_in, shape.num_frames, **shape.options)
    area = shape.num_frames * shape.height * shape.width
    params = shape.num_frames * shape.c_in * shape.k**2
    return _count(module, shape, params, shape.c_in * shape.k**2 * area)


@cache
def count_convolution(shape: Shape) -> Counts:
    """Count a 3D convolution that keeps the size."""
    module = nn.Conv3d(shape.c_in, shape.c_out, shape.kernel, padding=shape.padding, bias=False)
    params = shape.c_out * shape.c_in * torch.Size(shape.kernel).numel()
    return _count(module, shape, params, params * shape.num_frames * shape.height * shape.width)


def _count(module: nn.Module, shape: Shape, params: int, macs: int) -> Counts:
    own = sum(parameter.numel() for parameter in module.parameters())
    return Counts(
        (params, own, parameter_count(module)[""]),
        (macs, *_measured_macs(module, torch.zeros(shape.input))),
    )


def _measured_macs(module: nn.Module, clip: Tensor) -> tuple[int, int]:
    """Return what fvcore and FlopCounterMode count; nothing is timed, so zeros do, and tensors without memory."""
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    traced = int(FlopCountAnalysis(module, clip).set_op_handle(**fvcore_handles()).total())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.to("meta")(clip.to("meta"))
    flops, odd = divmod(counter.get_total_flops(), 2)
    assert not odd
    return traced, flops


def rows() -> list[Row]:
    """Return the counts, with the two ratios that the paper gives as "about Cout/L" and "about Cout"."""
    found: list[Row] = []
    for shape in shapes():
        ours, convolution = count_correlation(shape), count_convolution(shape)
        if not (ours.agree and convolution.agree):
            raise AssertionError(f"counts of {shape} differ: {ours}, {convolution}")
        found.append(
            {
                **shape.columns,
                "params": ours.params[0],
                "conv_params": convolution.params[0],
                "params_ratio": convolution.params[0] / ours.params[0],
                "c_out_by_l": shape.c_out / shape.num_frames,
                "macs": ours.macs[0],
                "conv_macs": convolution.macs[0],
                "macs_ratio": convolution.macs[0] / ours.macs[0],
            }
        )
    return found


def contenders(shape: Shape, direction: str) -> tuple[Contender, Contender]:
    """Return the operator and the convolution, on random clips and weights that are drawn here.

    Raises:
        AssertionError: The operator's output is not that of the reference.
    """
    x = torch.randn(shape.input)
    filters = torch.randn(shape.num_frames, shape.c_in, shape.k, shape.k)
    weight = torch.randn(shape.c_out, shape.c_in, *shape.kernel)

    def operator(x: Tensor, filters: Tensor, **more: Any) -> Tensor:
        return video_correlation(x, filters, **shape.options, **more)

    with torch.no_grad():
        torch.testing.assert_close(
            operator(x, filters), operator(x, filters, backend="reference"), rtol=1e-3, atol=1e-3
        )
    return (
        Contender("operator", make_call(operator, (x, filters), direction)),
        Contender(
            "convolution",
            make_call(lambda x, w: functional.conv3d(x, w, padding=shape.padding), (x, weight), direction),
        ),
    )


def times(shape: Shape, direction: str, *, seconds: float) -> Row:
    """Time both in turns; ratios are the time of the convolution over that of the operator in the same round."""
    both = ours, convolution = contenders(shape, direction)
    rounds = interleave.rounds_within(seconds, both)
    interleave.alternate(both, rounds=rounds, clock=interleave.own_clock())
    of_ours, other = interleave.row(ours, ours), interleave.row(convolution, ours)
    columns: Row = {"rounds": of_ours["rounds"]}
    for quantile in (20, 50, 80):
        columns[f"ms{quantile}"] = of_ours[f"ms{quantile}"]
        columns[f"conv_ms{quantile}"] = other[f"ms{quantile}"]
        columns[f"ratio{quantile}"] = other[f"ratio{quantile}"]
    return columns


def extra_memory(shape: Shape, direction: str) -> Row:
    """Measure both in this process, which `memory.prepare` made ready."""
    ours, convolution = map(memory.extra_bytes, contenders(shape, direction))
    return {"extra_bytes": ours, "conv_extra_bytes": convolution}


def measure(found: list[Row], *, seconds: float) -> list[Row]:
    """Return the rows with times and memory of this machine; about `seconds` for each shape and direction."""
    run = describe_run()
    measured = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=memory.prepare) as fresh:
        for shape, counts in zip(shapes(), found, strict=True):
            columns: Row = {}
            for direction in DIRECTIONS:
                taken = times(shape, direction, seconds=seconds)
                if memory.unavailable() is None:
                    taken |= fresh.submit(extra_memory, shape, direction).result()
                columns |= {f"{direction} {key}": value for key, value in taken.items()}
            measured.append({**counts, **columns, **run})
            print(f"{shape.name}, L = {shape.num_frames}: {columns['forward ratio50']:.3g}", flush=True)
    return measured


def with_times_on_record(found: list[Row]) -> list[Row]:
    """Return counts with the times on record for the same shapes."""
    names = list(next(shapes()).columns)
    known = {tuple(one[name] for name in names): one for one in record.read("table1")}
    return [{**known.get(tuple(one[name] for name in names), {}), **one} for one in found]


def markdown(found: list[Row]) -> str:
    """Return the tables for people: what is counted and, where it was measured, what it takes."""
    return "\n\n".join(part for part in (_counts(found), _times(found)) if part)


def short(found: list[Row]) -> str:
    """Return what a README has room for: times beside a 3x3x3 convolution at the shortest and the longest clips."""
    found = [
        row
        for row in found
        if "commit" in row and row["c_in"] == row["c_out"] and row["kernel"] == "3x3x3" and row["k"] == 7
    ]
    lengths = {name: [row["num_frames"] for row in found if row["where"] == name] for name, *_ in _STAGES}
    ends = [
        row for row in found if row["num_frames"] in (min(lengths[row["where"]]), max(lengths[row["where"]]))
    ]
    header = ["maps", "C, L x H x W", "MACs ratio"]
    for direction in DIRECTIONS:
        header += [f"{direction}: time ratio", "arrives", "MB", "its MB"]
    body = []
    for row in ends:
        cells = [_taken(row, direction) for direction in DIRECTIONS]
        brief = [cell for _, ratio, _, *rest in cells for cell in (ratio, *rest)]
        body.append([*_shape(row)[:2], number(row["macs_ratio"]), *brief])
    return f"{_about(ends[0])}\n\n{table(header, body, left=2)}" if ends else ""


def _counts(found: list[Row]) -> str:
    header = [*_SHAPE, "params", "its params", "ratio", "Cout/L", "MMACs", "its MMACs", "ratio", "Cout"]
    body = [
        [
            *_shape(row),
            f"{row['params']:,}",
            f"{row['conv_params']:,}",
            number(row["params_ratio"]),
            number(row["c_out_by_l"]),
            number(row["macs"] / 1e6, 4),
            number(row["conv_macs"] / 1e6, 5),
            number(row["macs_ratio"]),
            str(row["c_out"]),
        ]
        for row in found
    ]
    return table(header, body, left=4)


def _shape(row: Row) -> list[str]:
    return [
        row["where"],
        f"{row['c_in']}, {row['num_frames']}x{row['height']}x{row['width']}",
        str(row["k"]),
        f"{row['kernel']}, {row['c_out']}",
    ]


def _times(found: list[Row]) -> str:
    found = [row for row in found if "commit" in row]
    if not found:
        return ""
    header = [*_SHAPE, "MACs ratio"]
    for direction in DIRECTIONS:
        header += [f"{direction}, ms", "time ratio", "(20 to 80 %)", "arrives", "MB", "its MB"]
    body = [
        [
            *_shape(row),
            number(row["macs_ratio"]),
            *(cell for direction in DIRECTIONS for cell in _taken(row, direction)),
        ]
        for row in found
    ]
    return f"{_about(found[0])}\n\n{table(header, body, left=4)}"


def _about(row: Row) -> str:
    return (
        f"{measured_on(row)} Both take turns in one process, in float32, and allocate their results. The time ratio is "
        "the convolution's time over the operator's in the same round, the median over rounds. What arrives is the "
        "share of the ratio of multiply-accumulates that is seen in time. MB is by how much a call raises the resident "
        "memory of a process, with its results."
    )


def _taken(row: Row, direction: str) -> list[str]:
    low, ratio, high = (row[f"{direction} ratio{quantile}"] for quantile in (20, 50, 80))
    sizes = [row.get(f"{direction} {key}") for key in ("extra_bytes", "conv_extra_bytes")]
    return [
        number(row[f"{direction} ms50"]),
        number(ratio),
        f"{number(low)} to {number(high)}",
        f"{100 * ratio / row['macs_ratio']:.0f} %",
        *(number(None if size is None else size / 1e6) for size in sizes),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--time", action="store_true", help="measure times and memory too")
    parser.add_argument("--seconds", type=float, default=3, help="for each shape and direction (default 3)")
    options = parser.parse_args()
    found = rows()
    found = measure(found, seconds=options.seconds) if options.time else with_times_on_record(found)
    record.write("table1", found)
    if text := short(found):
        write_between_markers(README, "bench.ops.table1", text)
    print(markdown(found))


if __name__ == "__main__":
    main()
