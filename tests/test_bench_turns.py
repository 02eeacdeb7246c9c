"""The machinery of benchmarks: processes that take turns, comparisons of installations, and the history."""

import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench import history, turns
from bench.compare import Comparison, compare
from bench.history import Row, benchmarks, fingerprint, row_of
from bench.trees import commit_of
from bench.turns import Player, Unavailable

CASE = """
import time
import thing

SUITE, YARDSTICK = "ops", "a nap"


def make():
    print("what a benchmark prints is no answer")
    return thing.work, lambda: time.sleep(0.01)
"""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    (tmp_path / "ops_nap.py").write_text(CASE)
    return tmp_path / "ops_nap.py"


def install(folder: Path, source: str) -> Path:
    folder.mkdir()
    (folder / "thing.py").write_text(f"import time\n{source}\n")
    return folder


def test_each_process_times_its_own_installation(case: Path, tmp_path: Path) -> None:
    slow = install(tmp_path / "slow", "def work(): time.sleep(0.03)")
    quick = install(tmp_path / "quick", "def work(): time.sleep(0.002)")
    with Player(case, slow, threads=1) as first, Player(case, quick, threads=1) as second:
        assert first.facts == {"suite": "ops", "yardstick": "a nap"}
        for _ in range(2):
            assert first.time("ours") > second.time("ours")
        assert second.time("yardstick") > 0.009
    found = compare(case, slow, quick, threads=1, rounds=5)
    assert found.median > 3 and found.interval()[0] > 2
    assert "ops_nap: " in str(found) and "5 rounds" in str(found)


def test_a_turn_counts_what_the_call_waits_for_but_not_what_others_do(case: Path, tmp_path: Path) -> None:
    naps = install(tmp_path / "naps", "def work(): time.sleep(0.05)")
    with Player(case, naps, threads=1) as player:
        turn = player.take("ours")
    assert 0.05 <= turn.own <= turn.seconds + 0.01
    # Two processes that share a processor: each is ready to run for the double of what it takes.
    busy = install(tmp_path / "busy", "def work(): sum(range(3_000_000))")
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the system does not tell for how long a thread waits for a processor")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with (
            Player(case, busy, threads=1) as player,
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other,
        ):
            alone_or_not = [player.take("ours") for _ in range(5)]
            other.kill()
    finally:
        os.sched_setaffinity(0, cores)
    assert statistics.median(turn.own / turn.seconds for turn in alone_or_not) < 0.9


def test_a_process_that_does_not_answer_is_ended(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_LIMIT", 1)
    hangs = install(tmp_path / "hangs", "def work(): time.sleep(60)")
    with pytest.raises(Unavailable, match="after 1 seconds without an answer"):
        Player(case, hangs, threads=1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no such kernel')", "ImportError: no such kernel"),
        ("def work(): raise AssertionError('not what the reference says')", "AssertionError: not what"),
        ("import os; os._exit(3)", "its process ended with 3"),
    ],
)
def test_what_cannot_run_says_why(source: str, reason: str, case: Path, tmp_path: Path) -> None:
    where = install(tmp_path / "broken", source)
    with pytest.raises(Unavailable, match=reason):
        Player(case, where, threads=1)
    row = row_of("c" * 40, "2026-01-01T00:00:00+00:00", case, where, threads=1, rounds=2)
    assert reason in row.note and math.isnan(row.ms50)


def test_a_row_has_the_ratio_to_the_yardstick_of_its_round(case: Path, tmp_path: Path) -> None:
    where = install(tmp_path / "here", "def work(): time.sleep(0.02)")
    row = row_of("c" * 40, "2026-01-01T00:00:00+00:00", case, where, threads=1, rounds=5)
    assert (row.benchmark, row.suite, row.yardstick, row.rounds) == ("ops_nap", "ops", "a nap", 5)
    assert row.ms20 <= row.ms50 <= row.ms80 and row.ms50 > 19
    assert 1 < row.ratio50 < 4


def row(commit: str, benchmark: str, ratio: float, day: int) -> Row:
    figures = dict.fromkeys(("ms20", "ms50", "ms80", "ratio20", "ratio50", "ratio80"), ratio)
    return Row(commit, f"2026-01-{day:02}T00:00:00+00:00", benchmark, "ops", "a nap", 5, **figures)


def test_rows_are_kept_by_machine_and_replaced_by_commit(tmp_path: Path) -> None:
    here, there = {"cpu": "a", "cores": 2}, {"cpu": "b", "cores": 2}
    first, second = row("1" * 40, "ops_nap", 2.0, 1), row("2" * 40, "ops_nap", 1.5, 2)
    history.add([second], here, tmp_path)
    history.add([first], here, tmp_path)
    history.add([first], there, tmp_path)
    assert history.read(tmp_path) == {
        fingerprint(here): [first, second],
        fingerprint(there): [first],
    }
    better = replace(second, ratio50=1.25)
    history.add([better], here, tmp_path)
    assert history.read(tmp_path)[fingerprint(here)] == [first, better]
    assert json.loads((tmp_path / f"{fingerprint(here)}.json").read_text()) == here
    broken = Row("3" * 40, "2026-01-03T00:00:00+00:00", "ops_nap", note="it cannot run, for one reason")
    history.add([broken], here, tmp_path)
    (*_, last) = history.read(tmp_path)[fingerprint(here)]
    assert last.note == broken.note and math.isnan(last.ratio50)


def test_the_interval_grows_with_the_noise_and_holds_the_median() -> None:
    calm = Comparison("a", [1.0 + 0.001 * (n % 5) for n in range(25)])
    noisy = Comparison("a", [1.0 + 0.1 * (n % 5) for n in range(25)])
    for found in (calm, noisy):
        low, high = found.interval()
        assert low <= found.median <= high
    assert noisy.interval()[1] - noisy.interval()[0] > calm.interval()[1] - calm.interval()[0]


def test_benchmarks_are_named_by_suite_or_by_file() -> None:
    names = [file.stem for file in benchmarks()]
    assert "ops_forward_res2" in names
    assert [file.stem for file in benchmarks(["ops_forward_res2"])] == ["ops_forward_res2"]
    assert {file.stem.partition("_")[0] for file in benchmarks(["ops"])} == {"ops"}
    with pytest.raises(ValueError, match="no benchmark 'speed'; there are "):
        benchmarks(["speed"])


def test_an_unknown_commit_is_named() -> None:
    with pytest.raises(ValueError, match="no commit 'nothing-of-the-kind'"):
        commit_of("nothing-of-the-kind")


@pytest.mark.slow
@pytest.mark.parametrize("file", benchmarks(), ids=lambda file: file.stem)
def test_every_benchmark_runs(file: Path) -> None:
    found = row_of("c" * 40, "2026-01-01T00:00:00+00:00", file, None, threads=1, rounds=2)
    assert found.note == "" and found.suite == file.stem.partition("_")[0]
    assert found.ratio50 > 0
