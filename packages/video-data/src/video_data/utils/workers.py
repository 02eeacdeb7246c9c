"""Worker processes: how many are sensible, how they start and end, and the memory in which they hand batches over."""

import atexit
import contextlib
import ctypes
import math
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, context
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from video_data.utils.errors import InputError, MissingPackageError, WorkError, WorkersError

_MAX_WORKERS = 16  # decoding in more processes than this seldom helps one consumer
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_SERVER_IMPORTS = ["video_data.loading.train", "video_data.loading.views", "video_data.packing._ingest"]
_FULL_SHARED_MEMORY = "shared memory (/dev/shm) is full"
# What torch says in a worker, and what it means.
_RAN_OUT = {
    "unable to allocate shared memory": f"{_FULL_SHARED_MEMORY}; fewer decoding processes or smaller batches take "
    "less, more of it gives docker run --shm-size=8g, in Kubernetes an emptyDir of medium Memory at /dev/shm",
    "can't allocate memory": "memory is full; fewer decoding processes or smaller batches take less",
    "Too many open files": "too many files are open; raise the limit: ulimit -n 65536",
}
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_LOOK_PERIOD = 2.0  # seconds after which a loader looks whether its workers are alive

LOADER_TIMEOUT = 600.0
"""Seconds without a batch after which a loader gives its workers up."""


def suggest_num_workers(local_world_size: int = 1) -> int:
    """Return a sensible `num_workers` for each of the training processes on this machine.

    The cores that this process may use are shared among the training processes, and each keeps one for itself:
    at least 1, at most 16. Affinity and the limit of a container (cgroup v2) count, which `os.cpu_count` ignores.

    Args:
        local_world_size: Training processes on this machine.

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


def start_worker_server() -> None:
    """Start the process from which workers are forked, in the background; where there is one, do nothing.

    This process has threads, of whose locks a fork keeps those that are held, for ever. The server has one thread, and
    has imported what workers need. Neither it nor what it forks gets SIGINT or SIGTERM, which a terminal, a scheduler
    or torchrun sends to all processes at once: the main process decides when workers end. With it they end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where workers are spawned
        return
    from multiprocessing import forkserver, resource_tracker

    if sys.platform != "darwin":  # whose system libraries may not be forked once they are loaded
        forkserver.set_forkserver_preload(_SERVER_IMPORTS)
    resource_tracker.ensure_running()  # here, as it would unblock the signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    threads = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"  # it would start threads when NumPy is imported
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if threads is None:
            del os.environ[_BLAS_THREADS]
        else:
            os.environ[_BLAS_THREADS] = threads


if hasattr(context, "ForkServerContext"):
    _Context: Any = context.ForkServerContext
    _Process: Any = context.ForkServerProcess
else:
    _Context, _Process = context.SpawnContext, context.SpawnProcess


_SERVER_DIED = 255  # the exit code that multiprocessing gives to processes of a server that was killed


class _Worker(_Process):  # type: ignore[misc]
    was_ended = False

    def start(self) -> None:
        start_worker_server()  # again, if somebody has killed it
        try:
            super().start()
        except (EOFError, ConnectionError) as error:
            raise WorkersError(
                "a worker process cannot be started: this user has too many processes, or memory is full; take fewer"
            ) from error

    def terminate(self) -> None:
        if self.is_alive():
            self.was_ended = True
            self.kill()  # SIGTERM does not reach it
        elif self.exitcode == _SERVER_DIED:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class WorkerContext(_Context):  # type: ignore[misc]
    """How the worker processes of one loader or pool start: from the server of workers, or spawned on Windows.

    Args:
        num_workers: How many there will be.

    Attributes:
        processes: Those that were started.
        notes: Where each worker notes what it is at.
    """

    def __init__(self, num_workers: int) -> None:
        super().__init__()
        start_worker_server()
        self.processes: list[_Worker] = []
        _contexts.add(self)
        self.notes = WorkerNotes(self, num_workers)

    def Process(self, *args: Any, **kwargs: Any) -> _Worker:  # (a method of contexts has this name)
        """Return a process that is yet to be started."""
        self.processes.append(_Worker(*args, **kwargs))
        return self.processes[-1]

    def end(self) -> None:
        """End those that are there yet."""
        for process in self.processes:
            process.terminate()

    def died(self) -> list[_Worker]:
        """Return the processes that ended by themselves, and not as they should."""
        return [
            process
            for process in self.processes
            if process.exitcode not in (0, None) and not process.was_ended
        ]


