"""Compares the working tree with a commit: both take turns, call by call, each with its own installation.

python -m bench.compare REF              # all benchmarks
python -m bench.compare REF ops          # those of a suite, or one by its name

A ratio above 1 means that the working tree is slower. The interval is one of 95 % for the median of the ratios. Each
suite's own tests are run first, in both, and where they fail nothing is compared.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.history import ROUNDS, benchmarks
from bench.trees import ROOT, installation_of, tree_of
from bench.turns import Player, Unavailable

PACKAGES = {"ops": "corr-ops", "models": "corrnet-models", "data": "video-data", "train": "corrnet-train"}
_RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """One benchmark in two trees.

    Attributes:
        benchmark: Its name.
        ratios: Time of the working tree divided by that of the commit, of each round.
    """

    benchmark: str
    ratios: list[float]

    @property
    def median(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return an interval for the median, by resampling the rounds."""
        draw = random.Random(0)
        medians = sorted(
            statistics.median(draw.choices(self.ratios, k=len(self.ratios))) for _ in range(_RESAMPLES)
        )
        outside = round((1 - level) / 2 * _RESAMPLES)
        return medians[outside], medians[-1 - outside]

    def __str__(self) -> str:
        low, high = self.interval()
        return (
            f"{self.benchmark}: {self.median:.3f} times ({low:.3f} to {high:.3f}, {len(self.ratios)} rounds)"
        )


def compare(
    file: Path, ours: Path | None, theirs: Path | None, *, threads: int, rounds: int = ROUNDS
) -> Comparison:
    """Time one benchmark with two installations in turns.

    Raises:
        Unavailable: It cannot run with one of them.
    """
    with ExitStack() as stack:
        players = [stack.enter_context(Player(file, where, threads=threads)) for where in (ours, theirs)]
        order = [0, 1]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for number in order:
                times[number].append(players[number].time("ours"))
            order.reverse()
    return Comparison(file.stem, [own / other for own, other in zip(*times, strict=True)])


def check_tests(tree: Path, installation: Path, suites: Sequence[str]) -> None:
    """Run the quick tests of the packages of suites.

    Raises:
        ValueError: Some fail.
    """
    for suite in suites:
        tests = tree / "packages" / PACKAGES[suite] / "tests"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", str(tests)]
        paths = os.pathsep.join(map(str, (installation, tree)))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-5:])
            raise ValueError(f"tests of {PACKAGES[suite]} fail in {tree}, so nothing is compared:\n{last}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ref", metavar="REF", help="the commit to compare with")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks or suites (default: all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-tests", action="store_true", help="do not run the tests first")
    options = parser.parse_args()
    try:
        files = benchmarks(options.names)
        with ExitStack() as stack:
            trees = [ROOT, stack.enter_context(tree_of(options.ref))]
            installations = [stack.enter_context(installation_of(tree)) for tree in trees]
            if not options.no_tests:
                suites = sorted({file.stem.partition("_")[0] for file in files})
                for tree, installation in zip(trees, installations, strict=True):
                    check_tests(tree, installation, suites)
            for file in files:
                try:
                    print(
                        compare(file, *installations, threads=options.threads, rounds=options.rounds),
                        flush=True,
                    )
                except Unavailable as error:
                    print(f"{file.stem}: {error}", flush=True)
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
