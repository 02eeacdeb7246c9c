"""Kills training runs at random moments, resumes them and compares how they end with runs that were left alone.

    python packages/corrnet-train/tools/kills.py --kills 100 --signal KILL --processes 1,2,4 --parallel ddp,fsdp

Runs are real ones: `corrnet train` for one process, torchrun for several and for fsdp. Each combination trains once
undisturbed, which gives the end to compare with and the time within which moments are drawn. Each kill has a line when
it is over; what should not be is marked FINDING, and ends the tool with status 1 after all kills. Linux only.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from corrnet_train.checkpoint.state import Checkpoint

MARK = "CORRNET_KILLS_RUN"  # an environment variable, by which all processes of a run are found
TORCHRUN = b"torch.distributed.run"
STEPS, EVAL_STEPS, SAVE_STEPS, KEEP_STEPS = 40, 10, 7, 15
CLIPS, BATCH = 40, 8  # training videos, and clips of a step
GRACE = 15  # seconds that other processes have to end after the one that was started, beside those of a start
TIMED = ("clips_per_second", "mfu", "data_wait", "checkpoint_stall", "memory_gib")
COMPARED = ("model", "ema", "optimizer", "loader", "rng", "step", "best_top1")


class Process(NamedTuple):
    """A process of a run; `kind` is main, torchrun, rank, worker or helper."""

    pid: int
    group: int
    kind: str


@dataclass
class Combination:
    """A way of training, and what came of its kills."""

    processes: int
    parallel: str
    overrides: list[str]
    seconds: float = 0.0  # of the undisturbed run
    startup: float = 0.0  # the part of it before training
    longest: float = 0.0  # seconds from a signal to the end of all processes
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """How lines of the report call it."""
        return f"{self.parallel}-{self.processes}"

    @property
    def launched(self) -> bool:
        """Whether torchrun starts it."""
        return self.processes > 1 or self.parallel == "fsdp"

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start or continue training in `folder`; the output goes to a file beside it."""
        torchrun = ["-m", TORCHRUN.decode(), "--standalone", f"--nproc-per-node={self.processes}"]
        train = ["-m", "corrnet_train.cli", "train", "motionbench", *self.overrides, f"run.dir={folder}"]
        with folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *(torchrun if self.launched else []), *train, "--requeue"],
                env=os.environ | {"OMP_NUM_THREADS": "1", MARK: f"{folder}/"},
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip


def processes_of(folder: Path) -> list[Process]:
    """Return the living processes of all runs in a folder."""
    parents, groups, commands, ranks = {}, {}, {}, set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is gone by now
            environment = b"\0" + (entry / "environ").read_bytes()
            state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (entry / "cmdline").read_bytes()
            if f"\0{MARK}={folder}/".encode() in environment and state != "Z":
                pid = int(entry.name)
                parents[pid], groups[pid], commands[pid] = int(parent), int(group), command
                if b"\0LOCAL_RANK=" in environment:
                    ranks.add(pid)

    def kind(pid: int) -> str:
        command, above = commands[pid], commands.get(parents[pid], TORCHRUN)
        if TORCHRUN in command:
            return "torchrun"
        if b"corrnet_train.cli" in command and TORCHRUN in above:
            return "rank" if pid in ranks else "main"
        serves = b"forkserver" in command and b"forkserver" not in above
        return "helper" if serves or b"resource_tracker" in command else "worker"

    return [Process(pid, group, kind(pid)) for pid, group in groups.items()]


def send(number: int, alive: list[Process], rng: random.Random) -> str:
    """Send a signal to a random victim: a process, the group of one that trains, or all at once; returns which."""
    victims: dict[str, list[list[Process]]] = {"tree": [alive]} if alive else {"nobody": [[]]}
    for process in alive:
        victims.setdefault(process.kind, []).append([process])
        if process.kind in ("main", "rank"):
            members = [other for other in alive if other.group == process.group]
            victims.setdefault("group", []).append(members)
    victim = rng.choice(sorted(victims))
    for process in rng.choice(victims[victim]):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
    return victim


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics, without what depends on time."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def state_of(folder: Path, started: float) -> tuple[str, int]:
    """Return what a run is doing, as far as its files tell, and the last step in its log."""
    lines = metrics_of(folder)
    step = lines[-1]["step"] if lines else 0
    if not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").stat().st_mtime < started:
        return "startup", 0
    if list((folder / "checkpoints").glob(".*.tmp")):
        return "checkpoint", step
    evaluates = lines and lines[-1]["kind"] == "train" and step % EVAL_STEPS == 0
    return "evaluation" if evaluates else "training", step


def saved_step(folder: Path) -> int:
    """Return the step of the last checkpoint, 0 where there is none."""
    last = folder / "checkpoints" / "last.pt"
    return Checkpoint.load(last).step if last.exists() else 0


