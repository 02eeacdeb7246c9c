"""Whether the working tree is slower than an earlier commit; `pytest --benchmark` asks it of every benchmark.

Both are installed and take turns, call by call. A look is a pair of fresh processes; its ratio is the median of those
of its rounds, because what slows one turn slows the next as well. The mean over the looks so far is slower when it is
above 1 + MARGIN by more than twice its standard error, after at least LOOKS looks, and no slower when it is below by as
much. Looks may differ by more than their rounds tell: to be slower takes the standard error that they show, too.
docs/decisions/bench-gate.md has what this rule finds and how often it errs.
"""

import math
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from time import monotonic
from typing import NamedTuple

import torch

from bench import history
from bench.tables import number, table
from bench.trees import ROOT, commit_of, git, installation_of, tree_of
from bench.turns import Player, Turn
from corr_ops.impl.cpu import library

MARGIN = 0.05
LOOKS, MOST_LOOKS = 3, 6
LIMIT = 70  # seconds after which a benchmark gets no further look
PAIRS = 0.015  # standard deviation of what two processes of the same code differ by as long as they live
THREADS = 1
NAMED = ROOT / "bench" / "baseline"
# What a benchmark of a suite runs: where none of it has changed, nothing can have become slower.
PACKAGES = {
    "ops": ("corr-ops",),
    "models": ("corr-ops", "corrnet-models"),
    "data": ("video-data",),
    "train": ("corr-ops", "corrnet-models", "video-data", "corrnet-train"),
}


class NoBaseline(Exception):
    """There is nothing to compare with; the message says why."""


@dataclass(frozen=True)
class Baseline:
    """A commit to compare with.

    Attributes:
        commit: Its full name.
        why: Why this one.
    """

    commit: str
    why: str

    def __str__(self) -> str:
        return f"{self.commit[:10]} ({self.why})"


@dataclass(frozen=True)
class Look:
    """How long a pair of processes is watched.

    Attributes:
        least, most: Rounds.
        seconds: After which it ends, with at least the least rounds.
    """

    least: int = 20
    most: int = 400
    seconds: float = 8


