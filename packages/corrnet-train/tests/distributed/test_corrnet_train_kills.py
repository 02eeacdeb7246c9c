"""Runs that are killed at random moments end with the same bits as runs that are not."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.training.metrics_log import read_metrics

SCRIPT = Path(__file__).with_name("ranks") / "kills.py"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def train(shards, folder, world_size, kills, num_steps, parallel):
    """Trains a run under kills; returns what happened and the last checkpoint."""
    job = {
        "world_size": world_size,
        "ports": free_ports(kills + 1),
        "folder": str(folder),
        "kills": kills,
        "seed": world_size,
        "overrides": [
            "model.name=r2d_tiny", "model.options.dropout=0.3", "data.clip.num_frames=4", "data.clip.crop_size=16",
            f"data.shards={shards}", "data.num_workers=0", f"run.dir={folder}", "run.log_every=5", "run.device=cpu",
            "optim.batch_size=4", f"optim.epochs={num_steps / 8}", "eval.every_epochs=6", "run.checkpoint_every=1",
            "train.keep_every=20", f"train.parallel={parallel}",
        ],
    }  # fmt: skip
    folder.parent.mkdir(exist_ok=True)
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, SCRIPT, path],
        timeout=150, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "KILLS_LOG": str(folder.with_suffix(".log"))},
    )  # fmt: skip
    log = folder.with_suffix(".log").read_text()[-3000:]
    assert done.returncode == 0, done.stderr + log
    report = json.loads(done.stdout)
    assert report["final"] == [0] * world_size, log
    return report, Checkpoint.load(folder / "checkpoints" / "last.pt")


def assert_equal(one, other, name=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_equal(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{name}[{index}]")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "kills", "num_steps", "parallel"),
    [(1, 8, 72, "ddp"), (2, 3, 32, "ddp"), (2, 3, 24, "fsdp")],  # tools/kills.py looks for rarer faults
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    motionbench, tmp_path, world_size, kills, num_steps, parallel
):
    _, straight = train(motionbench[1], tmp_path / "straight", world_size, 0, num_steps, parallel)
    report, killed = train(motionbench[1], tmp_path / "killed", world_size, kills, num_steps, parallel)
    assert killed.step == num_steps
    for codes in report["codes"]:
        assert -signal.SIGKILL in codes and 0 not in codes, "no process goes on without the others"
    assert report["half_written"] >= 1, "no kill has met a checkpoint that was being written"
    assert report["steps"] == sorted(report["steps"]) and len(set(report["steps"])) > kills // 2
    for name in ("model", "optimizer", "loader", "rng", "step", "best_score"):
        assert_equal(getattr(killed, name), getattr(straight, name), name)
    names = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    kept = [f"step-{step:08d}.pt" for step in range(20, num_steps + 1, 20)]
    shards = sorted({(tmp_path / "killed" / "checkpoints" / name).resolve().name for name in names})
    assert names == sorted(["best.pt", "last.pt", *kept, *(shards if parallel == "fsdp" else [])])
    measured = ("clips_per_second", "data_wait", "checkpoint_stall", "memory_gib")
    lines = [
        [
            {name: value for name, value in line.items() if name not in measured}
            for line in read_metrics(tmp_path / run)
        ]
        for run in ("straight", "killed")
    ]
    assert lines[0] == lines[1]
