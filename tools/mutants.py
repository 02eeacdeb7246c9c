"""Say which faults the tests do not see: change one thing in a module, run the tests of the module, and again.

    python tools/mutants.py [--sample 60] [--seed 0] [--quick] [GROUP ...]

The changes are those of mutmut: another operator, a number plus one, an argument or a value that is None or left out.
mutmut's own command knows one package and leaves out decorated functions. As there, code in functions is changed,
but no annotations and decorators. What else is left out changes no behavior that a test should look at: texts (a wrong
name among them fails at once), what `raise` and `warn` say, the arguments of `cast`, and whether `zip` is strict.

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
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from mutmut.mutation.mutators import mutation_operators, operator_string

ROOT = Path(__file__).parents[1]
MODULES = {  # of a group, and the tests that belong to them: in `tests` of the package, the fastest first
    "sampling": {"video_data/sampling/*.py": "sampling"},
    "shards": {
        "video_data/shards/verify.py": "shards/test_video_data_verify.py",
        "video_data/shards/inspect.py": "shards/test_video_data_inspection.py",
        "video_data/shards/thumbnails.py": "shards/test_video_data_inspection.py",
        "video_data/shards/untrusted_tar.py": "shards/test_video_data_tars.py integrations",
        "video_data/shards/_remote.py": "shards/test_video_data_remote*.py shards/test_video_data_verify.py",
        "video_data/shards/format.py": "packing/test_video_data_pack.py shards media/test_video_data_flow.py",
        "video_data/shards/reader.py": "packing/test_video_data_pack.py shards media/test_video_data_flow.py",
    },
    "loading": {
        "video_data/loading/live.py": "loading/test_video_data_live.py",
        "video_data/loading/[!l]*.py": "media/*_yuv.py media/*_flow.py media/*_robust.py loading",
    },
    "step": {
        "corrnet_train/training/step.py": "training/*_step*.py training/*_opti*.py training/*_trainer.py",
    },
    "schedule": {"corrnet_train/training/schedule.py": "training/*_schedule.py training/*_plan.py"},
    "evaluation": {
        "corrnet_train/evaluation/accuracy.py": "evaluation/*_accuracy.py",
        "corrnet_train/evaluation/evaluate.py": "evaluation inference/*_inference.py training/*_trainer.py",
        "corrnet_train/evaluation/journal.py": "evaluation utils/*_journal*.py",
    },
    "checkpoint": {
        "corrnet_train/checkpoint/*.py": "checkpoint training/test_corrnet_train_trainer.py distributed"
    },
    "derivatives": {
        "corr_ops/ops.py": "test_corr_ops_gradients.py test_corr_ops_registration.py test_corr_ops_support.py",
        "corr_ops/impl/reference.py": "test_corr_ops_forward.py test_corr_ops_gradients.py",
    },
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
    """A file, what it holds and would hold, and its tests."""

    path: Path
    code: str
    mutated: str
    tests: tuple[str, ...]

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
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict":
            return False
        if isinstance(node, cst.Call) and _name(node) == "zip":
            return True
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


def draw(modules: dict[str, str], size: int, seed: int) -> tuple[list[Mutant], int]:
    """Return `size` of the mutants of modules, by chance (0: all), and how many there are."""
    changes = []
    for pattern, tests in modules.items():
        for path in sorted(ROOT.glob(f"packages/*/src/{pattern}")):
            module = cst.parse_module(path.read_text())
            module.visit(visitor := _Changes())
            folder = path.relative_to(ROOT).parents[-3] / "tests"
            found = (sorted(ROOT.glob(str(folder / name))) for name in tests.split())
            paths = tuple(str(test.relative_to(ROOT)) for some in found for test in some)
            changes += [(path, module, paths, *change) for change in visitor.found]
    drawn = random.Random(seed).sample(changes, min(size, len(changes)) or len(changes))
    mutants = {}
    for path, module, paths, node, changed in drawn:
        mutated = module.deep_replace(node, changed).code
        with contextlib.suppress(SyntaxError):
            compile(mutated, path, "exec", dont_inherit=True)
            mutants[mutated] = Mutant(path, module.code, mutated, paths)
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


def survives(mutant: Mutant, kinds: list[str], limits: dict[tuple[str, ...], list[float]]) -> bool:
    """Whether the tests of all kinds pass with a mutant."""
    target = copy / mutant.path.relative_to(ROOT)
    target.write_text(mutant.mutated)
    try:
        return all(
            run_tests(["-m", kind, *mutant.tests], limit)[0]
            for kind, limit in zip(kinds, limits[mutant.tests], strict=True)
        )
    finally:
        target.write_text(mutant.code)


def find_limits(tests: tuple[str, ...], kinds: list[str]) -> list[float]:
    """Return seconds within which the tests of each kind must end, from the time they take without a mutant."""
    limits = []
    for kind in kinds:
        start = time.monotonic()
        passed, output = run_tests(["-m", kind, *tests], 3600, write_bytecode=True)
        if not passed:
            sys.exit(f"the tests fail as they are:\n{output}")
        limits.append(30 + 4 * (time.monotonic() - start))
    return limits


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
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each group, by chance; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--quick", action="store_true", help="leave out slow tests")
    options = parser.parse_args()
    known = set(json.loads(KNOWN.read_text())) if KNOWN.exists() else set()
    kinds = ["not slow"] if options.quick else ["not slow", "slow"]
    table = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(options.jobs, get_context("fork"), prepare, (folder,)) as executor,
    ):
        for group in options.groups or MODULES:
            sample, total = draw(MODULES[group], options.sample, options.seed)
            left = [mutant for mutant in sample if mutant.digest() not in known]
            tests = list({mutant.tests for mutant in left})
            limits = dict(zip(tests, executor.map(partial(find_limits, kinds=kinds), tests), strict=True))
            futures = {executor.submit(survives, mutant, kinds, limits): mutant for mutant in left}
            survivors = 0
            for number, future in enumerate(as_completed(futures), start=1):
                mutant = futures[future]
                if future.result():
                    survivors += 1
                    print(mutant.difference(), flush=True)
                else:
                    known.add(mutant.digest())
                    KNOWN.write_text(json.dumps(sorted(known)))
                print(f"{group}: {number} of {len(left)}, {survivors} survive", file=sys.stderr)
            killed = len(sample) - survivors
            share = interval(killed, len(sample))
            table.append(f"{group:12}{total:5} mutants, {killed} of {len(sample)} killed: {share}")
    print(*table, sep="\n")


if __name__ == "__main__":
    main()
