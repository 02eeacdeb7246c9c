"""The loader that looks after its workers, and the memory in which they hand batches over."""

import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from video_data.utils.errors import InputError, MissingPackageError, WorkError, WorkersError
from video_data.utils.interrupts import not_interrupted, put_off_until_end
from video_data.utils.workers import (
    FULL_SHARED_MEMORY,
    WorkerContext,
    WorkerNotes,
    begin_worker,
    why_died,
    working_on,
)

_LOOK_PERIOD = 2.0  # seconds after which a loader looks whether its workers are alive

# What torch says in a worker, and what it means.
_RAN_OUT = {
    "unable to allocate shared memory": f"{FULL_SHARED_MEMORY}; fewer decoding processes or smaller batches take "
    "less, more of it gives docker run --shm-size=8g, in Kubernetes an emptyDir of medium Memory at /dev/shm",
    "can't allocate memory": "memory is full; fewer decoding processes or smaller batches take less",
    "Too many open files": "too many files are open; raise the limit: ulimit -n 65536",
}

LOADER_TIMEOUT = 600.0
"""Seconds without a batch after which a loader gives its workers up."""


def make_data_loader(
    dataset: Dataset[Any], batches: Any, num_workers: int, *, timeout: float = LOADER_TIMEOUT
) -> "DataLoader[Any]":
    """Return a DataLoader over a dataset that makes whole batches.

    Workers stay alive between iterations and decode on one thread each. Errors that users can cause come out of them
    as they are. The loader raises `WorkersError` where one of them dies, or none answers in time.

    Args:
        dataset: `dataset[numbers]` is the batch of a list of numbers. What it passes to `working_on` its method
            `describe` names.
        batches: The lists of numbers.
        num_workers: Worker processes; 0 makes the batches in this process.
        timeout: Seconds without a batch after which the workers are given up.
    """
    return _Loader(dataset, batches, num_workers, timeout)


def batch_buffer(*shape: int) -> Tensor:
    """Return an empty uint8 tensor in the memory from which a batch need not be copied again in this process.

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
        finally:
            working_on(-1)


class _Loader(DataLoader[Any]):
    """Looks after its workers while it waits for them."""

    def __init__(self, dataset: Dataset[Any], batches: Any, num_workers: int, timeout: float) -> None:
        workers = WorkerContext(num_workers) if num_workers else None
        super().__init__(
            _Sending(dataset) if workers else dataset,
            sampler=batches,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_Begin(workers.notes) if workers else None,
            multiprocessing_context=workers,
            timeout=min(_LOOK_PERIOD, timeout) if workers else 0,
            generator=torch.Generator(),  # else each iter() would draw from the global random state
        )
        self._workers = workers
        self._give_up_after = timeout
        self._describe: Callable[[int], str] = getattr(dataset, "describe", str)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with put_off_until_end():
            batches = self._start()
        since = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if self._workers is None:
                    raise
                failure = self._failure(self._workers, error, time.monotonic() - since)
            else:
                if isinstance(batch, _Failure):
                    raise batch.error
                yield batch
                since = time.monotonic()
                continue
            if (
                failure is not None
            ):  # outside of the handler: torch's error would keep the batches that are ready
                self._workers.end()
                raise failure

    @not_interrupted
    def _start(self) -> Iterator[Any]:
        return super().__iter__()

    def _failure(self, workers: WorkerContext, error: Exception, waited: float) -> WorkersError | None:
        """Return what an error of torch means; None where it is right to wait longer for the next batch."""
        text = f"{error}"
        # A worker hands the memory of a batch over when that is asked for; it may have died before.
        if died := workers.died(patience=0 if isinstance(error, RuntimeError) else _LOOK_PERIOD):
            return WorkersError(why_died(died, workers.notes, self._describe))
        if "exited unexpectedly" in text:
            return WorkersError(why_died([], workers.notes, self._describe))
        for sign, meaning in _RAN_OUT.items():
            if sign in text:
                return WorkersError(f"a worker process failed: {meaning}")
        if not text.startswith("DataLoader timed out"):
            raise error
        if waited <= self._give_up_after:
            return None
        what = _what_hangs(workers, self._describe)
        return WorkersError(f"the workers gave no batch for {waited:.0f} s: {what}", timed_out=True)


def _what_hangs(workers: WorkerContext, describe: Callable[[int], str]) -> str:
    """Name what each worker is at, the one that is longest at it first."""
    rows = sorted(workers.notes.read(), key=lambda row: -row[2])
    busy = [
        f"process {pid} has worked on {describe(at)} for {time:.0f} s" for pid, at, time in rows if at >= 0
    ]
    begun = {pid for pid, _, _ in rows}
    late = [
        f"process {process.pid} has not begun" for process in workers.processes if process.pid not in begun
    ]
    return "; ".join(busy + late) or "none of them is at work"


@dataclass(frozen=True)
class _Begin:
    """What each worker of a loader does first."""

    notes: WorkerNotes

    def __call__(self, worker: int) -> None:
        begin_worker(self.notes, worker)


def _can_be_sent(error: Exception) -> bool:
    """Whether an error is the same in another process; where it is not, the queue between them would hang."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # classes of other packages may fail in any way
        return False


def _as_it_is(batch: Any) -> Any:
    return batch
