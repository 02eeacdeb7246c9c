"""The training loop: one process, one device, resumable to the bit."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import nn

from corrnet_train.checkpoint import Checkpoint, check_resumable, load_weights
from corrnet_train.config import RunConfig, config_to_dict
from corrnet_train.evaluate import check_classes, evaluate
from corrnet_train.files import write_text
from corrnet_train.inference import ClipClassifier, build_model, resolve_device
from corrnet_train.metrics import MetricsLog
from corrnet_train.optim import build_optimizer, learning_rate
from corrnet_train.prefetch import DeviceBatch, Prefetcher
from corrnet_train.progress import progress_bar, training_bar
from corrnet_train.step import StepValues, TrainStep, diverged_message, prepare_model
from video_data import LoaderState, ShardSet, open_shards, train_loader


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number; the message names the step and the samples of the batch."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        finished: False when it was interrupted; then `checkpoint` is where it can go on.
        step: finished steps.
        checkpoint: the last checkpoint.
        train_seconds: time spent in training steps over all continuations, without evaluation, in seconds.
    """

    finished: bool
    step: int
    checkpoint: Path
    train_seconds: float


class Trainer:
    """Trains one model as a `RunConfig` says.

    Everything that can be wrong (shards, classes, model, device, the checkpoint to continue) is checked here,
    before any work.

    Args:
        config: the run.
        resume: continue from the last checkpoint in `config.run.dir`.
        console: where progress and messages go.

    Raises:
        ValueError: bad settings, or a run folder that already holds a run when `resume` is False.
    """

    def __init__(self, config: RunConfig, *, resume: bool = False, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console(stderr=True)
        self.folder = config.run.dir
        self.last_checkpoint = self.folder / "checkpoints" / "last.pt"
        checkpoint = self._find_checkpoint(resume)

        self.device = resolve_device(config.run.device)
        self.shards: ShardSet = open_shards(config.data.shards)
        num_samples = self.shards.num_samples(config.data.train_split)
        self.shards.num_samples(config.data.eval_split)
        self.num_steps = config.optim.num_steps(num_samples)
        self.num_warmup_steps = config.optim.num_warmup_steps(num_samples)
        self.steps_per_epoch = num_samples / config.optim.batch_size

        torch.manual_seed(config.run.seed)
        self.model: nn.Module = build_model(config, len(self.shards.classes)).to(self.device)
        prepare_model(self.model, config.train)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.train_step = TrainStep(
            self.model,
            self.optimizer,
            device=self.device,
            precision=config.run.precision,
            num_micro_batches=config.train.accumulation(config.optim.batch_size)[1],
            clip_grad_norm=config.optim.clip_grad_norm,
            flow_channels=config.data.clip.num_flow_channels,
        )
        self.classifier = ClipClassifier(
            self.model,
            classes=list(self.shards.classes),
            clip=config.data.clip,
            device=self.device,
            precision=config.run.precision,
        )
        self.step = 0
        self.best_top1 = -1.0
        self.train_seconds = 0.0
        self.loader_state = LoaderState(
            manifest_hash=self.shards.manifest_hash,
            split=config.data.train_split,
            seed=config.run.seed,
            position=0,
        )
        if checkpoint is not None:
            self._restore(checkpoint)

    def run(self) -> TrainResult:
        """Trains to the end, or to an interrupt.

        The first Ctrl-C (or SIGTERM) finishes the step, saves a checkpoint and returns; a second one stops
        at once.

        Raises:
            TrainingDiverged: the loss became infinite or not a number; the last checkpoint stays as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", yaml.safe_dump(config_to_dict(self.config), sort_keys=False))
        self.metrics = MetricsLog(self.folder, step=self.step)
        try:
            with _interrupt_flag() as interrupted:
                self._train(interrupted)
                finished = self.step >= self.num_steps
        finally:
            self.metrics.close()
        return TrainResult(finished, self.step, self.last_checkpoint, self.train_seconds)

    def _train(self, interrupted: "_Flag") -> None:
        config = self.config
        batch_size = config.optim.batch_size
        micro_batch, _ = config.train.accumulation(batch_size)
        loader = train_loader(
            self.shards,
            config.data.train_split,
            config.data.clip,
            batch_size=micro_batch,
            seed=config.run.seed,
            num_workers=config.data.num_workers,
            position=self.loader_state.position,
            num_samples=(self.num_steps - self.step) * batch_size,
        )
        window = _Window()
        with training_bar(self.console) as bar:
            task = bar.add_task(f"train {config.model.name}", total=self.num_steps, completed=self.step)
            batches = Prefetcher(loader, self.device)
            while self.step < self.num_steps and not interrupted.set:
                start, waited = time.perf_counter(), batches.waited
                values = self._train_step(batches)
                seconds = time.perf_counter() - start
                self.train_seconds += seconds
                self.step += 1
                self.loader_state = self.loader_state.advance(batch_size)
                window.add(values, batch_size, seconds, batches.waited - waited)
                if self.step % config.run.log_every == 0 or self.step == self.num_steps:
                    figures = window.values()
                    self._log_train(figures)
                    bar.tasks[task].fields |= figures
                    window = _Window()
                bar.update(task, completed=self.step)
                if self._is_eval_step():
                    self._evaluate()
                if self.step % config.run.checkpoint_every == 0:
                    self.save(self.last_checkpoint)
        self.save(self.last_checkpoint)

    def _train_step(self, batches: Iterator[DeviceBatch]) -> StepValues:
        """One step; its figures have been checked when it returns."""
        optim = self.config.optim
        rate = learning_rate(
            self.step, peak=optim.lr, num_steps=self.num_steps, num_warmup_steps=self.num_warmup_steps
        )
        result = self.train_step(batches, step=self.step, rate=rate)
        values = result.values()
        finite = math.isfinite(values.loss) and (
            math.isfinite(values.grad_norm) or self.config.run.precision == "fp16"  # skipped by the scaler
        )
        if not finite:
            keys = [key for micro_batch in result.keys for key in micro_batch]
            raise TrainingDiverged(diverged_message(values, result.step, result.rate, keys))
        return values

    def _log_train(self, values: dict[str, float]) -> None:
        values = {
            **values,
            "epoch": self.step / self.steps_per_epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self.metrics.write("train", self.step, **values)
        if not self.console.is_terminal:
            self.console.print(
                f"{self.config.model.name} step {self.step}/{self.num_steps} loss {values['loss']:.3f} "
                f"top-1 {values['top1']:.2f} {values['clips_per_second']:.0f} clips/s "
                f"data wait {values['data_wait']:.0%}",
                highlight=False,
            )

    def _is_eval_step(self) -> bool:
        if self.step == self.num_steps:
            return True
        every = self.config.eval.every_epochs
        if not every:
            return False
        period = every * self.steps_per_epoch
        return self.step // period > (self.step - 1) // period

    def _evaluate(self) -> None:
        config = self.config
        split = config.data.eval_split
        with progress_bar(self.console) as bar:
            task = bar.add_task(f"eval {split}", total=self.shards.num_samples(split))
            result = evaluate(
                self.classifier,
                self.shards,
                split,
                num_clips=config.eval.num_clips_training,
                batch_size=config.optim.batch_size,
                num_workers=config.data.num_workers,
                on_batch=lambda n: bar.advance(task, n),
            )
        self.metrics.write(
            "eval",
            self.step,
            epoch=self.step / self.steps_per_epoch,
            video_top1=result.video_top1,
            video_top5=result.video_top5,
            num_videos=result.num_videos,
        )
        self.console.print(f"step {self.step}: {split} top-1 {result.video_top1:.3f}", highlight=False)
        if result.video_top1 > self.best_top1:
            self.best_top1 = result.video_top1
            self.save(self.last_checkpoint.with_name("best.pt"))

    def save(self, path: Path) -> None:
        """Writes everything the run needs to continue to `path`, atomically."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        Checkpoint(
            step=self.step,
            config=config_to_dict(self.config),
            classes=list(self.shards.classes),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            loader=self.loader_state.to_dict(),
            rng=rng,
            best_top1=self.best_top1,
            train_seconds=self.train_seconds,
        ).save(path)

    def _find_checkpoint(self, resume: bool) -> Checkpoint | None:
        if resume:
            checkpoint = Checkpoint.load(self.last_checkpoint)
            check_resumable(checkpoint, self.config, source=str(self.last_checkpoint))
            return checkpoint
        if self.last_checkpoint.exists():
            raise ValueError(
                f"{self.folder} already holds a run: continue it with --resume, or choose another run.dir"
            )
        return None

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.loader_state = LoaderState.from_dict(checkpoint.loader, expected=self.loader_state)
        check_classes(checkpoint.classes, self.shards)
        load_weights(self.model, checkpoint.model, source=str(self.last_checkpoint))
        self.optimizer.load_state_dict(checkpoint.optimizer)
        torch.set_rng_state(checkpoint.rng["cpu"])
        if self.device.type == "cuda" and "cuda" in checkpoint.rng:
            torch.cuda.set_rng_state(checkpoint.rng["cuda"], self.device)
        self.step = checkpoint.step
        self.best_top1 = checkpoint.best_top1
        self.train_seconds = checkpoint.train_seconds


class _Window:
    """Sums over the steps since the last log line."""

    def __init__(self) -> None:
        self._steps = self._clips = self._correct = 0
        self._loss = self._seconds = self._waited = self._grad_norm = 0.0

    def add(self, step: StepValues, num_clips: int, seconds: float, waited: float) -> None:
        self._steps += 1
        self._clips += num_clips
        self._correct += step.num_correct
        self._loss += step.loss
        self._grad_norm = step.grad_norm
        self._seconds += seconds
        self._waited += waited

    def values(self) -> dict[str, float]:
        return {
            "loss": self._loss / self._steps,
            "top1": self._correct / self._clips,
            "clips_per_second": self._clips / self._seconds,
            "data_wait": self._waited / self._seconds,
            "grad_norm": self._grad_norm,
        }


class _Flag:
    set = False


@contextmanager
def _interrupt_flag() -> Iterator[_Flag]:
    """Turns the first SIGINT or SIGTERM into a flag; the second one acts as usual."""
    flag = _Flag()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.set = True
        signal.signal(number, previous[number])

    for name in (signal.SIGINT, signal.SIGTERM):
        previous[int(name)] = signal.signal(name, handle)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