def wait_for_end(root: subprocess.Popen[bytes], folder: Path, limit: float, grace: float) -> list[str]:
    """Wait until all processes of a run are gone, and end those that stay; returns findings."""
    findings = []
    with suppress(subprocess.TimeoutExpired):
        root.wait(limit)
    until = time.monotonic() + (0 if root.poll() is None else grace)
    while (left := processes_of(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    if left:
        who = ", ".join(f"{process.kind} {process.pid}" for process in left)
        findings.append(f"hangs: {who}" if root.poll() is None else f"orphans after {grace:.0f} s: {who}")
    with folder.with_suffix(".log").open("ab") as log:
        for process in left:
            if shutil.which("py-spy"):
                subprocess.run(["py-spy", "dump", "--pid", str(process.pid)], stdout=log, stderr=log)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    root.wait()
    return findings


def judge(
    combination: Combination, name: str, victim: str, phase: str, code: int, step: int, after: int
) -> Iterator[str]:
    """Return what is wrong about how a run ended after a signal in `step`, with a checkpoint of step `after`."""
    spared = victim in ("worker", "helper")  # without which a run may go on
    if code == 0 and after < STEPS:
        yield "exit code 0 before the last step"
    if name == "KILL" and code == 0 and not spared:
        yield "exit code 0 after SIGKILL"
    if name == "TERM" and not combination.launched and code:
        nothing_to_save = phase == "startup" or after == STEPS
        allowed = {130, 1} if spared else {130, -signal.SIGTERM, 143} if nothing_to_save else {130}
        if code not in allowed:
            yield f"exit code {code}, not 130"
    if (name == "TERM" or victim == "worker") and after < step:
        yield f"step {step} was not saved"
    if victim == "torchrun" and code and after == STEPS > step + EVAL_STEPS:
        yield "trained on without torchrun"


def attempt(combination: Combination, folder: Path, name: str | None, rng: random.Random) -> bool | None:
    """Start or continue a run and send it a signal, none if `name` is; returns whether it is over, None if broken."""
    before, started, log = saved_step(folder), time.time(), folder.with_suffix(".log")
    name = name if before < STEPS else None  # after the last step there is little to disturb
    expected = combination.startup + (combination.seconds - combination.startup) * (1 - before / STEPS)
    moment = rng.uniform(rng.choice([0.05, combination.startup]), expected)  # one of two while it trains
    root = combination.start(folder)
    logged, victim, phase, step = log.stat().st_size, "nobody", "end", 0
    limit = 60 + 3 * combination.seconds
    with suppress(subprocess.TimeoutExpired):
        root.wait(moment if name else limit)
    if root.poll() is None and name:
        alive = processes_of(folder)
        phase, step = state_of(folder, started)
        victim = send(signal.Signals[f"SIG{name}"], alive, rng)
    sent = time.monotonic()
    findings = wait_for_end(root, folder, limit, GRACE + combination.startup)
    seconds, code = time.monotonic() - sent, root.returncode
    try:
        after = saved_step(folder)
    except ValueError as error:
        after, findings = -1, [*findings, str(error)]
    output = log.read_bytes()[logged:]
    if after < before:
        findings.append(f"the checkpoint was of step {before} before")
    if victim == "nobody":
        findings += [f"ends with exit code {code} by itself"] if code else []
        if name and not code and before == 0:  # the machine is less busy than it was
            combination.seconds = min(combination.seconds, time.time() - started)
    else:
        findings += judge(combination, name or "", victim, phase, code, step, after)
        combination.counts.update(["kills", phase, victim])
        combination.longest = max(combination.longest, seconds)
    if b"this is a bug in corrnet" in output or (b"Traceback" in output and not combination.launched):
        findings.append("shows a traceback")
    line = (
        f"{folder.parent.name}/{folder.name}: {moment:5.1f} s {phase:10} step {step:2}, {name} to {victim:8} "
    )
    report(combination, line + f"-> exit {code}, {seconds:.1f} s, saved step {after}", findings, output)
    return None if after < 0 or (victim == "nobody" and code) else code == 0


def report(combination: Combination, line: str, findings: list[str], output: bytes = b"") -> None:
    """Print a line, and what was found with the last messages of the output."""
    combination.counts["findings"] += len(findings)
    lines = output.decode(errors="replace").splitlines()
    telling = [line for line in lines if line.startswith(("error:", "stopped"))] or lines
    said = [f"    | {line}" for line in telling[-3:]] if findings else []
    print("\n".join([line, *(f"    FINDING {finding}" for finding in findings), *said]), flush=True)


def differences(one: Any, other: Any, name: str) -> Iterator[str]:
    """Return the names of values that are not equal to the bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not torch.equal(one, other):
            yield name
    elif one != other:
        yield name if isinstance(one, dict | list) else f"{name} {one} {other}"


def end_of(folder: Path) -> dict[str, Any]:
    """Return all of a finished run that must not depend on kills."""
    last, best = (Checkpoint.load(folder / "checkpoints" / name) for name in ("last.pt", "best.pt"))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return {name: getattr(last, name) for name in COMPARED} | {
        "best": [best.step, best.model, best.ema],
        "metrics": metrics_of(folder),
        "names": [name for name in names if not name.startswith("shards-")],
    }


def measure(combination: Combination, folder: Path) -> dict[str, Any]:
    """Train undisturbed; returns how the run ends."""
    folder.parent.mkdir()
    start = time.monotonic()
    root = combination.start(folder)
    while not (folder / "metrics.jsonl").exists() and root.poll() is None:
        time.sleep(0.1)
    combination.startup = time.monotonic() - start
    if root.wait():
        raise SystemExit(f"{combination.name} fails undisturbed: see {folder.with_suffix('.log')}")
    combination.seconds = time.monotonic() - start
    took = f"{combination.seconds:.1f} s undisturbed, {combination.startup:.1f} of them to start"
    print(f"{combination.name}: {took}", flush=True)
    return end_of(folder)


def kill_runs(combination: Combination, base: Path, kills: int, name: str, seed: int) -> None:
    """Train again and again until there were `kills` kills, and compare each run that ends."""
    rng = random.Random(f"{seed} {combination.name}")
    expected = measure(combination, base / combination.name / "undisturbed")
    number = 0
    while combination.counts["kills"] < kills:
        number += 1
        folder = base / combination.name / f"{number}"
        over: bool | None = False
        while over is False:
            over = attempt(combination, folder, name if combination.counts["kills"] < kills else None, rng)
        if over:
            combination.counts["compared"] += 1
            try:
                found = list(differences(expected, end_of(folder), "run"))
            except (OSError, ValueError) as error:
                found = [str(error)]
            line = f"{combination.name}/{number}: " + ("differs" if found else "equal to the bit")
            report(combination, line, found[:5])


def main() -> int:
    """Run as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of all combinations together")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--processes", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--parallel", default="ddp", help="ddp, fsdp or both, with a comma")
    parser.add_argument("--workers", type=int, default=2, help="data.num_workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="combinations at a time")
    parser.add_argument(
        "--shards", type=Path, help=f"of MotionBench with {CLIPS} training videos; default: made"
    )
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    shards = (args.shards or base / "shards").resolve()
    if args.shards is None:
        corrnet = [sys.executable, "-m", "corrnet_train.cli"]
        videos = f"{base}/videos --num-train {CLIPS} --num-val 16 --num-test 8 --num-workers 1".split()
        for command in (
            ["motionbench", *videos],
            ["pack", "csv", f"{base}/videos/motionbench.csv", f"{shards}"],
        ):
            subprocess.run([*corrnet, *command], check=True, capture_output=True)
    common = [
        f"data.shards={shards}", f"data.num_workers={args.workers}", "data.clip.num_frames=4", "data.clip.crop_size=16",
        "model.name=r2d_tiny", "model.options.dropout=0.3", f"optim.batch_size={BATCH}", "eval.batch_size=4",
        f"optim.epochs={STEPS * BATCH / CLIPS}", f"eval.every_epochs={EVAL_STEPS * BATCH / CLIPS}", "run.device=cpu",
        f"run.checkpoint_every={SAVE_STEPS}", f"train.keep_every={KEEP_STEPS}", "train.timeout=60",
    ]  # fmt: skip
    kinds = [["run.log_every=1"], ["run.log_every=5", "eval.precise_bn=16", "optim.ema_decay=0.9"]]
    pairs = [
        (int(size), parallel) for size in args.processes.split(",") for parallel in args.parallel.split(",")
    ]
    combinations = [
        Combination(size, parallel, [*common, f"train.parallel={parallel}", *kinds[(index + index // 2) % 2]])
        for index, (size, parallel) in enumerate(pairs)
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = []
        for index, combination in enumerate(combinations):
            kills = len(range(index, args.kills, len(pairs)))  # an equal share
            jobs.append(pool.submit(kill_runs, combination, base, kills, args.signal, args.seed))
        try:
            for job in jobs:
                job.result()
        except KeyboardInterrupt:
            for process in processes_of(base):
                os.kill(process.pid, signal.SIGKILL)
            os._exit(130)
    print(f"\n{'run':8} kills compared findings longest  phases and victims")
    for combination in combinations:
        counts = Counter(combination.counts)
        first = "".join(
            f"{counts.pop(name, 0):{len(name) + 1}}" for name in ("kills", "compared", "findings")
        )
        rest = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        print(f"{combination.name:8}{first} {combination.longest:6.1f}s  {rest}")
    failed = any(combination.counts["findings"] for combination in combinations)
    if failed:
        print(f"the runs and their output are in {base}")
    else:
        shutil.rmtree(base)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
