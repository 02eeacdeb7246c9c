"""Batch normalization over the clips of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def sync_batch_norm(model: nn.Module) -> None:
    """Replace batch norms by ones that normalize over all processes, in place; names of weights stay.

    torch's own `SyncBatchNorm` serves GPUs; it refuses tensors on a CPU, which `HostSyncBatchNorm` serves.
    """
    for name, module in list(model.named_children()):
        if isinstance(module, nn.BatchNorm3d):
            if module.weight is not None and module.weight.device.type == "cuda":
                setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
            else:
                setattr(model, name, HostSyncBatchNorm.of(module))
        else:
            sync_batch_norm(module)


class HostSyncBatchNorm(nn.BatchNorm3d):
    """Batch norm over all processes for tensors on the CPU."""

    @classmethod
    def of(cls, norm: nn.BatchNorm3d) -> "HostSyncBatchNorm":
        """Return the same norm, with the same weights and statistics, over all processes."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new._parameters, new._buffers = norm._parameters, norm._buffers
        new.training = norm.training
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [N, C, L, H, W], of equal shape in all processes."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        axes = (0, 2, 3, 4)
        shape = (1, -1, 1, 1, 1)
        x = input.float()
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _sum_over_ranks(x.sum(axes, dtype=torch.float64)) / count
        centered = x - mean.float().view(shape)  # first, so that nothing cancels in the variance's gradient
        variance = _sum_over_ranks(centered.square().sum(axes, dtype=torch.float64)) / count
        self._track(mean.detach(), variance.detach(), count)
        out = centered * (variance + self.eps).rsqrt().float().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # a plain average over all batches
            assert self.num_batches_tracked is not None
            momentum = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (count / max(1, count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), momentum)


def _sum_over_ranks(values: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


class _SumOverRanks(torch.autograd.Function):
    """A sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
