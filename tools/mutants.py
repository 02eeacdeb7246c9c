"""Say which faults the tests do not see: change one thing in a module, run the tests of the module, and again.

    python tools/mutants.py [--sample 60] [--seed 0] [--quick] [GROUP ...]

The changes are those of mutmut: another operator, a number plus one, an argument or a value that is None or left out.
mutmut itself cannot run them here: it forks a process that has used autograd. As in mutmut, code in functions is
changed, but no annotations and decorators. What else is left out changes no behavior that a test should look at: texts
(a wrong name among them fails at once), what `raise` and `warn` say, and the arguments of `cast`.

A killed mutant is noted in `.mutants.json` and not run again; remove the file to begin anew.
"""

import argparse
import contextlib
import difflib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from mutmut.mutation.mutators import mutation_operators, operator_string

ROOT = Path(__file__).parents[1]
DATA, TRAIN, OPS = "packages/video-data", "packages/corrnet-train", "packages/corr-ops"
VIDEO_DATA, CORRNET_TRAIN = f"{DATA}/src/video_data", f"{TRAIN}/src/corrnet_train"
GROUPS = {  # modules and the tests that belong to them, the fastest first
    "sampling": ([f"{VIDEO_DATA}/sampling/*.py"], [f"{DATA}/tests/sampling"]),
    "shards": (
        [f"{VIDEO_DATA}/shards/*.py"],
        [f"{DATA}/tests/packing/test_video_data_pack.py", f"{DATA}/tests/shards"],
    ),
    "loading": (
        [f"{VIDEO_DATA}/loading/*.py"],
        [f"{DATA}/tests/{name}.py" for name in ("media/test_video_data_yuv", "media/test_video_data_flow")]
        + [f"{DATA}/tests/loading"],
    ),
    "step": (
        [f"{CORRNET_TRAIN}/training/step.py"],
        [f"{TRAIN}/tests/training/test_corrnet_train_{name}.py" for name in ("step", "optim", "trainer")],
    ),
    "schedule": (
        [f"{CORRNET_TRAIN}/training/schedule.py"],
        [f"{TRAIN}/tests/training/test_corrnet_train_{name}.py" for name in ("plan", "optim", "trainer")],
    ),
    "evaluation": ([f"{CORRNET_TRAIN}/evaluation/*.py"], [f"{TRAIN}/tests/evaluation"]),
    "checkpoint": (
        [f"{CORRNET_TRAIN}/checkpoint/*.py"],
        [f"{TRAIN}/tests/checkpoint", f"{TRAIN}/tests/training/test_corrnet_train_trainer.py"],
    ),
    "derivatives": (
        [f"{OPS}/src/corr_ops/ops.py", f"{OPS}/src/corr_ops/impl/reference.py"],
        [f"{OPS}/tests/test_corr_ops_{name}.py" for name in ("gradients", "registration", "forward")],
    ),
}
NOT_CHANGED = (cst.Annotation, cst.Decorator, cst.Raise, cst.FormattedString)
NOT_CHANGED_CALLS = {"cast", "len", "isinstance", "warn", "warning"}
# What takes long to import and is not changed; a process that has it is forked for each mutant.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.utils.data",
    "pydantic",
    "av",
    "pytest",
    "fsspec",
    "yaml",
    "rich",
)
KNOWN = ROOT / ".mutants.json"


class Mutant(NamedTuple):
    """A file, what it holds and would hold."""

    path: Path
    code: str
    mutated: str

    def difference(self) -> str:
        """Return it as a diff."""
        lines = (self.code.splitlines(), self.mutated.splitlines())
        name = str(self.path.relative_to(ROOT))
        return "\n".join(difflib.unified_diff(*lines, name, name, n=0, lineterm=""))

    def digest(self) -> str:
        """Return a name for it."""
        return hashlib.sha256(self.difference().encode()).hexdigest()[:16]


class _Changes(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []
        self._depth = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, NOT_CHANGED) or (isinstance(node, cst.Call) and _name(node) in NOT_CHANGED_CALLS):
            return False
        self._depth += isinstance(node, cst.FunctionDef)
        for kind, operator in mutation_operators if self._depth else ():
            if isinstance(node, kind) and operator is not operator_string:
                self.found += [(node, changed) for changed in operator(node)]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self._depth -= isinstance(original_node, cst.FunctionDef)


def _name(call: cst.Call) -> str:
    function = call.func
    return function.attr.value if isinstance(function, cst.Attribute) else getattr(function, "value", "")


