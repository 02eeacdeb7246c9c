"""The gate: no benchmark of `bench/cases` may be slower than in the baseline; see bench/gate.py.

`pytest --benchmark` runs it with the counts that have to be exact.
"""

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import gate
from bench.history import benchmarks
from bench.turns import Unavailable


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> gate.Baseline:
    ref = (
        request.config.getoption("--benchmark-baseline")
        or os.environ.get("CORRNET_BENCHMARK_BASELINE")
        or None
    )
    try:
        return gate.baseline(ref)
    except gate.NoBaseline as error:
        pytest.skip(f"nothing to compare with: {error}")
    except ValueError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def both(base: gate.Baseline):
    with gate.installations(base.commit) as folders:
        yield folders


@pytest.mark.parametrize("file", benchmarks(), ids=lambda file: file.stem)
def test_no_slower(
    file: Path, base: gate.Baseline, benchmark, request: pytest.FixtureRequest, verdicts
) -> None:
    packages = gate.PACKAGES[file.stem.partition("_")[0]]
    verdicts.base = base
    if not gate.changed(base.commit, packages):
        pytest.skip(f"{', '.join(packages)}: as in {base}, so it cannot be slower")
    ours, theirs = request.getfixturevalue("both")
    try:
        verdict = benchmark.pedantic(gate.judge, args=(file, ours, theirs), rounds=1)
    except Unavailable as error:
        gate.check_runs(file, ours)  # what is broken here does not pass for something new
        pytest.skip(f"it cannot run in {base}: {error}")
    verdicts.found.append(verdict)
    benchmark.extra_info["gate"] = {"baseline": base.commit, **asdict(verdict)}
    assert not verdict.slower, f"{verdict.estimates[-1].ratio:.3f} times the time of {base}"
    if verdict.slower is None:
        pytest.skip(verdict.words)