class Estimate(NamedTuple):
    """How much longer ours takes than theirs, by the looks so far.

    Attributes:
        ratio: The ratio.
        error: Standard error of its logarithm, by the scatter of rounds.
        scatter: The same by the scatter of looks; of one look 0.
    """

    ratio: float
    error: float
    scatter: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What the gate found of one benchmark.

    Attributes:
        benchmark: Its name.
        ms: Median of the working tree, in milliseconds.
        estimates: What was known after each look.
        rounds: Rounds of each look.
        slower: Whether the working tree is slower; None where the machine was too busy to tell.
    """

    benchmark: str
    ms: float
    estimates: tuple[Estimate, ...]
    rounds: tuple[int, ...]
    slower: bool | None

    @property
    def words(self) -> str:
        """What was found, for people."""
        return {True: "slower", False: "no slower", None: "no telling, the machine is too busy"}[self.slower]


LOOK = Look()


def baseline(ref: str | None = None, *, root: Path = ROOT, named: Path = NAMED) -> Baseline:
    """Return what to compare with: `ref`, or what the file names if that is later than where this branch left main.

    On main itself that is always what the file names. A branch names a commit of its own where it is slower on purpose.

    Raises:
        NoBaseline: This is no repository, or not its whole history.
        ValueError: There is no commit `ref`.
    """
    try:
        top = git("rev-parse", "--show-toplevel", cwd=root)
        head = git("rev-parse", "HEAD", cwd=root)
        shallow = git("rev-parse", "--is-shallow-repository", cwd=root) == "true"
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise NoBaseline(f"git has no history here: {' '.join(said.split())}") from None
    if Path(top).resolve() != root.resolve():
        raise NoBaseline(f"these files are not a checkout: the repository around them is {top}")
    if ref is not None:
        return Baseline(commit_of(ref, cwd=root), f"named as {ref}")
    name = named.read_text(encoding="utf-8").split()[0]
    try:
        accepted = Baseline(commit_of(name, cwd=root), f"named in {named.relative_to(root)}")
    except ValueError:
        whole = "; this clone is shallow" if shallow else ""
        raise NoBaseline(
            f"the commit {name} of {named.relative_to(root)} is not in this clone{whole}"
        ) from None
    for main in ("origin/main", "main"):
        with suppress(subprocess.CalledProcessError):
            base = git("merge-base", "HEAD", main, cwd=root)
            later = git("rev-list", f"{base}..{accepted.commit}", cwd=root) != ""
            return accepted if later or base == head else Baseline(base, f"where this branch left {main}")
    return accepted


def changed(commit: str, packages: Sequence[str], *, below: str = "", root: Path = ROOT) -> bool:
    """Return whether what packages install differs from a commit, changes that are in no commit included."""
    paths = [f"packages/{package}/{below}" for package in packages]
    paths += [f":(exclude,glob)packages/*/{name}" for name in ("tests/**", "tools/**", "*.md")]
    new = git("ls-files", "--others", "--exclude-standard", "--", *paths, cwd=root)
    return bool(new or git("diff", "--name-only", commit, "--", *paths, cwd=root))


@contextmanager
def installations(commit: str) -> Iterator[tuple[Path, Path]]:
    """Enter a block with the packages of the working tree and those of a commit, installed.

    Kernels are compiled, which takes most of the time, only where no library of the same sources is there.
    """
    current = built()
    same = not changed(commit, ["corr-ops"], below="src/corr_ops/impl/cpu")
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        tree = stack.enter_context(tree_of(commit))
        installing = [
            installation_of(ROOT, compiled=current),
            installation_of(tree, compiled=current if same else None),
        ]
        ours, theirs = pool.map(stack.enter_context, installing)
        yield ours, theirs


def built() -> Path | None:
    """Return the library of kernels of the working tree, None where it is missing or older than its sources."""
    path = library.path()
    return path if path.is_relative_to(ROOT) and library.unavailable() is None else None


def judge(file: Path, ours: Path, theirs: Path, *, look: Look = LOOK) -> Verdict:
    """Say whether a benchmark is slower in our installation than in theirs.

    Raises:
        Unavailable: It cannot run with one of them.
    """
    looks: list[list[tuple[Turn, Turn]]] = []
    estimates: list[Estimate] = []
    end = monotonic() + LIMIT
    while True:
        looks.append(watch(file, ours, theirs, look=look))
        estimates.append(estimate(looks))
        slower = is_slower(estimates[-1], len(looks))
        if slower is not None or len(looks) == MOST_LOOKS or monotonic() > end:
            ms = 1e3 * median(turn.own for turns in looks for turn, _ in turns)
            return Verdict(file.stem, ms, tuple(estimates), tuple(map(len, looks)), slower)


def estimate(looks: Sequence[Sequence[tuple[Turn, Turn]]]) -> Estimate:
    """Return what looks say together: the mean of their medians, all in logarithms.

    The standard error of a median is 1.25 times that of a mean, and 1.48 median deviations are a standard deviation,
    if rounds scatter as a normal distribution does.
    """
    medians, variances = [], []
    for turns in looks:
        ratios = [math.log(ours.own / theirs.own) for ours, theirs in turns]
        medians.append(median(ratios))
        deviation = median(abs(ratio - medians[-1]) for ratio in ratios)
        variances.append(PAIRS**2 + (1.25 * 1.48 * deviation) ** 2 / len(ratios))
    return Estimate(
        math.exp(fmean(medians)), math.sqrt(fmean(variances) / len(looks)), standard_error(medians)
    )


def standard_error(looks: Sequence[float]) -> float:
    """Return the standard error of the mean of several looks, by their scatter; of one look 0."""
    return stdev(looks) / math.sqrt(len(looks)) if len(looks) > 1 else 0.0


def is_slower(found: Estimate, looks: int) -> bool | None:
    """Return whether so many looks show that ours is slower; None where they do not tell."""
    if found.ratio * math.exp(2 * found.error) < 1 + MARGIN:
        return False
    least = found.ratio / math.exp(2 * max(found.error, found.scatter))
    return True if least > 1 + MARGIN and looks >= LOOKS else None


def check_runs(file: Path, installation: Path) -> None:
    """Take a turn of a benchmark with one installation.

    Raises:
        Unavailable: It cannot run with it.
    """
    with Player(file, installation, threads=THREADS) as player:
        player.take("ours")


def watch(file: Path, ours: Path, theirs: Path, *, look: Look = LOOK) -> list[tuple[Turn, Turn]]:
    """Let two fresh processes take turns; return what each took in each round.

    Raises:
        Unavailable: It cannot run with one of them.
    """
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(Player, file, where, threads=THREADS) for where in (ours, theirs)]
        players = [stack.enter_context(player.result()) for player in starting]
        turns: list[tuple[Turn, Turn]] = []
        end = monotonic() + look.seconds
        while len(turns) < look.least or (len(turns) < look.most and monotonic() < end):
            order = (0, 1) if len(turns) % 2 else (1, 0)  # neither always comes after the other
            taken = {player: players[player].take("ours") for player in order}
            turns.append((taken[0], taken[1]))
        return turns


def report(verdicts: Sequence[Verdict], recorded: dict[int, list[history.Row]]) -> str:
    """Return a table of what was found, beside the last rows of this machine's history."""
    header = ["benchmark", "ms", "ratio", "±", "rounds", "verdict", "on record here"]
    rows = [
        [
            verdict.benchmark,
            number(verdict.ms),
            ", ".join(f"{estimate.ratio:.3f}" for estimate in verdict.estimates),
            f"{2 * max(verdict.estimates[-1][1:]):.3f}",
            ", ".join(map(str, verdict.rounds)),
            verdict.words,
            _on_record(verdict, recorded),
        ]
        for verdict in verdicts
    ]
    return table(header, rows)


def _on_record(verdict: Verdict, recorded: dict[int, list[history.Row]]) -> str:
    for threads, rows in recorded.items():
        own = [row for row in rows if row.benchmark == verdict.benchmark and not row.note]
        if own:
            last = own[-1]
            ratio = f"{number(last.ratio50)} times {last.yardstick}"
            return f"{number(last.ms50)} ms, {ratio}, {threads} threads, {last.commit[:10]}"
    return "-"


def recorded_here() -> dict[int, list[history.Row]]:
    """Return the rows of this machine by number of threads, those of the gate first."""
    rows = history.read()
    names = {
        count: history.fingerprint(history.machine(count)) for count in (THREADS, torch.get_num_threads())
    }
    return {count: rows[name] for count, name in names.items() if name in rows}
