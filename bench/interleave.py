"""Times contenders in one process, round by round, so that other work on the machine hits all of them alike."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

import torch

MIN_ROUNDS, MAX_ROUNDS = 5, 40
NUM_THREADS = torch.get_num_threads()


@dataclass
class Contender:
    """One way to do a piece of work.

    `call` returns what it made, which is freed when the clock has stopped; it is None where the contender cannot
    run here, and `note` says why.
    """

    provider: str
    call: Callable[[], object] | None
    dtype: str = "float32"
    layout: str = "contiguous"
    threads: int = NUM_THREADS
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    results: object = None

    def prepare(self) -> None:
        torch.set_num_threads(self.threads)

    def run(self) -> None:
        assert self.call is not None, self.note
        self.results = self.call()

    def release(self) -> None:
        self.results = None

    def time(self, clock: Callable[[], float] = perf_counter) -> float:
        self.prepare()
        start = clock()
        self.run()
        self.seconds.append(clock() - start)
        self.release()
        return self.seconds[-1]


def compare(
    benchmark: Any,
    ours: Contender,
    others: Sequence[Contender],
    *,
    seconds: float,
    base: Contender | None = None,
) -> list[dict[str, Any]]:
    """Time all contenders once in each round and return one row for each.

    pytest-benchmark times `ours`; the others take their turns before it, in an order that rotates, so that
    none always finds the caches as the same neighbor left them.

    Args:
        benchmark: The fixture of pytest-benchmark.
        ours: The contender that pytest-benchmark reports.
        others: The contenders beside it.
        seconds: About how long to go on.
        base: The contender to which the times of a round are related; None is `ours`.

    Returns:
        Rows with the 20, 50 and 80 % quantiles of the times, in milliseconds, and of their ratios to the time
        that `base` took in the same round. The row of a contender that cannot run has its note.
    """
    contenders = [contender for contender in (ours, *others) if contender.call is not None]
    rounds = rounds_within(seconds, contenders)
    order = [contender for contender in contenders if contender is not ours]

    def time_others() -> None:
        for contender in order:
            contender.time()
        order.extend(order[:1])
        del order[:1]
        ours.prepare()

    benchmark.pedantic(ours.run, setup=time_others, teardown=ours.release, rounds=rounds)
    torch.set_num_threads(NUM_THREADS)
    ours.seconds = list(benchmark.stats.stats.data)
    return [row(contender, base or ours) for contender in (ours, *others)]


def rounds_within(seconds: float, contenders: Sequence[Contender]) -> int:
    """Run all contenders once or twice and return how many rounds of them take about so long."""
    round_seconds = sum(contender.time() for contender in contenders)
    if round_seconds < seconds / 5:  # first runs are slow: they load libraries and fill caches
        round_seconds = sum(contender.time() for contender in contenders)
    for contender in contenders:
        contender.seconds.clear()
    return min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / round_seconds)))


def own_clock() -> Callable[[], float]:
    """Return the clock for calls that differ much in length: with one thread that of the processor's time.

    On a machine that others use long calls are interrupted and short ones often are not, which the ratio of their times
    would show as a difference.
    """
    return process_time if torch.get_num_threads() == 1 else perf_counter


def alternate(
    contenders: Sequence[Contender], *, rounds: int, clock: Callable[[], float] = perf_counter
) -> None:
    """Time all contenders that can run once in each round, in an order that rotates."""
    order = [contender for contender in contenders if contender.call is not None]
    for _ in range(rounds):
        for contender in order:
            contender.time(clock)
        order.append(order.pop(0))


def row(contender: Contender, base: Contender) -> dict[str, Any]:
    """Return what a contender took and, beside it, in relation to `base` in the same round; see `compare`."""
    if contender.call is None:
        return {"provider": contender.provider, "note": contender.note}
    ratios = [own / other for own, other in zip(contender.seconds, base.seconds, strict=True)]
    times = quantiles([1e3 * own for own in contender.seconds])
    return {
        "provider": contender.provider,
        "dtype": contender.dtype,
        "layout": contender.layout,
        "threads": contender.threads,
        "rounds": len(ratios),
        **dict(zip(("ms20", "ms50", "ms80"), times, strict=True)),
        **dict(zip(("ratio20", "ratio50", "ratio80"), quantiles(ratios), strict=True)),
        "note": contender.note,
    }


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the 20, 50 and 80 % quantiles."""
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[1], tenths[4], tenths[7]
