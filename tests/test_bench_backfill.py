"""The backfill: which commits it takes, what it leaves out, and what becomes of one that cannot be installed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench import backfill, history
from bench.history import Row

FILES = [Path("ops_nap.py"), Path("data_nap.py")]


def git(where: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout.strip()


def test_commits_are_spread_over_those_that_touched_the_packages(tmp_path: Path) -> None:
    git(tmp_path, "init", "--initial-branch=main")
    (tmp_path / "packages").mkdir()
    commits = []
    for number in range(9):
        for path in ("packages/a.py", "README.md"):
            (tmp_path / path).write_text(str(number))
            git(tmp_path, "add", ".")
            git(tmp_path, "commit", "-m", path)
            commits += [git(tmp_path, "rev-parse", "HEAD")] if path.startswith("packages") else []
    assert backfill.chosen(2, root=tmp_path) == [commits[0], commits[8]]
    assert backfill.chosen(5, root=tmp_path) == commits[::2]
    assert backfill.chosen(100, root=tmp_path) == commits
    with pytest.raises(ValueError, match="--commits must be at least 2, got 1"):
        backfill.chosen(1, root=tmp_path)


def test_what_is_on_record_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"cpu": "here"}
    asked: list[tuple[str, list[str]]] = []

    def record(commit: str, files: list[Path], *, folder: Path, **options: Any) -> None:
        asked.append((commit, [file.stem for file in files]))
        history.add([Row(commit, "2026-01-01", file.stem) for file in files], described, folder)
        if len(asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(backfill, "machine", lambda threads: described)
    monkeypatch.setattr(backfill, "record", record)
    history.add([Row("a", "2026-01-01", "ops_nap")], described, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        backfill.backfill(["a", "b", "c"], FILES, threads=1, folder=tmp_path)
    backfill.backfill(["a", "b", "c"], FILES, threads=1, folder=tmp_path)
    assert asked == [("a", ["data_nap"]), ("b", ["ops_nap", "data_nap"]), ("c", ["ops_nap", "data_nap"])]


def test_a_commit_that_cannot_be_installed_has_rows_that_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, ["pip", "install"])

    monkeypatch.setattr(backfill, "record", record)
    monkeypatch.setattr(backfill, "date_of", lambda commit: "2026-01-01")
    backfill.backfill(["a"], FILES, threads=1, folder=tmp_path)
    (rows,) = history.read(tmp_path).values()
    assert [row.benchmark for row in rows] == ["data_nap", "ops_nap"]
    assert all("cannot be installed" in row.note for row in rows)
