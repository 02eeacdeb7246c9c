"""What benchmarks took at each commit, on each machine: append-only rows under bench/history/.

python -m bench.history              # measures the working tree, whose commit has to be clean, and keeps its rows
python -m bench.history REF ...      # measures commits

Rows of one machine are in one file, MACHINE.csv, and MACHINE.json describes it. Times are never compared between
machines: each row has the ratio to a yardstick that took turns with it in one process. A commit that is recorded again
on the same machine replaces its rows.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from bench.interleave import quantiles
from bench.trees import ROOT, clean_commit, commit_of, git, installation_of, tree_of
from bench.turns import CALLS, Player, Unavailable

CASES = ROOT / "bench" / "cases"
HISTORY = ROOT / "bench" / "history"
ROUNDS = 25


@dataclass(frozen=True)
class Row:
    """A benchmark at a commit.

    Attributes:
        commit: Its full name.
        date: When it was committed, ISO 8601.
        benchmark: Name of its file in `bench/cases`.
        suite: Its suite.
        yardstick: Beside what it was timed.
        rounds: Turns of each of the two.
        ms20, ms50, ms80: quantiles of its times in milliseconds.
        ratio20, ratio50, ratio80: quantiles of its time divided by that of the yardstick in the same round.
        note: Why there are no figures, where there are none.
    """

    commit: str
    date: str
    benchmark: str
    suite: str = ""
    yardstick: str = ""
    rounds: int = 0
    ms20: float = math.nan
    ms50: float = math.nan
    ms80: float = math.nan
    ratio20: float = math.nan
    ratio50: float = math.nan
    ratio80: float = math.nan
    note: str = ""


def benchmarks(names: Sequence[str] = (), folder: Path = CASES) -> list[Path]:
    """Return the files of benchmarks, of all or of those of the given names or suites (`ops`, `ops_forward_res2`).

    Raises:
        ValueError: There is none of a name.
    """
    files = sorted(file for file in folder.glob("*.py") if not file.stem.startswith("_"))
    for name in names:
        if not any(_is_named(file, name) for file in files):
            raise ValueError(f"no benchmark {name!r}; there are {', '.join(file.stem for file in files)}")
    return [file for file in files if not names or any(_is_named(file, name) for name in names)]


def _is_named(file: Path, name: str) -> bool:
    return file.stem == name or file.stem.startswith(f"{name}_")


def machine(threads: int) -> dict[str, Any]:
    """Describe this machine, as far as times depend on it."""
    info = Path("/proc/cpuinfo")
    lines = dict(
        (part.strip() for part in line.split(":", 1))
        for line in (info.read_text().splitlines() if info.exists() else [])
        if ":" in line
    )
    flags = lines.get("flags", lines.get("Features", ""))
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "flags": hashlib.sha256(flags.encode()).hexdigest()[:12],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": threads,
    }


def fingerprint(described: dict[str, Any]) -> str:
    """Return the name of a machine's files."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def measure(
    file: Path, installation: Path | None, *, threads: int, rounds: int = ROUNDS
) -> tuple[dict[str, Any], list[float], list[float]]:
    """Time a benchmark and its yardstick in turns.

    Returns:
        What the child says of itself, and the seconds of both in each round.

    Raises:
        Unavailable: It cannot run.
    """
    with Player(file, installation, threads=threads) as player:
        order = list(CALLS)
        times: dict[str, list[float]] = {call: [] for call in CALLS}
        for _ in range(rounds):
            for call in order:
                times[call].append(player.time(call))
            order.reverse()
        return player.facts, times["ours"], times["yardstick"]


def row_of(
    commit: str, date: str, file: Path, installation: Path | None, *, threads: int, rounds: int = ROUNDS
) -> Row:
    """Measure a benchmark; where it cannot run the row says why."""
    try:
        facts, ours, yardstick = measure(file, installation, threads=threads, rounds=rounds)
    except Unavailable as error:
        return Row(commit, date, file.stem, note=str(error))
    ratios = [own / other for own, other in zip(ours, yardstick, strict=True)]
    times = quantiles([1e3 * seconds for seconds in ours])
    return Row(
        commit, date, file.stem, facts["suite"], facts["yardstick"], rounds, *times, *quantiles(ratios)
    )


def read(folder: Path = HISTORY) -> dict[str, list[Row]]:
    """Return the rows on record by machine."""
    return {path.stem: _read_file(path) for path in sorted(folder.glob("*.csv"))}


def _read_file(path: Path) -> list[Row]:
    kinds = {field.name: field.type for field in fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{key: (kinds[key](cell) if cell else math.nan) if kinds[key] is float else kinds[key](cell)
                   for key, cell in line.items()})
            for line in csv.DictReader(file)
        ]  # fmt: skip


def note(described: dict[str, Any], folder: Path = HISTORY, **found: Any) -> Path:
    """Keep what describes a machine, and what was found out about it, in its file; return that."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fingerprint(described)}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **described, **found}, indent=1) + "\n", encoding="utf-8")
    return path


def add(rows: Iterable[Row], described: dict[str, Any], folder: Path = HISTORY) -> Path:
    """Keep rows of a machine, in the place of those of the same commit and benchmark."""
    path = note(described, folder).with_suffix(".csv")
    kept = {(row.commit, row.benchmark): row for row in (_read_file(path) if path.exists() else [])}
    kept |= {(row.commit, row.benchmark): row for row in rows}
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in sorted(kept.values(), key=lambda row: (row.date, row.commit, row.benchmark)):
            cells = asdict(row)
            writer.writerow({key: _cell(value) for key, value in cells.items()})
    temporary.replace(path)
    return path


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return value


def record(
    ref: str | None, files: Sequence[Path], *, threads: int, rounds: int = ROUNDS, folder: Path = HISTORY
) -> Path:
    """Measure benchmarks at a commit, None for the working tree as it is committed, and keep their rows.

    Raises:
        ValueError: There is no such commit, or the packages differ from it.
    """
    commit = clean_commit() if ref is None else commit_of(ref)
    date = date_of(commit)
    with tree_of(ref) as tree, installation_of(tree) as installation:
        rows = []
        for file in files:
            rows.append(row_of(commit, date, file, installation, threads=threads, rounds=rounds))
            print(f"{commit[:10]} {summary(rows[-1])}", flush=True)
    return add(rows, machine(threads), folder)


def date_of(commit: str) -> str:
    """Return when a commit was made, ISO 8601."""
    return git("show", "--no-patch", "--format=%cI", commit)


def summary(row: Row) -> str:
    """Return a row as a line for people."""
    if row.note:
        return f"{row.benchmark}: {row.note}"
    return (
        f"{row.benchmark}: {row.ms50:.3g} ms, {row.ratio50:.3g} times {row.yardstick} "
        f"({row.ratio20:.3g} to {row.ratio80:.3g})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("refs", nargs="*", metavar="REF", help="commits (default: the working tree's)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="benchmarks or suites")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    try:
        files = benchmarks(options.only)
        for ref in options.refs or [None]:
            record(ref, files, threads=options.threads, rounds=options.rounds)
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
