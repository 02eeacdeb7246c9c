"""Runs trainers in processes that are forked from one which has imported torch already.

python many_runs.py JOB.json: a job is a list of {"world_size", "port", "tasks", "out"}. Each group of `world_size`
processes goes through its tasks, `{"overrides", "resume", "stop_at", "taken_by"}`, and rank r writes what it saw to
`out`.r.json. The checkpoints of a run that is taken by another one are replaced by those when all have read them.
"""

import gc
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import norms
import shards
import torch
import torch._dynamo  # which FSDP imports, as a trainer the next ones: once for all processes
import torch.distributed.checkpoint
import torch.utils.tensorboard

import corrnet_train.checkpoint.sharded  # noqa: F401
from corrnet_train.checkpoint.state import weights_hash
from corrnet_train.config.load import load_config
from corrnet_train.distributed.ranks import joined_ranks
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.errors import InputError, WorkError


class Watched(Trainer):
    """Keeps the keys of every step; asks to stop in step `stop_at`."""

    stop_at = None

    def _train_step(self, batches, stop):
        result = super()._train_step(batches, stop or self.step + 1 == self.stop_at)
        self.seen.append([key for keys in result.keys for key in keys])
        return result


def one_rank_fails(ranks):
    """An error of one process is an error of all, and names the one."""
    try:
        with ranks.together():
            if ranks.rank == ranks.world_size - 1:
                raise InputError("no such shard")
    except InputError as error:
        printed_once = getattr(error, "on_every_rank", False)
        assert printed_once == (ranks.world_size > 1)
        return str(error)
    return "nobody failed"


def one_rank_has_a_bug(ranks):
    """The process with the bug raises it as it is, the others an error that names it."""
    try:
        with ranks.together():
            if ranks.rank == ranks.world_size - 1:
                raise KeyError("no such name")
    except (KeyError, WorkError) as error:
        return f"{type(error).__name__}: {error}"
    return "nobody failed"


CHECKS = {
    "sync_batch_norm": norms.sync_batch_norm_equals_batch_norm,
    "norm_of_gpus": norms.norm_of_gpus_equals_batch_norm,
    "precise_statistics": norms.precise_statistics_are_those_of_all_clips,
    "one_rank_fails": one_rank_fails,
    "one_rank_has_a_bug": one_rank_has_a_bug,
    "shards_step": shards.steps_equal_those_of_copies,
    "compiled_step": shards.compiled_steps_equal_eager_ones,
    "first_steps": shards.first_steps_are_rounded_as_later_ones,
    "full_disk": shards.a_full_disk_keeps_the_checkpoint_before,
}


def run_rank(rank, group):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(group["world_size"]),
        "LOCAL_WORLD_SIZE": str(group["world_size"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(group["port"]),
    }  # fmt: skip
    seen = []
    with joined_ranks("cpu", timeout=60) as ranks:
        for task in group["tasks"]:
            try:
                if "check" in task:
                    seen.append({"error": CHECKS[task["check"]](ranks, *task.get("args", []))})
                    continue
                config = load_config("motionbench", task["overrides"])
                trainer = Watched(config, resume=task.get("resume", False), ranks=ranks)
                trainer.seen, trainer.stop_at = [], task.get("stop_at")
                if "taken_by" in task:
                    ranks.gather(None)
                    if ranks.is_first:
                        checkpoints = config.run.dir / "checkpoints"
                        shutil.rmtree(checkpoints)
                        shutil.copytree(Path(task["taken_by"]) / "checkpoints", checkpoints, symlinks=True)
                result = trainer.run()
                seen.append(
                    {
                        "step": result.step,
                        "keys": trainer.seen,
                        "hash": weights_hash(trainer.classifier.model),
                    }
                )
            except (ValueError, RuntimeError, AssertionError) as error:
                seen.append({"error": str(error), "type": type(error).__name__})
    Path(f"{group['out']}.{rank}.json").write_text(json.dumps(seen))


def fork(function, *args):
    gc.freeze()  # what is there stays: the collector of the new process need not go through it again and again
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*args)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def main():
    groups = json.loads(Path(sys.argv[1]).read_text())
    if any(task.get("check") == "compiled_step" for group in groups for task in group["tasks"]):
        import torch._inductor.compile_fx  # noqa: F401  (once for all processes)

    for group in groups:
        pids = [fork(run_rank, rank, group) for rank in range(group["world_size"])]
        for pid in pids:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
