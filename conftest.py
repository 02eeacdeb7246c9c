"""`pytest` runs the tests; `pytest --benchmark` runs the benchmarks in bench/ and nothing else."""

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark", action="store_true", help="run the benchmarks in bench/ instead of the tests"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Shells and nohup have what runs in the background ignore Ctrl-C, and so would all processes of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--benchmark"):
        config.addinivalue_line("python_files", "bench_*.py")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(config.rootpath / "bench")]


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
