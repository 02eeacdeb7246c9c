"""How near the operator's CPU kernels come to what the machine allows.

python -m bench.ops.roofline     # measures this machine and keeps the figures in bench/history/MACHINE.json

The machine's rates are those that it reaches in a copy between arrays that no cache holds, and in a large matrix
product or a convolution, whichever is faster. They take turns with the kernels, so that other work hits all alike, and
of each the fastest turn counts: the roof is a bound, and so is what is below it. With one thread the clock is the
processor's.

Operations are those of the formula, for each multiply-accumulate of Table 1: the forward pass multiplies twice and adds
once; the gradients take five products and three sums more. Bytes are those of inputs and results, each moved
once. A convolution counts two operations for each multiply-accumulate, three times as many with its gradients.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch

from bench.history import fingerprint, machine, note
from bench.interleave import Contender, alternate, own_clock
from bench.ops.cases import DIRECTIONS, KERNEL_SIZE, LARGE, SMALL, Case, convolution, correlation
from bench.tables import number, table
from bench.trees import clean_commit

ROUNDS = 15
OPERATIONS = {"forward": 3, "forward+backward": 11}
_CONV_KERNEL = (3, 3, 3)
_CONV_OPERATIONS = {"forward": 2, "forward+backward": 6}
_SIDE = 2048  # of the square matrices
_COPIED = 1 << 28  # bytes
CASES = SMALL + [case for case in LARGE if (case.num_frames, case.batch) == (32, 1)]


def operations(case: Case, direction: str, kernel: tuple[int, ...] | None) -> int:
    """Return the operations of the operator, or of a convolution where a kernel is given."""
    positions = math.prod(case.shape)
    if kernel is None:
        return positions * KERNEL_SIZE**2 * OPERATIONS[direction]
    return positions * case.channels * math.prod(kernel) * _CONV_OPERATIONS[direction]


def moved(case: Case, direction: str, kernel: tuple[int, ...] | None) -> int:
    """Return the bytes of inputs and results in float32: with gradients, those of each and that of the output too."""
    frames = math.prod(case.shape)
    if kernel is None:
        weights = case.num_frames * case.channels * KERNEL_SIZE**2
        out = frames // case.channels * case.groups * KERNEL_SIZE**2
    else:
        weights, out = case.channels**2 * math.prod(kernel), frames
    inputs = frames + weights
    forward = inputs + out
    return 4 * (forward if direction == "forward" else forward + inputs + out + inputs)


def measure(cases: Sequence[Case] = CASES, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Time the two peaks and the kernels in turns.

    Returns:
        `gflops` and `gbytes`, billions a second that the machine reaches, and `kernels`, a row for each.
    """
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    source = torch.randn(_COPIED // 4)
    target = torch.empty_like(source)
    product = Contender("product", lambda: left @ right)
    copy = Contender("copy", lambda: target.copy_(source))
    rows: list[tuple[dict[str, Any], Contender]] = []
    for case in cases:
        for direction in DIRECTIONS:
            for kernel in (None, _CONV_KERNEL):
                made = (
                    correlation(case, direction, "cpu")
                    if kernel is None
                    else convolution(case, direction, kernel)
                )
                row = {
                    "stage": case.stage,
                    "num_frames": case.num_frames,
                    "direction": direction,
                    "provider": "operator" if kernel is None else made.provider,
                    "operations": operations(case, direction, kernel),
                    "bytes": moved(case, direction, kernel),
                }
                rows.append((row, made))
    contenders = [product, copy, *(made for _, made in rows)]
    alternate(contenders, rounds=1)
    for contender in contenders:
        contender.seconds.clear()
    alternate(contenders, rounds=rounds, clock=own_clock())
    kernels = [{**row, "ms": 1e3 * min(made.seconds)} for row, made in rows]
    rates = [row["operations"] / row["ms"] / 1e6 for row in kernels]
    return {
        "rounds": rounds,
        "gflops": max(2 * _SIDE**3 / min(product.seconds) / 1e9, *rates),
        "gbytes": 2 * _COPIED / min(copy.seconds) / 1e9,
        "kernels": kernels,
    }


def reached(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the kernels with operations a byte, billions of operations a second, and the share of the roof."""
    rows = []
    for row in found["kernels"]:
        intensity, gflops = row["operations"] / row["bytes"], row["operations"] / row["ms"] / 1e6
        roof = min(found["gflops"], found["gbytes"] * intensity)
        rows.append({**row, "intensity": intensity, "gflops": gflops, "share": gflops / roof})
    return rows


def markdown(found: dict[str, Any]) -> str:
    """Return the kernels as a table."""
    body = [
        [
            row["provider"],
            row["stage"],
            str(row["num_frames"]),
            row["direction"],
            number(row["ms"]),
            number(row["intensity"]),
            number(row["gflops"]),
            f"{100 * row['share']:.0f} %",
        ]
        for row in reached(found)
    ]
    header = [
        "kernel",
        "stage",
        "L",
        "direction",
        "ms",
        "operations a byte",
        "billions a second",
        "of the roof",
    ]
    return table(header, body, left=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    commit = clean_commit()
    found = {"commit": commit, **measure(rounds=rounds)}
    described = machine(torch.get_num_threads())
    note(described, roofline=found)
    print(f"{fingerprint(described)}: {found['gflops']:.0f} GFLOP/s, {found['gbytes']:.1f} GB/s")
    print(markdown(found))


if __name__ == "__main__":
    main()
