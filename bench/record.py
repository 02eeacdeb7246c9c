"""Runs benchmarks in full and keeps their rows in bench/results/.

python -m bench.record                  # all
python -m bench.record training_step    # one: ops, training_step, data, train
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.trees import clean_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
SUITES = {
    "ops": "bench/ops",
    "training_step": "bench/models/bench_training_step.py",
    "data": "bench/data",
    "train": "bench/train",
}


def run(name: str) -> list[dict[str, Any]]:
    """Run a suite in full and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "benchmark.json")
        command = [sys.executable, "-m", "pytest", "--benchmark", SUITES[name], f"--benchmark-json={report}"]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "CORR_OPS_BENCHMARK": "full"})
        benchmarks = json.loads(report.read_text())["benchmarks"]
    return [row for benchmark in benchmarks for row in benchmark["extra_info"].get(name, [])]


def write(name: str, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{v:.5g}" if isinstance(v, float) else v for key, v in row.items()})


def read(name: str) -> list[dict[str, Any]]:
    """Return the rows on record, numbers as numbers and empty cells left out; none where there is no record."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: _parse(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]


def _parse(cell: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(cell)
        except ValueError:
            pass
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="name", help="ops, training_step, data, train (default: all)"
    )
    names = parser.parse_args().names or list(SUITES)
    if unknown := set(names) - set(SUITES):
        parser.error(f"unknown: {sorted(unknown)}; there are {list(SUITES)}")
    try:
        commit = clean_commit()
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name in names:
        write(name, [{**row, "commit": commit} for row in run(name)])


if __name__ == "__main__":
    main()
