"""What batch norm over the clips of several processes is compared with."""

import batch_norm_functions
import torch
from torch import nn

from corrnet_train.distributed.sync_batchnorm import DeviceSyncBatchNorm, HostSyncBatchNorm, sync_batch_norm
from corrnet_train.training.precise_bn import estimate_statistics


def sync_batch_norm_equals_batch_norm(ranks, make=HostSyncBatchNorm):
    """Compares with torch's batch norm in float64 over the clips of all processes."""
    generator = torch.Generator().manual_seed(0)
    shape = (4 * ranks.world_size, 5, 2, 3, 3)
    whole, weight = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    whole = whole * 2 + 7
    own = slice(4 * ranks.rank, 4 * ranks.rank + 4)
    oracle, ours = nn.BatchNorm3d(5).double(), nn.Sequential(nn.BatchNorm3d(5))
    if ranks.world_size > 1:
        sync_batch_norm(ours)
        assert type(ours[0]) is HostSyncBatchNorm
        ours[0] = make.of(ours[0])
    x, y = whole.clone().requires_grad_(), whole[own].float().requires_grad_()
    (oracle(x) * weight).sum().backward()
    (ours(y) * weight[own].float()).sum().backward()
    gradient = ours[0].weight.grad
    ranks.sum_(gradient)
    close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(y.grad, x.grad[own], **close)
    torch.testing.assert_close(gradient, oracle.weight.grad, **close)
    bias = ours[0].bias.grad
    ranks.sum_(bias)
    torch.testing.assert_close(bias, oracle.bias.grad, **close)
    torch.testing.assert_close(ours[0].running_mean, oracle.running_mean, **close)
    torch.testing.assert_close(ours[0].running_var, oracle.running_var, **close)
    torch.testing.assert_close(ours.eval()(y), oracle.eval()(x)[own], **close)


def norm_of_gpus_equals_batch_norm(ranks):
    """With stand-ins for those functions of torch that work on GPUs alone."""
    functions = {f"batch_norm_{name}": function for name, function in batch_norm_functions.ALL.items()}
    kept = {name: getattr(torch, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(torch, name, function)
        sync_batch_norm_equals_batch_norm(ranks, DeviceSyncBatchNorm)
    finally:
        for name, function in kept.items():
            setattr(torch, name, function)


def precise_statistics_are_those_of_all_clips(ranks):
    """Clips of the processes differ in mean and spread."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, ranks.world_size + 1).view(-1, 1, 1, 1, 1, 1, 1)
    means = 3 * torch.randn(ranks.world_size, 1, 1, 5, 1, 1, 1, generator=generator)
    whole = torch.randn(ranks.world_size, 3, 4, 5, 2, 3, 3, generator=generator) * spread + means
    norm = nn.BatchNorm3d(5)
    estimate_statistics(norm, whole[ranks.rank], 3, ranks)
    clips = whole.flatten(0, 2).double()
    close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(norm.running_mean, clips.mean((0, 2, 3, 4)), **close)
    torch.testing.assert_close(norm.running_var, clips.var((0, 2, 3, 4), correction=0), **close)
