"""Table 1 of the paper, counted: parameters and multiply-accumulates of the operator and of 3D convolution.

python -m bench.ops.table1     # writes bench/results/table1.csv and prints it

Each figure is counted in four ways, which have to agree exactly: by the paper's formula, from the parameters of the
module, by fvcore, and by PyTorch's FlopCounterMode.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.record import write
from bench.tables import Row, number, table
from corr_ops import VideoCorrelation, fvcore_handles


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
    module = VideoCorrelation(
        shape.c_in, shape.num_frames, kernel_size=shape.k, dilation=1, groups=shape.groups
    )
    area = shape.num_frames * shape.height * shape.width
    params = shape.num_frames * shape.c_in * shape.k**2
    return _count(module, shape, params, shape.c_in * shape.k**2 * area)


@cache
def count_convolution(shape: Shape) -> Counts:
    """Count a 3D convolution that keeps the size."""
    padding = tuple(side // 2 for side in shape.kernel)
    module = nn.Conv3d(shape.c_in, shape.c_out, shape.kernel, padding=padding, bias=False)
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
    """Return the table, with the two ratios that the paper gives as "about Cout/L" and "about Cout"."""
    found: list[Row] = []
    for shape in shapes():
        ours, convolution = count_correlation(shape), count_convolution(shape)
        if not (ours.agree and convolution.agree):
            raise AssertionError(f"counts of {shape} differ: {ours}, {convolution}")
        found.append(
            {
                "where": shape.name,
                "c_in": shape.c_in,
                "c_out": shape.c_out,
                "k": shape.k,
                "kernel": "x".join(map(str, shape.kernel)),
                "num_frames": shape.num_frames,
                "height": shape.height,
                "width": shape.width,
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


def markdown(found: list[Row]) -> str:
    """Return the table for people."""
    header = ["maps", "C, L x H x W", "K", "Conv3d", "params", "its params", "ratio", "Cout/L"]
    header += ["MMACs", "its MMACs", "ratio", "Cout"]
    body = [
        [
            row["where"],
            f"{row['c_in']}, {row['num_frames']}x{row['height']}x{row['width']}",
            str(row["k"]),
            f"{row['kernel']}, {row['c_out']}",
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


def main() -> None:
    found = rows()
    write("table1", found)
    print(markdown(found))


if __name__ == "__main__":
    main()
