"""What the number of processes changes in a run: losses, gradients, and how often each sample is seen.

python -m bench.train.world_sizes     # torchrun starts 1, 2 and 4 processes, copied (ddp) and split (fsdp)

Each run has the same global batch, batch norm over groups of the same size and two epochs. The yardstick is one
process whose weights lie in memory in another order: it computes the same but for rounding. Predicted before the first
measurement: the losses of the first step agree to rounding in float32 (1e-6), later ones to about 1e-4, since rounding
grows from step to step. It grows more, to some 1e-3 after 16 steps, and as much in the yardstick.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.tables import table
from corrnet_train.config.load import load_config
from corrnet_train.distributed.ranks import joined_ranks
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.prefetch import DeviceBatch
from corrnet_train.training.step import StepResult
from corrnet_train.training.trainer import Trainer
from video_data import MotionBenchConfig, PackOptions, generate_motionbench, open_shards, pack_csv

VIDEOS = MotionBenchConfig(num_train=64, num_val=16, num_test=8, num_frames=12)
EPOCHS = 2
SIZES = (1, 2, 4)
RUNS = {
    f"{parallel}, {size}": [f"train.parallel={parallel}"] for parallel in ("ddp", "fsdp") for size in SIZES
}
YARDSTICK = "ddp, 1, other layout"
NORMS = {
    "local": ["train.micro_batch=2"],
    "sync": ["train.batch_norm=sync"],
}


class Watched(Trainer):
    """Keeps the keys of every step."""

    keys: list[list[str]]

    def _train_step(self, batches: Iterator[DeviceBatch], stop: bool) -> StepResult:
        result = super()._train_step(batches, stop)
        self.keys.append([key for keys in result.keys for key in keys])
        return result


def worker(overrides: list[str]) -> None:
    """One process of a run; it leaves the keys of its samples in the folder of the run."""
    torch.set_num_threads(1)
    config = load_config("motionbench", overrides)
    with joined_ranks("cpu", timeout=120) as ranks:
        trainer = Watched(config, ranks=ranks)
        trainer.keys = []
        trainer.run()
    (config.run.dir / f"keys{ranks.rank}.json").write_text(json.dumps(trainer.keys))


def train(shards: Path, folder: Path, size: int, overrides: list[str]) -> None:
    """Train a run with torchrun."""
    settings = [
        f"data.shards={shards}", f"run.dir={folder}", "run.device=cpu", "run.log_every=1", "data.num_workers=0",
        "optim.batch_size=8", f"optim.epochs={EPOCHS}", "optim.lr=0.01", "optim.name=sgd", "eval.every_epochs=0",
        *overrides,
    ]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command = [*torchrun, "-m", "bench.train.world_sizes", *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def row(folder: Path, alone: Path, size: int, shards: Path) -> list[str]:
    """Differences of a run to that of one process."""
    ours, theirs = (
        torch.tensor(
            [
                [line["loss"], line["grad_norm"]]
                for line in read_metrics(run)
                if line["kind"] == "train"
            ],
            dtype=torch.float64,
        )
        for run in (folder, alone)
    )  # fmt: skip
    differences = (ours - theirs).abs() / theirs
    keys = [
        key
        for r in range(size)
        for step in json.loads((folder / f"keys{r}.json").read_text())
        for key in step
    ]
    every = {record.key for record in open_shards(shards).samples("train")}
    seen = Counter(Counter(keys)[key] for key in every)
    times = ", ".join(f"{number} of {len(every)} {count} times" for count, number in sorted(seen.items()))
    (evaluation,) = [line for line in read_metrics(folder) if line["kind"] == "eval"]
    return [
        f"{differences[0, 0]:.1e}",
        f"{differences[:, 0].max():.1e}",
        f"{differences[:, 1].max():.1e}",
        times,
        f"{evaluation['num_videos']}, top-1 {evaluation['video_top1']:.3f}",
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 1:
        worker(sys.argv[1:])
        return
    body = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        listing = generate_motionbench(folder / "videos", VIDEOS, progress=False)
        shards = folder / "shards"
        pack_csv(listing, shards, options=PackOptions(mode="copy"), progress=False)
        for norm, overrides in NORMS.items():
            for name, settings in {**RUNS, YARDSTICK: ["train.channels_last=true"]}.items():
                run, size = folder / f"{norm} {name}", int(name.split(", ")[1])
                train(shards, run, size, ["train.channels_last=false", *overrides, *settings])
                figures = row(run, folder / f"{norm} ddp, 1", size, shards)
                body.append([norm, name, *figures])
                print(*body[-1], file=sys.stderr, flush=True)
    header = [
        "batch norm", "train.parallel, processes", "first loss", "any loss", "any gradient norm", "samples",
        "videos evaluated",
    ]  # fmt: skip
    print(table(header, body, left=2))


if __name__ == "__main__":
    main()
