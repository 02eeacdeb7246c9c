"""How a model is shared among processes: as copies or in shards, and how whole tensors become shards and back.

torch's module of shards takes half a second to import, so that it is imported where there are some.
"""

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from corrnet_models import Stage
from corrnet_train.config.schema import BatchNorm, Parallel
from corrnet_train.distributed.ranks import Ranks, readable_errors
from corrnet_train.distributed.sync_batchnorm import sync_batch_norm
from corrnet_train.utils.precision import AUTOCAST, Precision


def parallelize(
    model: nn.Module,
    ranks: Ranks,
    device: torch.device,
    *,
    batch_norm: BatchNorm,
    parallel: Parallel,
    precision: Precision = "fp32",
) -> None:
    """Prepare a model for several processes, in place, before its optimizer is made.

    Args:
        model: The model on this process's device.
        ranks: The processes.
        device: This process's device.
        batch_norm: `local` normalizes over the clips that one process takes at once, `sync` over those of all.
        parallel: `fsdp` splits weights, and with them gradients and optimizer state, among the processes, block by
            block; `ddp` leaves a copy to each.
        precision: What the model computes in. Whole weights of `fsdp` are of its type, half as large; gradients are
            exchanged in float32.
    """
    if batch_norm == "sync" and ranks.world_size > 1:
        sync_batch_norm(model)
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh

        # It takes half a second to import.
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(device.type, (ranks.world_size,))
        # Autocast chooses the types of what is computed, so that inputs are not cast.
        policy = MixedPrecisionPolicy(AUTOCAST[precision], torch.float32, cast_forward_inputs=False)
        blocks = [
            block for module in model.modules() if isinstance(module, Stage) for block in module.children()
        ]
        # The model itself too: the whole weights of its rest would stay after evaluation.
        for part in (*blocks, model):
            if precision != "fp32":  # batch norm takes weights and statistics of one type alone: float32
                _shard_norms(part, mesh)
            fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def _shard_norms(part: nn.Module, mesh: Any) -> None:
    """Split the weights of the batch norms in `part` that are whole yet, as one exchange."""
    from torch.distributed.fsdp import fully_shard

    norms = [module for module in part.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    whole: list[nn.Module] = [norm for norm in norms if not any(map(has_shards, norm.parameters()))]
    if whole:
        fully_shard(whole, mesh=mesh, reshard_after_forward=True)


def wrap(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Return the module whose backward pass exchanges gradients; the model itself where it does so or is alone."""
    if ranks.world_size == 1 or _is_split(model):
        return model
    # Running statistics are not used in training; see `copy_buffers`. torch 2.13 has given the option a new name.
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False}
    # Filters of 1x1x1 are contiguous in either memory format, and strides along a side of 1 mean nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        static_graph=True,
        gradient_as_bucket_view=True,
        **options,
    )


def _is_split(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def gradient_exchange(model: nn.Module, exchange: bool) -> AbstractContextManager[None]:
    """Context of a micro-batch of a wrapped model: whether gradients are exchanged after it."""
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if exchange else model.no_sync()
    if _is_split(model):
        model.set_requires_gradient_sync(exchange)  # type: ignore[operator]
    return nullcontext()


def copy_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give every process the running statistics of rank 0, which are those a checkpoint holds."""
    if ranks.world_size > 1:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            kinds.setdefault(buffer.dtype, []).append(buffer)
        with torch.no_grad(), readable_errors(ranks):
            for buffers in kinds.values():  # together: one exchange each would take its time
                values = torch.cat([buffer.flatten() for buffer in buffers])
                dist.broadcast(values, src=0)
                pieces = values.split([buffer.numel() for buffer in buffers])
                shaped = [piece.view_as(buffer) for piece, buffer in zip(pieces, buffers, strict=True)]
                torch._foreach_copy_(buffers, shaped)


def has_shards(tensor: Tensor) -> bool:
    """Whether a tensor is sharded over the processes, a DTensor."""
    return hasattr(tensor, "full_tensor")


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as `like` is placed: this process's shard of it where `like` is sharded."""
    if not has_shards(like) or has_shards(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    value = value.to(like.device_mesh.device_type).contiguous()
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def placed_state(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict of whole tensors, placed as those of a model are."""
    return {name: placed_like(value, like[name]) if name in like else value for name, value in state.items()}


def place_optimizer_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return a state dict of whole tensors as the optimizer's parameters are placed."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    placed = {
        number: {
            name: placed_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": placed}


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor with all of its shards; all processes call it."""
    gathered: Tensor = tensor.full_tensor() if has_shards(tensor) else tensor  # type: ignore[attr-defined]
    return gathered
