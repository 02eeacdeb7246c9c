"""Runs that are killed at random moments end with the same bits as runs that are not."""

import json
import signal
import socket
from pathlib import Path

import pytest
import torch

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.training.metrics_log import read_metrics

SCRIPT = Path(__file__).with_name("ranks") / "kills.py"
# Processes, kills, steps, train.parallel; tools/kills.py looks for rarer faults.
CASES = [(1, 3, 32, "ddp"), (2, 2, 16, "ddp"), (2, 2, 8, "fsdp")]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def job(shards, folder, world_size, kills, num_steps, parallel):
    """What ranks/kills.py is told about a run."""
    return {
        "world_size": world_size,
        "ports": free_ports(kills + 1),
        "folder": str(folder),
        "kills": kills,
        "seed": world_size,
        "overrides": [
            "model.name=r2d_tiny", "model.options.dropout=0.3", "data.clip.num_frames=4", "data.clip.crop_size=16",
            f"data.shards={shards}", "data.num_workers=0", f"run.dir={folder}", "run.log_every=5", "run.device=cpu",
            "optim.batch_size=4", f"optim.epochs={num_steps / 8}", "eval.every_epochs=6", "run.checkpoint_every=1",
            "train.keep_every=5", f"train.parallel={parallel}",
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def ends(motionbench, forks, tmp_path_factory):
    """By case, what happened to a run, the folder of the same run without kills, and its own; one process forks all."""
    folder = tmp_path_factory.mktemp("kills")
    folders = {
        case: [folder / "-".join(map(str, (*case, kills))) for kills in (0, case[1])] for case in CASES
    }
    jobs = [
        job(motionbench[1], run, size, kills if number else 0, num_steps, parallel)
        for (size, kills, num_steps, parallel), pair in folders.items()
        for number, run in enumerate(pair)
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = forks(folder / "jobs.json", script=SCRIPT, KILLS_LOG=str(folder / "log"))
    code, log = done.wait(timeout=500), (folder / "log").read_text()[-3000:]
    assert code == 0, done.errors + log
    reports = json.loads(done.output)
    assert {code for report in reports for code in report["final"]} == {0}, log
    return {case: (reports[2 * number + 1], *folders[case]) for number, case in enumerate(CASES)}


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
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(ends, case):
    _, kills, num_steps, parallel = case
    report, *runs = ends[case]
    straight, killed = (Checkpoint.load(run / "checkpoints" / "last.pt") for run in runs)
    assert killed.step == num_steps
    for codes in report["codes"]:
        assert -signal.SIGKILL in codes and 0 not in codes, "no process goes on without the others"
    assert report["half_written"] >= 1, "no kill has met a checkpoint that was being written"
    assert report["steps"] == sorted(report["steps"]) and len(set(report["steps"])) > kills // 2
    for name in ("model", "optimizer", "loader", "rng", "step", "best_score"):
        assert_equal(getattr(killed, name), getattr(straight, name), name)
    names = sorted(path.name for path in (runs[1] / "checkpoints").iterdir())
    kept = [f"step-{step:08d}.pt" for step in range(5, num_steps + 1, 5)]
    shards = sorted({(runs[1] / "checkpoints" / name).resolve().name for name in names})
    assert names == sorted(["best.pt", "last.pt", *kept, *(shards if parallel == "fsdp" else [])])
    measured = ("clips_per_second", "data_wait", "checkpoint_stall", "memory_gib")
    lines = [
        [{name: value for name, value in line.items() if name not in measured} for line in read_metrics(run)]
        for run in runs
    ]
    assert lines[0] == lines[1]