_contexts: weakref.WeakSet[WorkerContext] = weakref.WeakSet()


@atexit.register  # later than multiprocessing's own, and called before that, which would wait for workers for ever
def _end_workers() -> None:
    for workers in _contexts:
        workers.end()


class WorkerNotes:
    """What each of some workers is at, in shared memory; without a lock, which a dying process might keep.

    Args:
        context: How the workers start.
        num_workers: How many there are.
    """

    def __init__(self, context: Any, num_workers: int) -> None:
        self._rows = context.RawArray(ctypes.c_int64, 3 * num_workers)

    def write(self, place: int, item: int) -> None:
        """Note in a worker what it begins with; -1 for nothing."""
        self._rows[3 * place : 3 * place + 3] = [os.getpid(), item, time.monotonic_ns()]

    def read(self) -> list[tuple[int, int, float]]:
        """Return for each worker that has begun its process id, item, and seconds since it began with that."""
        now, rows = time.monotonic_ns(), self._rows[:]
        return [
            (pid, item, (now - since) / 1e9)
            for pid, item, since in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
            if pid
        ]


_place: tuple[WorkerNotes, int] | None = None  # of this worker


def begin_worker(notes: WorkerNotes, place: int) -> None:
    """Run first in each worker: it decodes on one thread, and ends with the main process, however that ends."""
    global _place
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # of spawned ones and those of another library's server
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.excepthook = _show
    notes.write(place, -1)
    _place = notes, place


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an exception, but not that the main process left while a batch was handed over."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def working_on(item: int) -> None:
    """Note which item this process is at, for the case that it dies or hangs; -1 for none. It must be a worker."""
    if _place is not None:
        notes, place = _place
        notes.write(place, item)


def why_died(died: Sequence[_Worker], notes: WorkerNotes, describe: Callable[[int], str]) -> str:
    """Return what happened to workers that died, and what they worked on.

    Args:
        died: They; empty where it is not known which of them died.
        notes: What the workers have noted.
        describe: Names an item.
    """
    at = {pid: item for pid, item, _ in notes.read()}
    codes = {process.exitcode or 0 for process in died}
    if (
        codes
        and min(codes) > 0
        and not any(process.pid in at for process in died)
        and _SERVER_DIED not in codes
    ):
        return (
            "worker processes cannot start: what starts them in a script has to stand inside "
            "`if __name__ == '__main__':`, since each of them imports the script; the lines above tell of another cause"
        )
    items = [at.get(process.pid or 0, -1) for process in died]
    worked_on = [describe(item) for item in items if item >= 0]
    if not died:
        candidates = [describe(item) for item in at.values() if item >= 0]
        worked_on = [f"one of {', '.join(candidates)}"] if candidates else []
    how = "; ".join(sorted(map(_how, codes))) or "it is not known how"
    what = f" while it worked on {', '.join(worked_on)}" if worked_on else ""
    return f"a worker process died ({how}){what}"


def _how(code: int) -> str:
    """Return how a process with an exit code ended, with what helps."""
    if code == _SERVER_DIED:
        return "the server of workers was killed"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    hints = {"SIGKILL": "; out of memory? Try fewer workers", "SIGBUS": f"; {_FULL_SHARED_MEMORY}?"}
    return name + hints.get(name, "")


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
        batches = super().__iter__()
        since = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
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

    def _failure(self, workers: WorkerContext, error: RuntimeError, waited: float) -> WorkersError | None:
        """Return what an error of torch means; None where it is right to wait longer for the next batch."""
        text = f"{error}"
        if died := workers.died():
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
