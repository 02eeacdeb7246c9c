"""Checkpoints of sharded weights: a folder into which each process writes its own shards, and links that name it.

`torch.distributed.checkpoint` writes the tensors and finds the pieces again for any number of processes; what is not
sharded goes into one file beside them. A name such as `last.pt` is a link to the folder: it moves on in one step.
"""

import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from corrnet_train.files import atomic_path

Place = tuple[str | int, ...]
_REST, _METADATA = "rest.pt", ".metadata"


def is_sharded(path: Path) -> bool:
    """Whether `path` is a folder of shards, or a link to one."""
    return (path / _METADATA).is_file() and (path / _REST).is_file()


def write_shards(
    content: dict[str, Any], folder: Path, *, group: dist.ProcessGroup | None, finish: Callable[[], None]
) -> None:
    """Writes nested values, of which each process has its shards; all processes call it.

    Args:
        content: values with DTensors on the CPU. All else is taken from rank 0.
        folder: a folder that is not there yet.
        group: the processes, able to exchange what is on the CPU.
        finish: called on rank 0 when all have written everything.

    Raises:
        OSError: a process could not write; all processes get it.
        RuntimeError: another process is gone.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[str, Place] = {}
    rest = _without_shards(content, (), tensors, places)

    def finish_all() -> None:
        with atomic_path(folder / _REST) as temporary:
            torch.save({"places": places, "content": rest}, temporary)
        _sync_folder(folder)
        finish()

    try:
        save(tensors, storage_writer=_Writer(folder, finish_all), process_group=group)
    except CheckpointException as error:  # no Exception, but a BaseException
        raise OSError(f"the checkpoint was not written: {_reasons(error)}") from None


def read_shards(folder: Path) -> dict[str, Any]:
    """What `write_shards` was given, with whole tensors on the CPU; no code from the folder is run.

    Raises:
        Exception: a file is damaged or missing; there are many ways.
    """
    saved = torch.load(folder / _REST, map_location="cpu", weights_only=True)
    reader = _Reader(folder)
    described = reader.read_metadata().state_dict_metadata
    tensors = {key: _empty(key, described[key]) for key in saved["places"]}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")
            load(tensors, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise ValueError(_reasons(error)) from None
    content: dict[str, Any] = saved["content"]
    for key, place in saved["places"].items():
        parent: Any = content
        for step in place[:-1]:
            parent = parent[step]
        parent[place[-1]] = tensors[key]
    return content


def link(path: Path, folder: Path) -> None:
    """Makes `path` a link to a folder beside it; it means the old or the new checkpoint at every moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    temporary.replace(path)
    _sync_folder(path.parent)


def remove_unlinked(folder: Path) -> None:
    """Removes the shards to which no name leads any more."""
    used = {path.resolve() for path in folder.iterdir() if path.is_symlink()}
    for path in folder.glob("shards-*"):
        if path.resolve() not in used:
            shutil.rmtree(path)


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is placed: this process's shard of it where `like` is sharded."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device_mesh.device_type).contiguous()
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def placed_state(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """A state dict of whole tensors, placed as those of a model are."""
    return {name: placed_like(value, like[name]) if name in like else value for name, value in state.items()}


def place_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
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
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class _Writer(FileSystemWriter):
    """Calls `finish` on rank 0 when all shards are on disk; what fails there fails in all processes."""

    def __init__(self, folder: Path, finish: Callable[[], None]) -> None:
        super().__init__(folder)
        self._finish = finish

    def finish(self, metadata: Metadata, results: Any) -> None:
        super().finish(metadata, results)
        self._finish()


class _Reader(FileSystemReader):
    """Reads the description of the shards, a pickle, without running code from it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / _METADATA).open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{_METADATA} holds no description of shards")
        return metadata


# All that torch puts into the description of shards.
_DESCRIBING = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"Path", "PosixPath"},
    "pathlib._local": {"Path", "PosixPath"},
    "collections": {"OrderedDict"},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _DESCRIBING.get(module, ()):
            raise pickle.UnpicklingError(f"{_METADATA} asks for {module}.{name}, which describes no shards")
        return super().find_class(module, name)


def _without_shards(value: Any, place: Place, tensors: dict[str, Tensor], places: dict[str, Place]) -> Any:
    """Nested values without DTensors, which go to `tensors`, and how to find their place again to `places`."""
    if not isinstance(value, dict):
        return value
    rest = {}
    for name, item in value.items():
        inner = (*place, name)
        if isinstance(item, DTensor):
            key = "/".join(map(str, inner))
            tensors[key], places[key] = item, inner
        else:
            rest[name] = _without_shards(item, inner, tensors, places)
    return rest


def _empty(key: str, described: Any) -> Tensor:
    """Room for a tensor, all of which must be in the shards."""
    if not isinstance(described, TensorStorageMetadata):
        raise ValueError(f"{_METADATA} describes no tensor {key}")
    held = sum(chunk.sizes.numel() for chunk in described.chunks)
    if held != described.size.numel():
        raise ValueError(f"the shards hold {held} of {described.size.numel()} values of {key}")
    return torch.empty(described.size, dtype=described.properties.dtype)


def _sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _reasons(error: CheckpointException) -> str:
    """What went wrong, in a line, without stack traces."""
    reasons = {f"rank {rank}: {type(cause).__name__} {cause}" for rank, (cause, _) in error.failures.items()}
    return " ".join("; ".join(sorted(reasons)).split())
