"""Table 1 of the paper: four ways of counting agree, and its two sentences hold where it says they do."""

import math

import pytest
from bench import record
from bench.ops import table1


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
