"""Calling a function for many items in processes, with results in order and a progress bar."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
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

from video_data.utils.errors import WorkersError
from video_data.utils.interrupts import interrupts, not_interrupted, put_off_until_end
from video_data.utils.progress import ProgressDisplay
from video_data.utils.workers import (
    WorkerContext,
    WorkerNotes,
    begin_worker,
    why_died,
    working_on,
)

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
    workers = WorkerContext(num_workers)
    num_begun: Synchronized[int] = workers.Value("l", 0)
    with ProcessPoolExecutor(
        num_workers, mp_context=workers, initializer=_begin, initargs=(num_begun, workers.notes)
    ) as executor:
        pending: deque[tuple[T, Future[R]]] = deque()
        num_results, finished = 0, False
        try:
            for number, item in enumerate(items):
                with put_off_until_end():
                    pending.append((item, _submit(executor, partial(_work, function, number), item)))
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
            why = why_died(workers.died(), workers.notes, lambda number: names.get(number, "another"))
            raise WorkersError(why) from error
        finally:
            if not finished:
                workers.end()  # after Ctrl-C nobody waits for what they are doing
            executor.shutdown(wait=True, cancel_futures=True)


@not_interrupted
def _submit(executor: ProcessPoolExecutor, function: Callable[[T], R], item: T) -> Future[R]:
    """Hand an item to the workers, of which some may be started for it."""
    return executor.submit(function, item)


def _begin(num_begun: "Synchronized[int]", notes: WorkerNotes) -> None:
    with num_begun.get_lock():
        place = num_begun.value
        num_begun.value += 1
    begin_worker(notes, place)


def _work(function: Callable[[T], R], number: int, item: T) -> R:
    """Note which item this worker is at, for the case that it dies, and call the function."""
    working_on(number)
    result = function(item)
    working_on(-1)
    return result
