"""The gate of benchmarks: what it compares with, what it calls slower, and what `pytest --benchmark` runs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean

import pytest
from bench import gate, history, trees
from bench.gate import Look, NoBaseline, baseline, changed, judge
from bench.turns import Turn, Unavailable

ROOT = Path(__file__).parents[1]


def git(where: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(where: Path, path: str, text: str) -> str:
    (where / path).parent.mkdir(parents=True, exist_ok=True)
    (where / path).write_text(text)
    git(where, "add", ".")
    git(where, "commit", "-m", text)
    return git(where, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three commits on main; the first is named in a file."""
    where = tmp_path / "repository"
    where.mkdir()
    git(where, "init", "--initial-branch=main")
    first = commit(where, "packages/video-data/src/a.py", "first")
    commit(where, "bench/baseline", first)
    commit(where, "packages/corr-ops/src/b.py", "third")
    return where


def base_of(where: Path, ref: str | None = None) -> str:
    return baseline(ref, root=where, named=where / "bench" / "baseline").commit


def test_a_branch_is_compared_with_where_it_left_main_and_main_with_what_is_named(repository: Path) -> None:
    left = git(repository, "rev-parse", "HEAD")
    named = (repository / "bench" / "baseline").read_text()
    assert base_of(repository) == named
    git(repository, "switch", "-c", "branch")
    assert base_of(repository) == named  # nothing was committed on the branch yet
    slower = commit(repository, "packages/corr-ops/src/b.py", "on the branch")
    assert base_of(repository) == left
    assert base_of(repository, "main~2") == named
    assert "left main" in str(baseline(root=repository, named=repository / "bench" / "baseline"))
    commit(repository, "bench/baseline", slower)
    assert base_of(repository) == slower  # on purpose


def test_a_clone_looks_at_the_main_it_was_cloned_from(repository: Path, tmp_path: Path) -> None:
    left = git(repository, "rev-parse", "HEAD")
    git(tmp_path, "clone", "repository", "clone")
    commit(tmp_path / "clone", "packages/corr-ops/src/b.py", "not pushed yet")
    assert base_of(tmp_path / "clone") == left


