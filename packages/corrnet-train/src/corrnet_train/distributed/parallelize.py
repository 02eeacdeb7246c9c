"""Where sharded things are: which tensors and checkpoints are, whole tensors in the place of shards, names of folders.

A checkpoint of sharded weights is a folder into which each process writes its own shards. A name such as `last.pt` is
a link to it, which moves on in one step. torch's module of shards takes half a second to import, so that it is
imported where there are some.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

REST, DESCRIPTION = "rest.pt", ".metadata"


def is_sharded(path: Path) -> bool:
    """Whether `path` is a folder of shards, or a link to one."""
    return (path / DESCRIPTION).is_file() and (path / REST).is_file()


def has_shards(tensor: Tensor) -> bool:
    """Whether a tensor is sharded over the processes, a DTensor."""
    return hasattr(tensor, "full_tensor")


def link(path: Path, folder: Path) -> None:
    """Makes `path` a link to a folder beside it; it means the old or the new checkpoint at every moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    temporary.replace(path)
    sync_folder(path.parent)


def remove_unlinked(folder: Path) -> None:
    """Removes the shards to which no name leads any more."""
    used = {path.resolve() for path in folder.iterdir() if path.is_symlink()}
    for path in folder.glob("shards-*"):
        if path.resolve() not in used:
            shutil.rmtree(path)


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is placed: this process's shard of it where `like` is sharded."""
    if not has_shards(like) or has_shards(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    value = value.to(like.device_mesh.device_type).contiguous()
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def placed_state(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """A state dict of whole tensors, placed as those of a model are."""
    return {name: placed_like(value, like[name]) if name in like else value for name, value in state.items()}


def place_optimizer_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A state dict of whole tensors as the optimiser's parameters are placed."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    placed = {
        number: {
            name: placed_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": placed}


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its shards; all processes call it."""
    gathered: Tensor = tensor.full_tensor() if has_shards(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
