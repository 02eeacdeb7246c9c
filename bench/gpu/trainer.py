"""Stage `trainer`: the `corrnet` command on a GPU, as users run it.

Runs of a tiny model say whether training, stopping, resuming and starting under torchrun are right; a run of
CorrNet-26 says what data, checkpoints and the arithmetic take of the time; compute-sanitizer watches one small pass of
the operator.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves_with_path

from bench.gpu.measure import Rows, read

CORRNET = (sys.executable, "-m", "corrnet_train.cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
STOP_AFTER = 20  # steps
SANITIZED = """
import torch
from corr_ops import video_correlation
for dtype in (torch.bfloat16, torch.float32):
    x = torch.randn(1, 64, 2, 14, 14, dtype=dtype, device="cuda", requires_grad=True)
    weight = torch.randn(2, 64, 7, 7, dtype=dtype, device="cuda", requires_grad=True)
    video_correlation(x, weight, kernel_size=7, dilation=2, groups=2).sum().backward()
torch.cuda.synchronize()
"""


def run(rows: Rows, device: torch.device, folder: Path, *, tiny: bool = False) -> None:
    """Make data, then the runs that say whether it is right, four at a time, then those that are timed, alone."""
    shards = _make_shards(rows, folder / "small", "--num-train", "32" if tiny else "800", "--num-val", "16")
    few = ["optim.batch_size=8", "optim.epochs=1", "eval.num_clips=1", "data.num_workers=0"]
    few += ["data.clip.num_frames=4", "data.clip.crop_size=16"]
    numbers = few if tiny else ["optim.epochs=2"]
    common = [f"data.shards={shards}", "run.log_every=1", "run.checkpoint_every=10", *numbers]
    common += [f"run.device={device.type}", "train.compile=false"]
    careful = ["optim.ema_decay=0.99", "eval.precise_bn=32", "run.precision=bf16", "run.deterministic=true"]
    runs: dict[str, Callable[[Path], dict[str, Any]]] = {
        "bf16": partial(_train, [*common, *careful]),
        "bf16 again": partial(_train, [*common, *careful]),
        "bf16, stopped and resumed": partial(_stopped, [*common, *careful], 2 if tiny else STOP_AFTER),
        "fp16": partial(_train, [*common, "optim.ema_decay=0.99", "run.precision=fp16"]),
        "fp32": partial(_train, common),
        "compiled": partial(_train, [*common, "train.compile=true", "run.precision=bf16"]),
        "torchrun, ddp": partial(_train, [*common, *careful], launcher=TORCHRUN),
        "torchrun, fsdp": partial(
            _train, [*common, "train.parallel=fsdp", "run.precision=bf16"], launcher=TORCHRUN
        ),
    }
    if tiny:
        runs = {name: runs[name] for name in ("bf16", "bf16, stopped and resumed")}
    started = {name: folder / name.replace(" ", "-").replace(",", "") for name in runs}
    with ThreadPoolExecutor(4) as pool:
        done = {name: pool.submit(_guarded, runs[name], started[name]) for name in runs}
        for name, future in done.items():
            rows.add("run", run=name, **future.result())
    for name in ("bf16 again", "bf16, stopped and resumed", "torchrun, ddp"):
        if name in runs:
            rows.attempt("equal", partial(_compare, started["bf16"], started[name]), run=name, to="bf16")
    if device.type != "cuda":
        return
    doctor = ["doctor", "--shards", str(shards), "--dir", str(folder / "doctor"), "--num-workers", "8"]
    rows.attempt("command", partial(_command, [*CORRNET, *doctor], tail=6000), command="doctor")
    rows.attempt("command", _sanitize, command="compute-sanitizer")
    _paper_run(rows, folder)


def _make_shards(rows: Rows, folder: Path, *options: str) -> Path:
    """Generate and pack MotionBench; rows say what it took."""
    made = ["motionbench", str(folder / "videos"), *options, "--num-test", "16"]
    rows.attempt("command", partial(_command, [*CORRNET, *made]), command="motionbench")
    packed = ["pack", "csv", str(folder / "videos" / "motionbench.csv"), str(folder / "shards")]
    rows.attempt("command", partial(_command, [*CORRNET, *packed]), command="pack csv")
    return folder / "shards"


def _paper_run(rows: Rows, folder: Path) -> None:
    """CorrNet-26 on 32 frames of 112x112 in bf16, from generated videos: what the time goes to, and the accuracy."""
    size = ["--size", "128", "--num-frames", "40", "--num-train", "1600", "--num-val", "80"]
    shards = _make_shards(rows, folder / "large", *size)
    options = [
        "model.name=corrnet26",
        f"data.shards={shards}",
        "data.clip.num_frames=32",
        "data.clip.crop_size=112",
        "data.num_workers=12",
        "run.precision=bf16",
        "optim.name=sgd",
        "optim.lr=0.05",
        "optim.epochs=3",
        "run.checkpoint_every=100",
        "run.log_every=10",
    ]
    where = folder / "corrnet26"
    rows.attempt("run", partial(_train, options, where), run="corrnet26 at 112 pixels")
    if (where / "metrics.jsonl").exists():
        for line in read(where / "metrics.jsonl"):
            rows.add("corrnet26 log", **{f"log_{key}": value for key, value in line.items()})


def _guarded(make: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    try:
        return make(folder)
    except Exception as error:  # the other runs go on
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


def _train(
    options: Sequence[str], folder: Path, *, launcher: Sequence[str] = (), resume: bool = False
) -> dict[str, Any]:
    """Train and return the exit code, the time and the last figures."""
    found = _command(_training(options, folder, launcher, resume=resume), timeout=300)
    log = folder / "metrics.jsonl"
    for kind in ("train", "eval"):
        lines = [line for line in (read(log) if log.exists() else []) if line["kind"] == kind]
        if lines:
            found |= {f"{kind}_{key}": value for key, value in lines[-1].items() if key != "kind"}
    return found


def _training(
    options: Sequence[str], folder: Path, launcher: Sequence[str], *, resume: bool = False
) -> list[str]:
    start = [*launcher, *CORRNET[1:]] if launcher else list(CORRNET)
    return [*start, "train", "motionbench", f"run.dir={folder}", *options, *(["--resume"] if resume else [])]


def _stopped(options: Sequence[str], after: int, folder: Path) -> dict[str, Any]:
    """Train, stop by Ctrl-C after some steps, resume to the end."""
    log = folder / "metrics.jsonl"
    process = subprocess.Popen(
        _training(options, folder, ()), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and len(log.read_text(encoding="utf-8").splitlines()) >= after:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.05)
    stopped = process.wait(timeout=120)
    steps = read(log)[-1]["step"]
    return {"stopped_rc": stopped, "stopped_step": steps, **_train(options, folder, resume=True)}


def _compare(folder: Path, other: Path) -> dict[str, Any]:
    """Return how many tensors of two last checkpoints differ, and by how much at most."""
    states = [
        dict(tree_leaves_with_path(torch.load(one / "checkpoints" / "last.pt", "cpu", weights_only=False)))
        for one in (folder, other)
    ]
    pairs = [
        (str(path), left, states[1][path])
        for path, left in states[0].items()
        if isinstance(left, torch.Tensor) and path in states[1]
    ]
    differing = [
        (path, float((a.double() - b.double()).abs().max())) for path, a, b in pairs if not torch.equal(a, b)
    ]
    return {
        "tensors": len(pairs),
        "differing": len(differing),
        "largest_difference": max((difference for _, difference in differing), default=0.0),
        "first": differing[0][0] if differing else "",
    }


def _sanitize() -> dict[str, Any]:
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    check = [program, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    return _command(check, timeout=150, tail=600)


def _command(command: Sequence[str], *, timeout: float = 120, tail: int = 300) -> dict[str, Any]:
    """Run a command and return its exit code, its time and the end of what it printed."""
    start = time.monotonic()
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        return {"rc": None, "seconds": time.monotonic() - start, "printed": output[-tail:]}
    output = done.stdout.decode(errors="replace").strip()
    return {"rc": done.returncode, "seconds": time.monotonic() - start, "printed": output[-tail:]}
