"""Statistics of batch norm, estimated anew with the present weights."""

from collections.abc import Iterable

from torch import Tensor, nn

from corrnet_train.distributed.ranks import Ranks


def estimate_statistics(model: nn.Module, batches: Iterable[Tensor], num_batches: int, ranks: Ranks) -> None:
    """Replace the running statistics by averages with the present weights (precise BN, Wu and Johnson 2021).

    Args:
        model: A model with batch norms; it is left in training mode.
        batches: Normalized clips [N, C, L, H, W] of this process, at least `num_batches`.
        num_batches: Batches of each process that are used.
        ranks: The processes; the statistics are those over the clips of all of them.
    """
    from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats  # 0.3 s, for runs that ask for it

    model.train()
    norms = get_bn_modules(model)
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    update_bn_stats(model, batches, num_batches)
    for norm, (mean, variance) in zip(norms, kept, strict=True):  # fvcore has put new tensors in their place
        norm.running_mean, norm.running_var = mean.copy_(norm.running_mean), variance.copy_(norm.running_var)
    if ranks.world_size == 1:
        return
    for norm in norms:
        mean, square = norm.running_mean, norm.running_var + norm.running_mean.square()
        for statistic in (mean, square):
            ranks.sum_(statistic)
            statistic.div_(ranks.world_size)
        norm.running_var.copy_((square - mean.square()).clamp_(min=0))
