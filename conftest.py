"""`pytest` runs the tests; `pytest --benchmark` runs the benchmarks in bench/ and nothing else."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark", action="store_true", help="run the benchmarks in bench/ instead of the tests"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark"):
        config.addinivalue_line("python_files", "bench_*.py")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(config.rootpath / "bench")]
