"""Table 1 of the paper: four ways of counting agree, and its two sentences hold where it says they do."""

import math

import pytest
from bench import record
from bench.ops import memory, table1

from corr_ops import video_correlation


@pytest.mark.parametrize("shape", list(table1.shapes()), ids=str)
def test_all_ways_of_counting_agree(shape):
    for counts in (table1.count_correlation(shape), table1.count_convolution(shape)):
        assert len(set(counts.params)) == 1, counts
        assert len(set(counts.macs)) == 1, counts


def test_with_filters_of_one_size_the_ratios_are_those_of_the_paper():
    same_size = [
        row for row in table1.rows() if row["k"] ** 2 == math.prod(map(int, row["kernel"].split("x")))
    ]
    assert len(same_size) >= 12
    for row in same_size:
        assert row["params_ratio"] == row["c_out_by_l"] and row["macs_ratio"] == row["c_out"]


def test_the_table_on_record_is_that_of_today():
    counted = [{key: value for key, value in row.items() if isinstance(value, int)} for row in table1.rows()]
    on_record = record.read("table1")
    assert [{key: row[key] for key in now} for row, now in zip(on_record, counted, strict=True)] == counted


def test_times_and_memory_of_a_shape():
    *_, shape = table1.shapes()  # the smallest
    for direction in table1.DIRECTIONS:
        found = table1.times(shape, direction, seconds=0)
        assert found["rounds"] == 5
        assert 0 < found["ratio20"] <= found["ratio50"] <= found["ratio80"]
        assert 0 < found["ms20"] <= found["ms50"] and 0 < found["conv_ms20"] <= found["conv_ms50"]
    if memory.unavailable() is None:
        used = table1.extra_memory(shape, "forward")
        assert used["extra_bytes"] > 0 and used["conv_extra_bytes"] > 0


def test_what_is_timed_is_compared_with_the_reference(monkeypatch):
    def wrong(x, filters, *, backend="auto", **options):
        out = video_correlation(x, filters, backend=backend, **options)
        return out if backend == "reference" else out + 0.1

    monkeypatch.setattr(table1, "video_correlation", wrong)
    *_, shape = table1.shapes()
    with pytest.raises(AssertionError, match="not close"):
        table1.contenders(shape, "forward")


def test_the_table_says_how_much_of_the_advantage_arrives():
    counted = table1.rows()[0]
    taken = {f"ratio{q}": counted["macs_ratio"] / 4 for q in (20, 50, 80)}
    taken |= {"ms50": 2.0, "extra_bytes": 3_000_000, "conv_extra_bytes": 5_000_000}
    run = {"commit": "c" * 40, "threads": 1, "load": 0.0, "torch": "2", "cpu": "A CPU", "cores": 2}
    measured = {
        f"{direction} {key}": value for direction in table1.DIRECTIONS for key, value in taken.items()
    }
    text = table1.markdown([{**counted, **measured, **run}])
    assert "| 2 | 8.82 | 8.82 to 8.82 | 25 % | 3 | 5 |" in text
    assert "torch 2, A CPU, 2 cores, kernels for none, at cccccccccc, 1 thread." in text
    assert "Other programs" not in text
    assert "Other programs used the machine (load 3.2)" in table1.markdown(
        [{**counted, **measured, **run, "load": 3.2}]
    )
