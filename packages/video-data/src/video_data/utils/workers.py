"""Worker processes: how many are sensible, how they start, and the memory in which they hand batches over."""

import math
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from video_data.utils.errors import InputError, MissingPackageError, WorkError

_MAX_WORKERS = 16  # decoding in more processes than this seldom helps one consumer
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def suggest_num_workers(local_world_size: int = 1) -> int:
    """A sensible `num_workers` for each of the training processes on this machine.

    The cores that this process may use are shared among the training processes, and each keeps one for itself:
    at least 1, at most 16. Affinity and the limit of a container (cgroup v2) count, which `os.cpu_count` ignores.

    Args:
        local_world_size: training processes on this machine.

    Raises:
        ValueError: `local_world_size` is less than 1.
    """
    if local_world_size < 1:
        raise InputError(f"local_world_size must be at least 1, got {local_world_size}")
    return max(1, min(_MAX_WORKERS, available_cores() // local_world_size - 1))


def available_cores() -> int:
    """Cores that this process may use, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no such limit on this system
    return max(1, cores)


def make_data_loader(
    dataset: Dataset[Any], batches: Any, num_workers: int, multiprocessing_context: str | None
) -> "DataLoader[Any]":
    """A DataLoader over a dataset that makes whole batches.

    Workers stay alive between iterations and decode on one thread each. Errors that users can cause come out of them
    as they are.

    Args:
        dataset: `dataset[numbers]` is the batch of a list of numbers.
        batches: the lists of numbers.
        num_workers: worker processes; 0 makes the batches in this process.
        multiprocessing_context: how workers start; None means the system's way.
    """
    return _Loader(
        _Sending(dataset) if num_workers else dataset,
        sampler=batches,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        multiprocessing_context=multiprocessing_context if num_workers else None,
        generator=torch.Generator(),  # else each iter() would draw from the global random state
    )


def batch_buffer(*shape: int) -> Tensor:
    """An empty uint8 tensor in the memory from which a batch need not be copied again in this process.

    That is shared memory in a worker, else page-locked memory where there is a GPU.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    shared: Tensor = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return shared


@dataclass(frozen=True)
class _Failure:
    """An error that a worker hands over in the place of a batch."""

    error: Exception


class _Sending(Dataset[Any]):
    """Errors that users can cause as values: torch would give back a traceback in text, some in another class."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, numbers: Any) -> Any:
        try:
            return self._dataset[numbers]
        except (InputError, WorkError, MissingPackageError, OSError) as error:
            if not _can_be_sent(error):
                raise
            return _Failure(error)


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch


def _can_be_sent(error: Exception) -> bool:
    """Whether an error is the same in another process; where it is not, the queue between them would hang."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # classes of other packages may fail in any way
        return False


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Workers decode on one thread each and leave Ctrl-C to the main process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