def test_without_history_it_says_so(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--depth", "1", f"file://{repository}", "shallow")
    with pytest.raises(NoBaseline, match="of bench/baseline is not in this clone; this clone is shallow"):
        base_of(tmp_path / "shallow")
    export = repository / "export"
    export.mkdir()
    with pytest.raises(NoBaseline, match="not a checkout: the repository around them is "):
        base_of(export)
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(NoBaseline, match=r"git has no history here: .*not a git repository"):
        base_of(outside)
    with pytest.raises(ValueError, match="no commit 'nowhere'"):
        base_of(repository, "nowhere")


def test_only_what_is_installed_counts_as_changed(repository: Path) -> None:
    assert not changed("HEAD", ["corr-ops", "video-data"], root=repository)
    for path in ("README.md", "tests/test_b.py", "tools/b.py"):
        commit(repository, f"packages/corr-ops/{path}", path)
    assert not changed("main~3", ["corr-ops"], root=repository)
    assert changed("main~4", ["corr-ops"], root=repository)
    assert not changed("main~4", ["video-data"], root=repository)
    (repository / "packages" / "video-data" / "src" / "c.py").write_text("in no commit")
    assert changed("HEAD", ["video-data"], root=repository)


def watched(monkeypatch: pytest.MonkeyPatch, *ratios: float, noise: float = 0.0) -> Iterator[float]:
    """Have pairs of processes find these ratios, one after the other; those that nobody asked for are left.

    Turns take up to three times as long at times, both of a round; noise is the scatter of the rounds.
    """
    left = iter(ratios)

    def watch(*_: object, look: Look) -> list[tuple[Turn, Turn]]:
        ratio = next(left)
        return [
            (Turn(9.0, busy * ratio * factor), Turn(9.0, busy))
            for busy in (1.0, 3.0, 1.5)
            for factor in (1 - noise, 1.0, 1 + noise)
        ]

    monkeypatch.setattr(gate, "watch", watch)
    return left


@pytest.mark.parametrize(
    ("ratios", "slower"),
    [
        ([1.10, 1.10, 1.10], True),
        ([1.30, 1.10, 1.20], True),
        ([1.00], False),
        ([0.90], False),
        ([1.10, 0.90], False),
        ([1.10, 1.10, 0.85], False),
        ([1.065] * 5, True),
        ([1.16, 1.01, 1.13, 0.85], False),  # looks of the same code on a busy machine
        ([1.05] * gate.MOST_LOOKS, None),
        ([1.35, 0.95] * (gate.MOST_LOOKS // 2), None),
    ],
)
def test_what_is_slower_has_to_be_so_with_three_pairs_of_processes(
    ratios: list[float], slower: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = watched(monkeypatch, *ratios)
    verdict = judge(Path("ops_thing.py"), Path(), Path())
    assert verdict.slower == slower
    means = [geometric_mean(ratios[:count]) for count in range(1, len(ratios) + 1)]
    assert [found.ratio for found in verdict.estimates] == pytest.approx(means)
    assert verdict.rounds == (9,) * len(ratios)
    assert list(left) == []


def test_rounds_that_scatter_need_more_looks_or_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, *[1.10] * gate.MOST_LOOKS, noise=0.08)
    verdict = judge(Path("ops_thing.py"), Path(), Path())
    assert verdict.slower and len(verdict.estimates) > gate.LOOKS
    left = watched(monkeypatch, *[1.10] * gate.MOST_LOOKS, noise=0.3)
    verdict = judge(Path("ops_thing.py"), Path(), Path())
    assert verdict.slower is None and "too busy" in verdict.words
    assert list(left) == []


def test_more_looks_and_more_rounds_tell_more() -> None:
    rounds = [(Turn(1.0, ratio), Turn(1.0, 1.0)) for ratio in (0.9, 1.0, 1.0, 1.1)]
    once, longer, again = (gate.estimate(looks).error for looks in ([rounds], [rounds * 9], [rounds] * 4))
    assert once > longer > gate.PAIRS and again == pytest.approx(once / 2)


def test_where_looks_take_too_long_it_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LIMIT", 0)
    watched(monkeypatch, 1.10)
    verdict = judge(Path("ops_thing.py"), Path(), Path())
    assert verdict.slower is None and "too busy" in verdict.words and len(verdict.estimates) == 1


CASE = """
import thing

SUITE, YARDSTICK = "ops", "nothing"


def make():
    return thing.work, thing.work
"""
WORK = """
def work():
    return sum(range({}))
"""


@pytest.mark.slow
def test_work_that_doubled_is_found_in_installations(tmp_path: Path) -> None:
    case = tmp_path / "ops_sum.py"
    case.write_text(CASE)
    for name, number in (("slow", 2_000_000), ("quick", 1_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thing.py").write_text(WORK.format(number))
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    look = Look(least=5, most=20, seconds=1)
    verdict = judge(case, slow, quick, look=look)
    assert verdict.estimates[-1].ratio > 1.2 and len(verdict.estimates) >= gate.LOOKS
    assert not judge(case, quick, slow, look=look).slower
    with pytest.raises(Unavailable):
        judge(case, quick, tmp_path / "nothing", look=look)
    gate.check_runs(case, quick)
    with pytest.raises(Unavailable):
        gate.check_runs(case, tmp_path / "nothing")
    text = gate.report(
        [verdict], {1: [history.Row("c" * 40, "2026-01-01", "ops_sum", ms50=12.3, ratio50=0.5)]}
    )
    assert "| ops_sum |" in text and f"| {verdict.words} |" in text and "12.3 ms, 0.5 times" in text


@pytest.mark.slow
def test_kernels_are_taken_from_a_library_that_is_there(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(b"compiled before")
    with trees.installation_of(ROOT, compiled=library) as where:
        assert (where / trees.LIBRARY).read_bytes() == b"compiled before"
        assert {path.name for path in where.iterdir()} >= {
            "corr_ops",
            "video_data",
            "corrnet_models",
            "corrnet_train",
        }


@pytest.mark.slow
def test_pytest_benchmark_runs_the_gate_and_exact_counts() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--benchmark"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for part in (
        "bench/bench_gate.py::test_no_slower[data_loader_clips]",
        "bench/models/bench_models.py::test_counts_are_those_on_record[corrnet26]",
        "tests/test_bench_table1.py::",
    ):
        assert part in found
    assert "bench/ops/" not in found
    every = subprocess.run([*command, "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "bench/ops/bench_ops.py" in every and "bench/bench_gate.py" in every


def test_the_named_baseline_is_a_commit_of_this_repository() -> None:
    try:
        baseline()
    except NoBaseline as error:
        pytest.skip(str(error))
    assert len(gate.NAMED.read_text(encoding="utf-8").split()[0]) == 40
