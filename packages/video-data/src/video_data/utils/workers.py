"""Worker processes: how many are sensible, how they start and end, and what they were at when they died."""

import atexit
import contextlib
import ctypes
import math
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import connection, context
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from video_data.utils.errors import InputError, WorkersError
from video_data.utils.messages import some_of

_MAX_WORKERS = 16  # decoding in more processes than this seldom helps one consumer
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_SERVER_IMPORTS = ["video_data.loading.train", "video_data.loading.views", "video_data.packing._ingest"]
FULL_SHARED_MEMORY = "shared memory (/dev/shm) is full"
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


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

    def died(self, patience: float = 0) -> list[_Worker]:
        """Return the processes that ended by themselves, and not as they should.

        Args:
            patience: Seconds to wait for the first that ends.
        """
        connection.wait([process.sentinel for process in self.processes if process.is_alive()], patience)
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
        worked_on = [f"one of {some_of(candidates)}"] if candidates else []
    how = "; ".join(sorted(map(_how, codes))) or "it is not known how"
    what = f" while it worked on {some_of(worked_on)}" if worked_on else ""
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
    hints = {"SIGKILL": "; out of memory? Try fewer workers", "SIGBUS": f"; {FULL_SHARED_MEMORY}?"}
    return name + hints.get(name, "")
