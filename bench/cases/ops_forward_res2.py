"""The operator's forward pass on CorrNet's largest maps, 8 frames of res2."""

import torch
from torch.nn import functional

import corr_ops

SUITE, YARDSTICK = "ops", "Conv3d 3x3x3"


def make():
    x, filters = torch.randn(1, 64, 8, 56, 56), torch.randn(8, 64, 7, 7)
    weight = torch.randn(64, 64, 3, 3, 3)
    options = {"kernel_size": 7, "dilation": 2, "groups": 2}

    def ours():
        with torch.no_grad():
            return corr_ops.video_correlation(x, filters, **options)

    torch.testing.assert_close(ours(), corr_ops.video_correlation(x, filters, **options, backend="reference"))
    return ours, lambda: functional.conv3d(x, weight, padding=1)
