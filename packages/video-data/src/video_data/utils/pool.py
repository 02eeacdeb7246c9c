"""Calling a function for many items in processes, with results in order and a progress bar."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from video_data.utils.errors import WorkError
from video_data.utils.interrupts import interrupts
from video_data.utils.progress import ProgressDisplay

T = TypeVar("T")
R = TypeVar("R")

_PENDING_PER_WORKER = 4
_SPEED_PERIOD = 600.0  # seconds over which the time left is estimated; a long video takes minutes


def map_in_order(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    num_workers: int,
    title: str,
    progress: bool,
    weights: Sequence[int] | None = None,
    done: int = 0,
    describe: Callable[[T], str] = str,
) -> Generator[R, None, None]:
    """Yield `function(item)` for every item, in order.

    Args:
        function: A function at the top level of a module.
        items: Its arguments.
        num_workers: Processes; 1 calls the function in this process.
        title: Text of the progress bar.
        progress: Whether to show the bar, with the time left, on standard error; where that is no terminal, a line
            every 30 seconds.
        weights: How far each item takes the bar; None means 1.
        done: How far the bar is at the start, from work that was done before.
        describe: Names an item in an error.

    Raises:
        WorkError: A process died, for example for lack of memory; the message names what it worked on. Or processes
            cannot start, because a script starts them outside of `if __name__ == "__main__":`.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    display = ProgressDisplay(
        *columns, console=console, disable=not progress, speed_estimate_period=_SPEED_PERIOD
    )
    with interrupts(), display as bar:
        steps = weights or [1] * len(items)
        task = bar.add_task(title, total=done + sum(steps), completed=done)
        if num_workers == 1:
            results: Iterable[R] = map(function, items)
        else:
            results = _map_in_processes(function, items, num_workers, describe)
        for step, result in zip(steps, results, strict=True):
            bar.advance(task, step)
            yield result


def _map_in_processes(
    function: Callable[[T], R], items: Iterable[T], num_workers: int, describe: Callable[[T], str]
) -> Generator[R, None, None]:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    num_begun: Synchronized[int] = context.Value("l", 0)
    # Process and item of each worker; without a lock, which a dying process might keep.
    slots = context.RawArray(ctypes.c_int64, 2 * num_workers)
    with ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_begin, initargs=(num_begun, slots)
    ) as executor:
        pending: deque[tuple[T, Future[R]]] = deque()
        processes: list[BaseProcess] = []
        num_results, finished = 0, False
        try:
            for number, item in enumerate(items):
                pending.append((item, executor.submit(partial(_work, function, number), item)))
                processes = list(executor._processes.values())
                if len(pending) >= _PENDING_PER_WORKER * num_workers:
                    yield pending[0][1].result()
                    pending.popleft()
                    num_results += 1
            while pending:
                yield pending[0][1].result()
                pending.popleft()
                num_results += 1
            finished = True
        except BrokenProcessPool as error:
            executor.shutdown(wait=True)
            names = {num_results + place: describe(item) for place, (item, _) in enumerate(pending)}
            raise WorkError(_why_broken(processes, slots[:], names)) from error
        finally:
            for process in [] if finished else processes:
                process.terminate()  # after Ctrl-C nobody waits for what they are doing
            executor.shutdown(wait=True, cancel_futures=True)


def _why_broken(processes: Sequence[BaseProcess], slots: Sequence[int], names: dict[int, str]) -> str:
    """Return what happened, by how processes ended; the executor ends the others with SIGTERM."""
    item_of = {pid: item for pid, item in zip(slots[::2], slots[1::2], strict=True) if pid}
    died = [process for process in processes if process.exitcode not in (0, None, -signal.SIGTERM)]
    if died and all(process.pid not in item_of and (process.exitcode or 0) > 0 for process in died):
        return (
            "worker processes cannot start: what starts them in a script has to stand inside "
            "`if __name__ == '__main__':`, since each of them imports the script"
        )
    items = [item_of[process.pid] for process in died if process.pid in item_of]
    worked_on = [names[item] for item in items if item in names]
    if not worked_on:  # ended with SIGTERM by somebody else
        candidates = [names[item] for item in item_of.values() if item in names]
        worked_on = [f"one of {', '.join(candidates)}" if candidates else "nothing yet"]
    codes = {process.exitcode or 0 for process in died}
    how = ", ".join(sorted(signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes))
    hint = "; out of memory? Try fewer workers" if -9 in codes else ""
    return f"a worker process died ({how or 'SIGTERM'}{hint}) while it worked on {', '.join(worked_on)}"


_slot: tuple["ctypes.Array[ctypes.c_int64]", int] | None = None  # of this worker


def _begin(num_begun: "Synchronized[int]", slots: "ctypes.Array[ctypes.c_int64]") -> None:
    """Run first in each worker, which leaves Ctrl-C to the main process and ends when that is killed."""
    global _slot
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with num_begun.get_lock():
        place = num_begun.value
        num_begun.value += 1
    slots[2 * place + 1] = -1
    slots[2 * place] = os.getpid()
    _slot = slots, 2 * place + 1


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(function: Callable[[T], R], number: int, item: T) -> R:
    """Note which item this worker is at, for the case that it dies, and call the function."""
    if _slot is not None:
        slots, place = _slot
        slots[place] = number
    return function(item)
