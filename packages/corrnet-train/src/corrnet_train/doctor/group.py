"""Checks of the processes together: they find each other, sum right, and how fast."""

import time

import torch
import torch.distributed as dist

from corrnet_models import count_parameters, create_model
from corrnet_train.distributed.ranks import joined_ranks
from corrnet_train.doctor.checkup import Context
from corrnet_train.doctor.finding import Finding, failed

_MIB = 1 << 20
_SIZES_MIB = {1: 10, 64: 3}  # size of a tensor: how often it is summed
_SLOW = 2e9  # bytes a second; below it, NCCL most likely goes through a plain network


def process_group(context: Context) -> Finding:
    """Check that the processes join, as they do for training."""
    start = time.perf_counter()
    # A little less than the check's limit, so that torch says itself what it waits for.
    timeout = max(1.0, 0.9 * context.options.timeout)
    context.stack.enter_context(joined_ranks(context.options.device, timeout=timeout))
    dist.barrier()
    seconds = time.perf_counter() - start
    return Finding(
        result=f"{context.ranks.world_size} processes joined over {_backend(context)} in {seconds:.1f} s",
        figures={"backend": _backend(context), "seconds": seconds},
    )


def all_reduce(context: Context) -> Finding:
    """Check that a sum over the processes and the objects of each are right."""
    ranks = context.ranks
    expected = ranks.world_size * (ranks.world_size + 1) // 2
    own = torch.full((1000,), ranks.rank + 1, device=context.device)
    dist.all_reduce(own)
    got = sorted(set(own.tolist()))
    if got != [expected]:
        return failed(f"the sum of 1 to {ranks.world_size} came out as {got}, right is {expected}")
    objects = ranks.gather({"rank": ranks.rank})
    if objects != [{"rank": rank} for rank in range(ranks.world_size)]:
        return failed(f"each process sent its rank, what came was {objects}")
    message = [f"from rank {ranks.rank}"]
    dist.broadcast_object_list(message, src=0)
    if message != ["from rank 0"]:
        return failed(f"rank 0 sent 'from rank 0' to all, what came was {message}")
    return Finding(result="sums, gathered and broadcast objects are right")


def bandwidth(context: Context) -> Finding:
    """How fast tensors are summed: bus bandwidth 2 (n - 1) / n x bytes / seconds, as NCCL's tests give it."""
    num_ranks = context.ranks.world_size
    if num_ranks == 1:
        return Finding(result=f"not measured: one process has nothing to exchange over {_backend(context)}")
    rates = {}
    for size, repeats in _SIZES_MIB.items():
        seconds = _seconds(context, size * _MIB, repeats)
        rates[size] = 2 * (num_ranks - 1) / num_ranks * size * _MIB / seconds
    name = context.options.model
    with torch.device("meta"):
        gradients = 4 * count_parameters(create_model(name))
    seconds = _seconds(context, gradients, 3)
    speeds = ", ".join(f"{size} MiB {rate / 1e9:.2f} GB/s" for size, rate in rates.items())
    figures = {
        **{f"bus_bytes_per_second_{size}_mib": rate for size, rate in rates.items()},
        "model": name,
        "gradient_bytes": gradients,
        "gradient_seconds": seconds,
    }
    slow = context.device.type == "cuda" and rates[64] < _SLOW
    return Finding(
        status="warning" if slow else "ok",
        result=f"{_backend(context)}: {speeds}; gradients of {name} ({gradients / _MIB:.0f} MiB) in "
        f"{1000 * seconds:.1f} ms",
        advice="NCCL_DEBUG=INFO shows which network NCCL takes; NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose it"
        if slow
        else "",
        figures=figures,
    )


def _seconds(context: Context, num_bytes: int, repeats: int) -> float:
    """Seconds in which a float32 tensor is summed over the processes, the mean of `repeats`."""
    tensor = torch.zeros(num_bytes // 4, device=context.device)
    dist.all_reduce(tensor)
    _synchronize(context)
    start = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor)
    _synchronize(context)
    return (time.perf_counter() - start) / repeats


def _synchronize(context: Context) -> None:
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)


def _backend(context: Context) -> str:
    return "nccl" if context.device.type == "cuda" else "gloo"
