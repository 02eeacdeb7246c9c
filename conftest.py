"""`pytest` runs the tests, `pytest --benchmark` the gate: exact counts, and benchmarks that may not become slower.

`pytest --benchmark bench` runs all benchmarks.
"""

import os
import signal

import pytest

GATE = (
    "bench/models/bench_models.py::test_counts_are_those_on_record",
    "tests/test_bench_table1.py",
    "bench/bench_gate.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark",
        action="store_true",
        help="compare counts with those on record and speed with a commit, instead of the tests; with paths (bench): "
        "run their benchmarks",
    )
    parser.addoption(
        "--benchmark-baseline",
        metavar="REF",
        help="commit that --benchmark compares with (default: CORRNET_BENCHMARK_BASELINE, or where this branch left "
        "main, or on main the one of bench/baseline)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Shells and nohup have what runs in the background ignore Ctrl-C, and so would all processes of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--benchmark"):
        config.addinivalue_line("python_files", "bench_*.py")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(config.rootpath / path) for path in GATE]
            config.option.benchmark_quiet = True  # the gate has a table of its own


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three workers for two cores with `-n auto`: tests wait for processes that they started."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of minutes go first, so that no worker is left alone with them at the end."""
    longest = (
        "test_installed_wheels",
        "test_corr_ops_sanitizers",
        "test_corrnet_train_kills",
        "test_demo",
        "test_corrnet_train_ranks",
    )
    items.sort(key=lambda item: not any(name in item.nodeid for name in longest))
