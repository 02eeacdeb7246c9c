"""Reading and writing a checkpoint in shards: `torch.distributed.checkpoint` for tensors, one file for all else.

It finds the pieces of a tensor again for any number of processes. Each process computes the digests of its own files;
the one file for all else lists them, so that a file of another checkpoint is noticed, too.
"""

import pickle
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
from torch.distributed.tensor import DTensor

from corrnet_train.checkpoint.digest import check_digest, load_checked, seal, stated_digest
from corrnet_train.checkpoint.folders import DESCRIPTION, REST, sync_folder
from corrnet_train.utils.errors import InputError, WorkError
from video_data.utils.files import atomic_path, check_file

Place = tuple[str | int, ...]


def write_shards(
    content: dict[str, Any], folder: Path, *, group: dist.ProcessGroup | None, finish: Callable[[], None]
) -> None:
    """Write nested values, of which each process has its shards; all processes call it.

    Args:
        content: Values with DTensors on the CPU. All else is taken from rank 0.
        folder: A folder that is not there yet.
        group: The processes, able to exchange what is on the CPU.
        finish: Called on rank 0 when all have written everything.

    Raises:
        OSError: A process could not write; all processes get it.
        RuntimeError: Another process is gone.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[str, Place] = {}
    rest = _without_shards(content, (), tensors, places)

    def finish_all(files: dict[str, str | None]) -> None:
        with atomic_path(folder / REST) as temporary:
            torch.save({"places": places, "content": rest, "files": files}, temporary)
            seal(temporary)
        sync_folder(folder)
        finish()

    try:
        save(tensors, storage_writer=_Writer(folder, finish_all), process_group=group)
    except CheckpointException as error:  # no Exception, but a BaseException
        raise OSError(f"the checkpoint was not written: {_reasons(error)}") from None


def read_shards(folder: Path) -> dict[str, Any]:
    """Return what `write_shards` was given, with whole tensors on the CPU; no code from the folder is run.

    Raises:
        Exception: A file is damaged or missing; there are many ways.
    """
    saved = load_checked(folder / REST)
    for name, digest in saved.get("files", {}).items():
        check_file(folder / name)
        with (folder / name).open("rb") as file:
            is_written = check_digest(file) == digest
        if not is_written:
            raise InputError(f"it is damaged: {name} is not the file that was written")
    reader = _Reader(folder)
    described = reader.read_metadata().state_dict_metadata
    tensors = {key: _empty(key, described[key]) for key in saved["places"]}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")
            load(tensors, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise InputError(_reasons(error)) from None
    content: dict[str, Any] = saved["content"]
    for key, place in saved["places"].items():
        parent: Any = content
        for step in place[:-1]:
            parent = parent[step]
        parent[place[-1]] = tensors[key]
    return content


class _Writer(FileSystemWriter):
    """Adds digests to the files, and calls `finish` with all of them on rank 0 when all shards are on disk.

    What fails there fails in all processes.
    """

    def __init__(self, folder: Path, finish: Callable[[dict[str, str | None]], None]) -> None:
        super().__init__(folder)
        self._finish = finish

    def write_data(self, plan: Any, planner: Any) -> Any:
        future = super().write_data(plan, planner)
        for name in {result.storage_data.relative_path for result in future.wait()}:
            seal(Path(self.path) / name)
        return future

    def finish(self, metadata: Metadata, results: Any) -> None:
        super().finish(metadata, results)
        written = {result.storage_data.relative_path for of_rank in results for result in of_rank}
        missing = sorted(name for name in written if not (Path(self.path) / name).is_file())
        if missing:
            where = Path(self.path).parent
            raise WorkError(f"all machines must share {where}: rank 0 sees no {missing[0]}")
        seal(Path(self.path) / DESCRIPTION)
        self._finish({name: _stated(Path(self.path) / name) for name in sorted({*written, DESCRIPTION})})


def _stated(path: Path) -> str | None:
    with path.open("rb") as file:
        return stated_digest(file)


class _Reader(FileSystemReader):
    """Reads the description of the shards, a pickle, without running code from it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / DESCRIPTION).open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise InputError(f"{DESCRIPTION} holds no description of shards")
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
            raise InputError(f"{DESCRIPTION} asks for {module}.{name}, which describes no shards")
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
        raise InputError(f"{DESCRIPTION} describes no tensor {key}")
    held = sum(chunk.sizes.numel() for chunk in described.chunks)
    if held != described.size.numel():
        raise InputError(f"the shards hold {held} of {described.size.numel()} values of {key}")
    return torch.empty(described.size, dtype=described.properties.dtype)


def _reasons(error: CheckpointException) -> str:
    """Return what went wrong, in a line, without stack traces."""
    reasons = {f"rank {rank}: {type(cause).__name__} {cause}" for rank, (cause, _) in error.failures.items()}
    return " ".join("; ".join(sorted(reasons)).split())
