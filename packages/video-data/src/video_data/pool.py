"""Mapping a function over items in processes, results in order, with a progress bar."""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
R = TypeVar("R")

_PENDING_PER_WORKER = 4


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
    """Yields `function(item)` for every item, in order.

    Args:
        function: a function at the top level of a module.
        items: its arguments.
        num_workers: processes; 1 calls the function in this process.
        title: text of the progress bar.
        progress: whether to show the bar, with the time left, on standard error.
        weights: how far each item takes the bar; None means 1.
        done: how far the bar is at the start, from work that was done before.
        describe: names an item in an error.

    Raises:
        RuntimeError: a process died, for example for lack of memory; the message names what it may have worked on.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
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
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_ignore_interrupt) as executor:
        pending: deque[tuple[T, Future[R]]] = deque()
        num_results, finished = 0, False
        try:
            for item in items:
                pending.append((item, executor.submit(function, item)))
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
            if num_results == 0 and sys.argv[0].endswith(".py"):
                hint = "a script needs `if __name__ == '__main__':` around what starts processes; else "
            else:
                hint = ""
            unfinished = [describe(item) for item, future in pending if future.exception() is not None]
            raise RuntimeError(
                f"a worker process died, at one of: {', '.join(unfinished[: num_workers + 1])} "
                f"({hint}out of memory? Try fewer workers)"
            ) from error
        finally:
            for process in [] if finished else list(executor._processes.values()):
                process.terminate()  # after Ctrl-C nobody waits for what they are doing
            executor.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupt() -> None:
    """Leaves Ctrl-C to the main process, which cancels the work and cleans up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
