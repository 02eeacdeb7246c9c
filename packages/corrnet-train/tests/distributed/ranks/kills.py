"""Trains runs whose processes are killed again and again; prints what happened to each as JSON.

python kills.py JOBS.json, a list of {"world_size", "ports", "overrides", "folder", "kills", "seed"}. Processes are
forked from this one, which has imported torch already. Every other kill waits for a checkpoint that is being written.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from many_runs import fork

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.config.load import load_config
from corrnet_train.distributed.ranks import joined_ranks
from corrnet_train.training.trainer import Trainer


def train(rank, world_size, port, overrides):
    torch.set_num_threads(1)
    os.dup2(os.open(os.environ["KILLS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if world_size > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    config = load_config("motionbench", overrides)
    with joined_ranks("cpu", timeout=30) as ranks:
        Trainer(config, requeue=True, ranks=ranks).run()


def wait(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def kill_once(pids, checkpoints, number, rng):
    """Kills one process at a random moment: one of four while it may still start, one of two while it writes."""
    last = checkpoints / "last.pt"
    before, start = modified(last), time.monotonic()
    until = start + rng.uniform(0.05, 0.6)
    while time.monotonic() < start + 30:
        if os.waitpid(pids[0], os.WNOHANG)[0]:
            raise SystemExit("the run was over before it was killed: give it more steps")
        if number % 4 and before is not None and modified(last) != before:
            before, until = None, time.monotonic() + rng.uniform(0, 0.15)
        due = time.monotonic() > until and (number % 4 == 0 or before is None)
        if due and (number % 2 == 0 or list(checkpoints.glob(".*.tmp"))):
            break
        time.sleep(0.001)
    os.kill(rng.choice(pids), signal.SIGKILL)


def modified(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def main():
    print(json.dumps([run(job) for job in json.loads(Path(sys.argv[1]).read_text())]))


def run(job):
    rng = random.Random(job["seed"])
    size, checkpoints = job["world_size"], Path(job["folder"]) / "checkpoints"
    report = {"half_written": 0, "steps": [], "codes": []}
    for number in range(job["kills"]):
        pids = [fork(train, rank, size, job["ports"][number], job["overrides"]) for rank in range(size)]
        kill_once(pids, checkpoints, number, rng)
        report["codes"].append(wait(pids))
        report["half_written"] += bool(list(checkpoints.glob(".*.tmp")))
        last = checkpoints / "last.pt"
        report["steps"].append(Checkpoint.load(last).step if last.exists() else 0)
    pids = [fork(train, rank, size, job["ports"][-1], job["overrides"]) for rank in range(size)]
    report["final"] = wait(pids)
    return report


if __name__ == "__main__":
    main()
