"""The operator's forward and backward pass on CorrNet's largest maps, 8 frames of res2."""

import torch
from torch.nn import functional

import corr_ops

SUITE, YARDSTICK = "ops", "Conv3d 3x3x3, forward and backward"


def make():
    x = torch.randn(1, 64, 8, 56, 56, requires_grad=True)
    filters = torch.randn(8, 64, 7, 7, requires_grad=True)
    weight = torch.randn(64, 64, 3, 3, 3, requires_grad=True)
    options = {"kernel_size": 7, "dilation": 2, "groups": 2}

    def correlation(**more):
        out = corr_ops.video_correlation(x, filters, **options, **more)
        return torch.autograd.grad(out, (x, filters), grad)

    def convolution():
        out = functional.conv3d(x, weight, padding=1)
        return torch.autograd.grad(out, (x, weight), torch.ones_like(out))

    grad = torch.randn(1, 98, 8, 56, 56)
    torch.testing.assert_close(correlation(), correlation(backend="reference"), rtol=1e-3, atol=1e-3)
    return correlation, convolution
