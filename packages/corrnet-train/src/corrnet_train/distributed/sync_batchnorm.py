"""Batch normalization over the clips of all processes."""

from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corrnet_train.utils.errors import InputError


def sync_batch_norm(model: nn.Module) -> None:
    """Replace batch norms by ones that normalize over all processes, in place; names of weights stay.

    Raises:
        InputError: One is not for clips.
    """
    for name, module in list(model.named_children()):
        if isinstance(module, nn.BatchNorm3d):
            on_gpu = module.weight is not None and module.weight.device.type == "cuda"
            setattr(model, name, (DeviceSyncBatchNorm if on_gpu else HostSyncBatchNorm).of(module))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            raise InputError(
                f"train.batch_norm=sync is for batch norms of clips, and {name} of the model is a "
                f"{type(module).__name__}: give train.batch_norm=local"
            )
        else:
            sync_batch_norm(module)


class _SyncBatchNorm(nn.BatchNorm3d):
    @classmethod
    def of(cls, norm: nn.BatchNorm3d) -> Self:
        """Return the same norm, with the same weights and statistics, over all processes."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new._parameters, new._buffers = norm._parameters, norm._buffers
        new._modules, new._forward_hooks = norm._modules, norm._forward_hooks  # a correlation block behind it
        new.training = norm.training
        return new


class DeviceSyncBatchNorm(_SyncBatchNorm):
    """Batch norm over all processes for tensors on a GPU, by the functions of torch's `SyncBatchNorm`.

    That one lets processes have different numbers of clips, for which the host waits for the GPU in every layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [N, C, L, H, W], of equal shape in all processes."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        assert self.momentum is not None  # a plain average would need the number of batches on the host
        statistics = self.running_mean, self.running_var
        out: Tensor = _Normalize.apply(input, self.weight, self.bias, *statistics, self.momentum, self.eps)  # type: ignore[no-untyped-call]
        return out


class _Normalize(torch.autograd.Function):
    """Batch norm over equal numbers of clips in all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        input = _dense(input)
        own = torch.cat(torch.batch_norm_stats(input, eps))  # mean and 1 / standard deviation, [2 C]
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        means, deviations = torch.stack(gathered).chunk(2, dim=1)
        counts = own.new_full((len(gathered),), input.numel() // input.shape[1])
        mean, deviation = torch.batch_norm_gather_stats_with_counts(
            input, means, deviations, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(input, weight, mean, deviation, counts.int())
        return torch.batch_norm_elemt(input, weight, bias, mean, deviation, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, deviation, counts = ctx.saved_tensors
        gradient = _dense(gradients[0])
        total, product, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, input, mean, deviation, weight, True, weight is not None, weight is not None
        )
        sums = torch.cat([total, product])  # [2 C]
        dist.all_reduce(sums)
        total, product = sums.chunk(2)
        of_input = torch.batch_norm_backward_elemt(
            gradient, input, mean, deviation, weight, total, product, counts
        )
        return of_input, of_weight, of_bias, None, None, None, None


def _dense(values: Tensor) -> Tensor:
    """Values [N, C, L, H, W] in a memory format that the functions of torch take."""
    return values if values.is_contiguous(memory_format=torch.channels_last_3d) else values.contiguous()


class HostSyncBatchNorm(_SyncBatchNorm):
    """Batch norm over all processes for tensors on the CPU, which torch's functions for it do not serve."""

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
