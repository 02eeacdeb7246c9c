"""Counts of multiply-accumulates by PyTorch's and fvcore's counters."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from corr_ops import Correlation, VideoCorrelation, fvcore_handles

X = torch.zeros(2, 8, 3, 5, 6)
MACS = 8 * 7 * 7 * 2 * 3 * 5 * 6


def flops(*, x_needs_grad: bool, module: VideoCorrelation, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        out = module(X.clone().requires_grad_(x_needs_grad))
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("groups", [1, 4])
def test_flop_counter_counts_two_flops_per_mac(groups: int) -> None:
    module = VideoCorrelation(8, 3, groups=groups)
    assert flops(module=module, x_needs_grad=False, backward=False) == 2 * MACS


def test_flop_counter_counts_each_gradient_needed() -> None:
    learned, plain = VideoCorrelation(8, 3), VideoCorrelation(8, 3, filters="none")
    # The input is base and searched frame at once, so its gradient counts twice.
    assert flops(module=learned, x_needs_grad=True, backward=True) == 2 * MACS * (1 + 3)
    assert flops(module=learned, x_needs_grad=False, backward=True) == 2 * MACS * (1 + 1)
    assert flops(module=plain, x_needs_grad=True, backward=True) == 2 * MACS * (1 + 2)


@pytest.mark.slow
def test_formulas_follow_a_later_import_of_the_counter() -> None:
    script = """
import sys, torch
hooks = list(sys.meta_path)
import corr_ops
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
assert sys.meta_path == hooks
with FlopCounterMode(display=False) as counter:
    corr_ops.video_correlation(torch.zeros(1, 1, 1, 2, 2), kernel_size=1)
assert counter.get_total_flops() == 8, counter.get_total_flops()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("groups", [1, 4])
def test_fvcore_counts_macs(groups: int) -> None:
    fvcore_nn = pytest.importorskip("fvcore.nn")
    video = fvcore_nn.FlopCountAnalysis(VideoCorrelation(8, 3, groups=groups), X)
    video.set_op_handle(**fvcore_handles())
    assert video.total() == MACS
    images = (X[:, :, 0], X[:, :, 0])
    pair = fvcore_nn.FlopCountAnalysis(Correlation(8, kernel_size=(3, 5), groups=groups), images)
    pair.set_op_handle(**fvcore_handles())
    assert pair.total() == 8 * 3 * 5 * 2 * 5 * 6
