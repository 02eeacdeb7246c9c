"""Whether the working tree is slower than an earlier commit; `pytest --benchmark` asks it of every benchmark.

Both are installed and take turns, call by call. A look is a pair of fresh processes; looks are added up, and the ratio
is the least time of the working tree so far, divided by that of the commit. It counts once both least times are
settled: two halves of the turns have the same, within SETTLED. Above 1 + MARGIN after at least LOOKS looks is slower,
below it after any is not. Least times, without the time that other programs took, change little with what else a
machine does; docs/decisions/bench-gate.md has what this rule finds and how often it errs.
"""

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from bench import history
from bench.tables import number, table
from bench.trees import ROOT, commit_of, git, installation_of, tree_of
from bench.turns import Player, Turn
from corr_ops.impl.cpu import library

MARGIN, SETTLED = 0.04, 0.02
LOOKS, MOST_LOOKS = 3, 6
LIMIT = 35  # seconds after which a benchmark gets no further look
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
    most: int = 100
    seconds: float = 6


@dataclass(frozen=True)
class Verdict:
    """What the gate found of one benchmark.

    Attributes:
        benchmark: Its name.
        ms: Least time of the working tree, in milliseconds.
        ratios: The ratio after each look.
        rounds: Rounds of each look.
        is_settled: Whether the last ratio counts; where it does not, the machine was too busy to tell.
    """

    benchmark: str
    ms: float
    ratios: tuple[float, ...]
    rounds: tuple[int, ...]
    is_settled: bool

    @property
    def is_slower(self) -> bool:
        """Whether the working tree is slower."""
        return self.is_settled and self.ratios[-1] > 1 + MARGIN

    @property
    def words(self) -> str:
        """What was found, for people."""
        if not self.is_settled:
            return "no telling, the machine is too busy"
        return "slower" if self.is_slower else "no slower"


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
    own: list[float] = []
    other: list[float] = []
    ratios: list[float] = []
    rounds: list[int] = []
    end = monotonic() + LIMIT
    while True:
        turns = watch(file, ours, theirs, look=look)
        own += [turn.own for turn, _ in turns]
        other += [turn.own for _, turn in turns]
        ratios.append(min(own) / min(other))
        rounds.append(len(turns))
        enough = LOOKS if ratios[-1] > 1 + MARGIN else 1
        settled = is_settled(own) and is_settled(other)
        decided = settled and len(ratios) >= enough
        if decided or len(ratios) == MOST_LOOKS or monotonic() > end:
            return Verdict(file.stem, 1e3 * min(own), tuple(ratios), tuple(rounds), decided)


def check_runs(file: Path, installation: Path) -> None:
    """Take a turn of a benchmark with one installation.

    Raises:
        Unavailable: It cannot run with it.
    """
    with Player(file, installation, threads=THREADS) as player:
        player.take("ours")


def is_settled(seconds: Sequence[float]) -> bool:
    """Return whether two halves of turns, every second one, have the same least time."""
    halves = min(seconds[::2]), min(seconds[1::2])
    return max(halves) <= (1 + SETTLED) * min(halves)


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
    header = ["benchmark", "ms", "ratio", "rounds", "verdict", "on record here"]
    rows = [
        [
            verdict.benchmark,
            number(verdict.ms),
            ", ".join(f"{ratio:.3f}" for ratio in verdict.ratios),
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
