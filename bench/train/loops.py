"""A training loop as one would write it by hand, and how it takes turns with the trainer in one process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from corrnet_train.config.load import load_config
from corrnet_train.config.schema import RunConfig
from corrnet_train.networks.build import build_from_config
from corrnet_train.training.optim import build_optimizer, learning_rate
from corrnet_train.training.prefetch import DeviceBatch
from corrnet_train.training.step import StepResult, TrainStep, prepare_model
from corrnet_train.training.trainer import Trainer
from video_data import (
    MotionBenchConfig,
    PackOptions,
    generate_motionbench,
    normalize,
    open_shards,
    pack_csv,
    train_loader,
)

VIDEOS = MotionBenchConfig(num_train=320, num_val=8, num_test=8)


def make_shards(folder: Path) -> Path:
    """Make MotionBench with a tenth of the demo's training videos, packed as the demo does."""
    listing = generate_motionbench(folder / "videos", VIDEOS, num_workers=2, progress=False)
    pack_csv(listing, folder / "shards", options=PackOptions(mode="copy", num_workers=2), progress=False)
    return folder / "shards"


def make_config(shards: Path, folder: Path, *overrides: str, num_steps: int) -> RunConfig:
    """Return the demo's recipe for so many steps, with one evaluation, after the last."""
    settings = [
        f"data.shards={shards}",
        f"run.dir={folder}",
        "eval.every_epochs=0",
        "run.device=cpu",
        *overrides,
    ]
    batch_size = load_config("motionbench", settings).optim.batch_size
    epochs = num_steps * batch_size / VIDEOS.num_train
    return load_config("motionbench", [*settings, f"optim.epochs={epochs}"])


class BareLoop:
    """Forward, loss, backward, clipping, update: nothing else, but on the same model, batches and rates."""

    def __init__(self, config: RunConfig) -> None:
        shards = open_shards(config.data.shards)
        num_samples = shards.num_samples(config.data.train_split)
        self.optim = config.optim
        self.schedule = {
            "peak": config.optim.peak_lr,
            "num_steps": config.optim.num_steps(num_samples),
            "num_warmup_steps": config.optim.num_warmup_steps(num_samples),
        }
        torch.manual_seed(config.run.seed)
        model = build_from_config(config, len(shards.classes))
        self.model: nn.Module = prepare_model(model, config.train).train()
        self.optimizer = build_optimizer(self.model, config.optim)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.batches = iter(
            train_loader(
                shards,
                config.data.train_split,
                config.data.clip,
                batch_size=config.optim.batch_size,
                seed=config.run.seed,
                num_workers=config.data.num_workers,
                num_samples=self.schedule["num_steps"] * config.optim.batch_size,
            )
        )
        self.step = 0

    def take(self, num_steps: int) -> None:
        for _ in range(num_steps):
            batch = next(self.batches)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, **self.schedule)
            self.optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(self.model(normalize(batch.video)), batch.label)
            loss.backward()
            if self.optim.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.optim.clip_grad_norm)
            self.optimizer.step()
            self.step += 1


class Laps:
    """Seconds and processor seconds of blocks of steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def start(self) -> None:
        self._start = perf_counter(), process_time()

    def stop(self) -> None:
        self.seconds.append(perf_counter() - self._start[0])
        self.processor.append(process_time() - self._start[1])


class Turns:
    """Stands in for a trainer's step function: after each block of steps the bare loops take as many.

    A block of the trainer holds all it does besides: log lines, metrics, progress, checkpoints. Blocks begin and end
    half a block away from the steps after which it saves, so that what it writes in the background is its own cost.
    What comes before the first block warms up everything.

    Attributes:
        ours: The trainer's blocks.
        bare: The blocks of each bare loop, one beside each of the trainer's.
        waited: Seconds of each of the trainer's blocks that were spent waiting for data.
        saved: Whether the trainer saved a checkpoint in each block.
    """

    def __init__(self, trainer: Trainer, loops: Sequence[BareLoop], *, block: int) -> None:
        self.ours = Laps()
        self.bare = [Laps() for _ in loops]
        self.waited: list[float] = []
        self.saved: list[bool] = []
        self._trainer = trainer
        self._train_step: TrainStep = trainer.train_step
        self._order = list(zip(loops, self.bare, strict=True))
        self._block = block
        self._before: tuple[float, float] | None = None
        trainer.train_step = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._train_step, name)

    def __call__(self, batches: Iterator[DeviceBatch], *, step: int, **arguments: Any) -> StepResult:
        if step % self._block == self._block // 2:
            self._turn(batches, step)
        return self._train_step(batches, step=step, **arguments)

    def _turn(self, batches: Any, step: int) -> None:
        if self._before is not None:
            self.ours.stop()
            self.waited.append(batches.waited - self._before[0])
            self.saved.append(self._trainer.writer.stalled > self._before[1])
        for loop, laps in self._order:
            laps.start()
            loop.take(step - loop.step)
            if self._before is not None:
                laps.stop()
        self._order.append(self._order.pop(0))
        self._before = batches.waited, self._trainer.writer.stalled
        self.ours.start()
