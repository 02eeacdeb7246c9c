"""Measures commits spread over the life of the repository and keeps their rows, as bench.history does for single ones.

python -m bench.backfill --commits 12

It takes commits that touched the packages, the first and the last among them, evenly by their number. Those that are on
record for this machine are left out, so that it can be stopped and started again. A commit that cannot be installed
or run has rows that say why; `python -m bench.history COMMIT` tries it again.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.history import HISTORY, ROUNDS, Row, add, benchmarks, date_of, fingerprint, machine, read, record
from bench.trees import ROOT, git


def chosen(number: int, *, root: Path = ROOT) -> list[str]:
    """Return full names of so many commits that touched the packages, the oldest first; all, where there are fewer.

    Raises:
        ValueError: The number is less than 2.
    """
    if number < 2:
        raise ValueError(f"--commits must be at least 2, got {number}")
    commits = git("rev-list", "--first-parent", "--reverse", "HEAD", "--", "packages", cwd=root).split()
    number = min(number, len(commits))
    return [commits[round(place * (len(commits) - 1) / max(1, number - 1))] for place in range(number)]


def missing(commit: str, files: Iterable[Path], rows: Iterable[Row]) -> list[Path]:
    """Return the benchmarks that have no row for a commit."""
    present = {row.benchmark for row in rows if row.commit == commit}
    return [file for file in files if file.stem not in present]


def backfill(
    commits: Sequence[str],
    files: Sequence[Path],
    *,
    threads: int,
    rounds: int = ROUNDS,
    folder: Path = HISTORY,
) -> None:
    """Measure commits where they are not on record; each is kept as soon as it is measured."""
    described = machine(threads)
    for number, commit in enumerate(commits, 1):
        left = missing(commit, files, read(folder).get(fingerprint(described), []))
        print(f"commit {number} of {len(commits)}, {commit[:10]}: {len(left)} benchmarks to run", flush=True)
        if not left:
            continue
        try:
            record(commit, left, threads=threads, rounds=rounds, folder=folder)
        except subprocess.CalledProcessError as error:
            note = f"it cannot be installed: {error}"
            print(f"{commit[:10]} {note}", flush=True)
            add([Row(commit, date_of(commit), file.stem, note=note) for file in left], described, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--commits", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="benchmarks or suites")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    try:
        files = benchmarks(options.only)
        backfill(chosen(options.commits), files, threads=options.threads, rounds=options.rounds)
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