def draw(patterns: list[str], size: int, seed: int) -> tuple[list[Mutant], int]:
    """Return `size` of the mutants of files, by chance (0: all), and how many there are."""
    changes = []
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        module = cst.parse_module(path.read_text())
        module.visit(visitor := _Changes())
        changes += [(path, module, *change) for change in visitor.found]
    drawn = random.Random(seed).sample(changes, min(size, len(changes)) or len(changes))
    mutants = {}
    for path, module, node, changed in drawn:
        mutated = module.deep_replace(node, changed).code
        with contextlib.suppress(SyntaxError):
            compile(mutated, path, "exec", dont_inherit=True)
            mutants[mutated] = Mutant(path, module.code, mutated)
    return list(mutants.values()), len(changes)


def prepare(folder: str) -> None:
    """Give this process a copy of the repository in a folder, and import what mutants need."""
    global copy
    copy = Path(tempfile.mkdtemp(dir=folder))
    ignore = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignore, dirs_exist_ok=True)
    sources = [str(path) for path in copy.glob("packages/*/src")]
    os.environ |= {"PYTHONPATH": os.pathsep.join([*sources, str(copy)]), "OMP_NUM_THREADS": "1"}
    sys.path[:0] = [*sources, str(copy)]
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)


def run_tests(arguments: list[str], limit: float, *, write_bytecode: bool = False) -> tuple[bool, str]:
    """Run pytest in a fork; return whether it passed, and its last lines. A run beyond the limit has failed."""
    with tempfile.TemporaryFile("w+") as output:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir(copy)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.dont_write_bytecode = not write_bytecode
            os.environ["PYTHONDONTWRITEBYTECODE"] = "" if write_bytecode else "1"
            import pytest

            code = 3
            try:
                code = pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *arguments])
            finally:
                sys.stdout.flush()
                os._exit(code)
        deadline, status = time.monotonic() + limit, (0, 0)
        while status[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            status = os.waitpid(pid, os.WNOHANG)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if status[0] == 0:
            os.waitpid(pid, 0)
            return False, "too long"
        output.seek(0)
        return os.waitstatus_to_exitcode(status[1]) in (0, 5), output.read()[
            -2000:
        ]  # 5: no test was selected


def survives(mutant: Mutant, runs: list[list[str]], limits: list[float]) -> tuple[bool, str]:
    """Whether all runs of tests pass with a mutant, and what the last one printed."""
    target = copy / mutant.path.relative_to(ROOT)
    target.write_text(mutant.mutated)
    try:
        for arguments, limit in zip(runs, limits, strict=True):
            passed, output = run_tests(arguments, limit)
            if not passed:
                return False, output
        return True, ""
    finally:
        target.write_text(mutant.code)


def time_tests(arguments: list[str]) -> float:
    """Seconds that a run of tests takes without a mutant."""
    start = time.monotonic()
    passed, output = run_tests(arguments, 3600, write_bytecode=True)
    if not passed:
        sys.exit(f"the tests fail as they are:\n{output}")
    return time.monotonic() - start


def interval(killed: int, total: int) -> str:
    """Return the share of killed mutants and its 95 % interval (Wilson), in percent."""
    z, share = 1.96, killed / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5 / (1 + z * z / total)
    return f"{share:5.0%} ({max(0, middle - half):.0%} to {min(1, middle + half):.0%})"


def main() -> None:
    """Run the groups that are asked for and print a table of them, with the survivors above it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each group, by chance; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--quick", action="store_true", help="leave out slow tests")
    options = parser.parse_args()
    known = set(json.loads(KNOWN.read_text())) if KNOWN.exists() else set()
    table = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(options.jobs, get_context("fork"), prepare, (folder,)) as executor,
    ):
        for group in options.groups or GROUPS:
            patterns, tests = GROUPS[group]
            sample, total = draw(patterns, options.sample, options.seed)
            runs = [["-m", kind, *tests] for kind in ("not slow", "slow")[: 1 if options.quick else 2]]
            limits = [30 + 4 * executor.submit(time_tests, run).result() for run in runs]
            survivors = []
            futures = {
                executor.submit(survives, mutant, runs, limits): mutant
                for mutant in sample
                if mutant.digest() not in known
            }
            for number, future in enumerate(as_completed(futures), start=1):
                mutant = futures[future]
                if future.result()[0]:
                    survivors.append(mutant)
                    print(mutant.difference(), flush=True)
                else:
                    known.add(mutant.digest())
                    KNOWN.write_text(json.dumps(sorted(known)))
                print(f"{group}: {number} of {len(futures)}, {len(survivors)} survive", file=sys.stderr)
            killed = len(sample) - len(survivors)
            share = interval(killed, len(sample))
            table.append(f"{group:12}{total:5} mutants, {killed} of {len(sample)} killed: {share}")
    print(*table, sep="\n")


if __name__ == "__main__":
    main()
