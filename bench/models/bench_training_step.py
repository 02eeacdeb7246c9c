"""A training step of CorrNet-26 beside one of R(2+1)D-26, tiny and in full size, on the CPU.

CorrNet's correlations are served by the compiled kernels and, as another contender, by the reference, which is
what they were before there were kernels. The goal is that steps take time as their multiply-accumulates are.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from bench.interleave import Contender, compare
from bench.models.steps import training_step
from corr_ops import explain, ops
from corrnet_models import count_gmacs, create_model

NUM_CLASSES = 8


class Size(NamedTuple):
    """Two models to compare and the clips they train on."""

    ours: str
    other: str
    batch: int
    num_frames: int
    resolution: int
    seconds: int


SIZES = {
    "tiny": Size("corrnet_tiny", "r2plus1d_tiny", 32, 8, 32, seconds=40),
    "full": Size("corrnet26", "r2plus1d26", 1, 16, 224, seconds=120),
}


def make_step(name: str, size: Size) -> Callable[[], object]:
    """Return a function that takes one step: forward, backward and update."""
    torch.manual_seed(0)
    model = create_model(name, num_frames=size.num_frames, num_classes=NUM_CLASSES)
    shape = (size.batch, 3, size.num_frames, size.resolution, size.resolution)
    clips = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)  # as the loader gives them
    return training_step(model, clips, NUM_CLASSES)


def served_by(backend: str, step: Callable[[], object]) -> Callable[[], object]:
    """Return the step with every correlation served by one implementation."""

    def call() -> None:
        chosen = ops.choose
        ops.choose = lambda *_: backend
        try:
            step()
        finally:
            ops.choose = chosen

    return call


@pytest.mark.parametrize("name", SIZES)
def test_training_step(benchmark, record, name):
    size = SIZES[name]
    step = make_step(size.ours, size)
    kernels = explain(torch.empty(0)).backend
    ours = Contender(f"{size.ours}, {kernels} kernels", step, "float32", "channels_last_3d")
    others = [
        Contender(f"{size.ours}, reference", served_by("reference", step), "float32", "channels_last_3d"),
        Contender(size.other, make_step(size.other, size), "float32", "channels_last_3d"),
    ]
    rows = compare(benchmark, ours, others, seconds=size.seconds, base=others[1])
    gmacs = {
        model: count_gmacs(create_model(model, num_frames=size.num_frames).config, resolution=size.resolution)
        for model in (size.ours, size.other)
    }
    record(
        "training_step",
        [
            {
                "size": name,
                "batch": size.batch,
                "num_frames": size.num_frames,
                "resolution": size.resolution,
                "gmacs": gmacs[row["provider"].partition(",")[0]],
                **row,
            }
            for row in rows
        ],
    )
