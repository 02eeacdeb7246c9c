"""1, 2 and 4 real processes train the same run."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from corrnet_train.checkpoint import Checkpoint
from corrnet_train.distributed import Ranks
from corrnet_train.metrics import read_metrics
from video_data import open_shards

WORLD_SIZES = (1, 2, 4)
SCRIPT = Path(__file__).with_name("ranks") / "many_runs.py"
NAMES = ("sync", "local", "bad", "split", "resumed", "sync_batch_norm", "one_rank_fails")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def runs(motionbench, tmp_path_factory):
    """What each rank saw, by world size and name of the run; the folder of the runs."""
    folder = tmp_path_factory.mktemp("ranks")

    def task(name, world_size, *overrides, resume=False):
        return {
            "resume": resume,
            "overrides": [
                "model.name=r2plus1d_tiny", f"data.shards={motionbench[1]}", "data.num_workers=0",
                f"run.dir={folder / name}{world_size}", "run.log_every=1", "run.device=cpu", "optim.batch_size=8",
                "optim.epochs=1", "optim.name=sgd", "optim.lr=0.01", "eval.every_epochs=0", *overrides,
            ],
        }  # fmt: skip

    job = [
        {
            "world_size": n,
            "port": free_port(),
            "out": str(folder / f"out{n}"),
            "tasks": [
                task("sync", n, "train.batch_norm=sync"),
                task("local", n, "train.micro_batch=2"),
                task("bad", n, "optim.batch_size=10", "train.micro_batch=4"),
                task("split", n, "optim.batch_size=64"),
                task("sync", n, "train.batch_norm=sync", resume=True),
                {"check": "sync_batch_norm"},
                {"check": "one_rank_fails"},
            ],
        }
        for n in WORLD_SIZES
    ]
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run(
        [sys.executable, SCRIPT, folder / "job.json"],
        check=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    seen = {}
    for n in WORLD_SIZES:
        ranks = [json.loads((folder / f"out{n}.{rank}.json").read_text()) for rank in range(n)]
        for index, name in enumerate(NAMES):
            seen[name, n] = [rank[index] for rank in ranks]
    return seen, folder


def figures(folder, name, world_size, kind, *keys):
    lines = read_metrics(folder / f"{name}{world_size}")
    return [[line[key] for key in keys] for line in lines if line["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sync", "local"])
def test_an_equal_global_batch_gives_equal_losses(runs, name):
    """With batch norm over the global batch, or over groups of a stated size; up to rounding in float32."""
    _, folder = runs
    alone = torch.tensor(figures(folder, name, 1, "train", "loss", "grad_norm"))
    assert alone.shape == (4, 2)
    for world_size in (2, 4):
        together = torch.tensor(figures(folder, name, world_size, "train", "loss", "grad_norm"))
        torch.testing.assert_close(together[0, 0], alone[0, 0], rtol=1e-6, atol=0)
        torch.testing.assert_close(together[:, 0], alone[:, 0], rtol=1e-4, atol=0)
        torch.testing.assert_close(together[:, 1], alone[:, 1], rtol=5e-3, atol=0)
    weights = [Checkpoint.load(folder / f"{name}{n}" / "checkpoints" / "last.pt").model for n in WORLD_SIZES]
    for other in weights[1:]:
        for key, value in weights[0].items():
            if "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_sample_is_used_once_an_epoch_in_the_same_global_batches(runs, motionbench, world_size):
    seen, _ = runs
    ranks = [rank["keys"] for rank in seen["sync", world_size]]
    assert all(len(steps) == 4 for steps in ranks)
    batches = [sorted(key for steps in ranks for key in steps[number]) for number in range(4)]
    alone = [sorted(keys) for keys in seen["sync", 1][0]["keys"]]
    assert batches == alone
    counts = Counter(key for batch in batches for key in batch)
    assert set(counts.values()) == {1}
    assert set(counts) == {record.key for record in open_shards(motionbench[1]).samples("train")}


@pytest.mark.slow
def test_evaluation_counts_each_video_once_for_any_number_of_ranks(runs, motionbench):
    _, folder = runs
    num_videos = open_shards(motionbench[1]).num_samples("val")
    results = [figures(folder, "sync", n, "eval", "num_videos", "video_top1") for n in WORLD_SIZES]
    assert results[0][0][0] == num_videos
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_wrong_sizes_stop_every_rank_with_what_is_allowed(runs, world_size):
    seen, folder = runs
    messages = {rank["error"] for rank in seen["bad", world_size]}
    assert len(messages) == 1
    message = messages.pop()
    assert message.startswith("optim.batch_size=10 is no multiple of train.micro_batch=4")
    assert not (folder / f"bad{world_size}").exists()
    (message,) = {rank["error"] for rank in seen["split", world_size]}
    assert "optim.batch_size=64 is more than the 32 samples of split train" in message


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_what_one_rank_meets_stops_all(runs, world_size):
    seen, _ = runs
    for rank in seen["one_rank_fails", world_size]:
        assert rank["error"].endswith("no such shard")
        assert world_size == 1 or f"rank {world_size - 1} of {world_size} on " in rank["error"]
    assert [rank["step"] for rank in seen["resumed", world_size]] == [4] * world_size


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_batch_norm_over_all_processes_is_batch_norm_over_all_their_clips(runs, world_size):
    seen, _ = runs
    assert [rank["error"] for rank in seen["sync_batch_norm", world_size]] == [None] * world_size


def test_what_torchrun_sets_is_checked(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.from_environment() == Ranks()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"started by torchrun.*not set: WORLD_SIZE, LOCAL_RANK"):
        Ranks.from_environment()
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match=r"RANK=1 of WORLD_SIZE=1.*ranks count from 0"):
        Ranks.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match=r"whole numbers.*WORLD_SIZE='two'"):
        Ranks.from_environment()
