"""The operator beside its reference, the convolutions it stands for, and others.

`pytest --benchmark bench/ops` takes 8 frames and one clip; with CORR_OPS_BENCHMARK=full also 32 frames and 4
clips, and the reference compiled by Inductor, which takes minutes to compile. Ratios are to the time of `ours`
in the same round.
"""

import pytest

from bench import record as records
from bench.interleave import NUM_THREADS, compare
from bench.ops import memory
from bench.ops.cases import (
    BACKENDS,
    CASES,
    CONVOLUTIONS,
    DIRECTIONS,
    FULL,
    SMALL,
    compiled_reference,
    convolution,
    correlation,
    pair_contenders,
)

SECONDS = 12 if FULL else 6
by_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def columns(table, case, direction):
    return {"table": table, **case.columns, "direction": direction}


@by_direction
@pytest.mark.parametrize("case", CASES, ids=str)
def test_correlation(benchmark, record, case, direction):
    ours, *others = (correlation(case, direction, backend) for backend in BACKENDS)
    if NUM_THREADS > 1:
        others.append(correlation(case, direction, ours.provider, threads=1))
    others += [convolution(case, direction, kernel) for kernel in CONVOLUTIONS]
    if FULL and case in SMALL:
        others.append(compiled_reference(case, direction))
    rows = compare(benchmark, ours, others, seconds=SECONDS)
    rows = record("ops", [{**columns("correlation", case, direction), **row} for row in rows])
    assert_not_slower_than_on_record(rows)


def assert_not_slower_than_on_record(rows):
    """On the machine of the record, ours may at most double the share of the convolution's time it took then."""
    same = (
        "cpu",
        "cores",
        "instruction_set",
        "table",
        "stage",
        "num_frames",
        "batch",
        "direction",
        "provider",
    )
    now = next(row for row in rows if row["provider"] == "conv3x3x3")
    for then in records.read("ops"):
        if all(then.get(key) == now[key] for key in same):
            assert now["ratio50"] > then["ratio50"] / 2


@by_direction
def test_layouts(benchmark, record, direction):
    ours, *others = (
        correlation(SMALL[0], direction, BACKENDS[0], dtype=dtype, layout=layout)
        for dtype in ("float32", "bfloat16")
        for layout in ("contiguous", "channels_last_3d")
    )
    rows = compare(benchmark, ours, others, seconds=SECONDS / 2)
    record("ops", [{**columns("layouts", SMALL[0], direction), **row} for row in rows])


@by_direction
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_pairs_without_filters(benchmark, record, case, direction):
    ours, other = pair_contenders(case, direction)
    rows = compare(benchmark, ours, [other], seconds=SECONDS / 2)
    record("ops", [{**columns("pairs", case, direction), **row} for row in rows])


@pytest.mark.skipif(memory.unavailable() is not None, reason=str(memory.unavailable()))
def test_memory(benchmark, record):
    ends = [case for case in CASES if case.num_frames * case.batch in (8, 32 * 4)]
    rows = benchmark.pedantic(memory.measure, args=(ends,))
    record("ops", [{"table": "memory", **row} for row in rows])
