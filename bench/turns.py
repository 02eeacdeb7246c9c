"""Processes that take turns: each times one benchmark, once whenever it is told, with an installation of its own.

python -m bench.turns FILE     # the child; it reads names of calls, a line each, and answers with JSON

A benchmark is a file of `bench/cases`: `SUITE`, the name of its `YARDSTICK`, and `make()`, which checks what it will
time and returns two calls, ours and the yardstick's. Such a file imports the packages and nothing of `bench`, so that
it also measures older commits.
"""

import gc
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Timer
from time import perf_counter, process_time
from types import TracebackType
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[1]
CALLS = ("ours", "yardstick")
_SECONDS = 0.03  # that a turn takes at least: shorter calls are repeated
_MOST_REPEATS = 1000
_LIMIT = 900  # seconds after which a process that does not answer is ended


class Unavailable(Exception):
    """A benchmark that cannot run with an installation; the message says why."""


class Turn(NamedTuple):
    """What one call took.

    Attributes:
        seconds: By the clock, in the mean over the calls of a turn.
        own: The least of its calls, without the time in which it was ready to run but other programs did, where the
            system tells (Linux).
    """

    seconds: float
    own: float


class Player:
    """A process that times one benchmark with one installation.

    Args:
        file: The file of the benchmark.
        installation: Folder with the packages; None takes those of this Python.
        threads: Threads of torch and OpenMP.

    Raises:
        Unavailable: The benchmark cannot be made, or its check fails.
    """

    def __init__(self, file: Path, installation: Path | None = None, *, threads: int) -> None:
        paths = [*([] if installation is None else [str(installation)]), str(ROOT)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.turns", str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        self.facts: dict[str, Any] = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def take(self, call: str) -> Turn:
        """Take a turn; return what one call took. The first turn of a call warms up before its clock starts.

        Raises:
            Unavailable: The call failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{call}\n")
        self._process.stdin.flush()
        return Turn(**self._answer())

    def time(self, call: str) -> float:
        """Take a turn; return the seconds of one call, as `take` does."""
        return self.take(call).seconds

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = Timer(_LIMIT, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        late = f", after {_LIMIT} seconds without an answer" if not timer.is_alive() else ""
        timer.cancel()
        if not line:
            self.close()
            raise Unavailable(f"its process ended with {self._process.returncode}{late}")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            self.close()
            raise Unavailable(answer["unavailable"])
        return answer


def _play(file: str) -> None:
    """Be the child."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that a benchmark prints gets between the answers

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        found = runpy.run_path(file)
        calls: dict[str, Callable[[], object]] = dict(zip(CALLS, found["make"](), strict=True))
        repeats = {"ours": _repeats(calls["ours"])}
        answer(suite=found["SUITE"], yardstick=found["YARDSTICK"])
        gc.disable()
        gc.collect()
        gc.freeze()  # what is there by now stays: the collections before each turn need not look at it again
        for line in sys.stdin:
            name = line.strip()
            if name not in repeats:
                repeats[name] = _repeats(calls[name])
            answer(**_timed(calls[name], repeats[name])._asdict())
    except BaseException as error:
        answer(unavailable=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _timed(call: Callable[[], object], number: int) -> Turn:
    """Call it so often; return what one took."""
    gc.collect()
    seconds, own = [], []
    for _ in range(number):
        begin, queued = perf_counter(), _queued()  # in this order nothing is taken off that was not added
        start, processor = perf_counter(), process_time()
        call()
        seconds.append(perf_counter() - start)
        processor = process_time() - processor
        queued = _queued() - queued
        own.append(
            max(perf_counter() - begin - queued, processor)
        )  # threads that wait at once are taken off twice
    return Turn(sum(seconds) / number, min(own))


def _queued() -> float:
    """Return the seconds for which the threads of this process were ready to run and did not; 0 where unknown."""
    nanoseconds, tasks = 0, "/proc/self/task"  # read without pathlib, which takes ten times as long
    with suppress(FileNotFoundError):
        for thread in os.listdir(tasks):  # noqa: PTH208
            with suppress(OSError), open(f"{tasks}/{thread}/schedstat", "rb", buffering=0) as file:  # noqa: PTH123
                nanoseconds += int(file.read().split()[1])
    return nanoseconds / 1e9


def _repeats(call: Callable[[], object]) -> int:
    """Return how many calls make a turn; the first ones load libraries and fill caches."""
    call()
    start = perf_counter()
    call()
    seconds = perf_counter() - start
    return min(_MOST_REPEATS, max(1, round(_SECONDS / max(seconds, 1e-9))))


if __name__ == "__main__":
    _play(sys.argv[1])
