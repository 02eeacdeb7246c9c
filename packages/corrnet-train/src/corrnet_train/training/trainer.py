"""The training loop, for one process or many, resumable to the bit."""

import logging
import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from corrnet_train.checkpoint.async_writer import CheckpointWriter, ShardedCheckpointWriter, remove_unfinished
from corrnet_train.checkpoint.folders import BEST, LAST, link, resume_command
from corrnet_train.checkpoint.state import Checkpoint, check_resumable, load_weights
from corrnet_train.config.load import config_to_dict
from corrnet_train.config.schema import RunConfig
from corrnet_train.distributed.parallelize import (
    copy_buffers,
    gradient_exchange,
    parallelize,
    wrap,
)
from corrnet_train.distributed.ranks import ONE_RANK, Ranks, on_every_rank, readable_errors
from corrnet_train.evaluation.evaluate import EvalResult, evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.targets import Targets
from corrnet_train.networks.build import build_from_config, describe_blocks
from corrnet_train.networks.by_name import ALLOWED_MODULES, needs_leave
from corrnet_train.training.augment import Augment
from corrnet_train.training.initialize import initialize
from corrnet_train.training.loss import FIGURES, balanced_weights, check_settings, make_loss, tally
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.mfu import peak_flops, training_flops
from corrnet_train.training.optim import AveragedModel, build_optimizer, load_optimizer
from corrnet_train.training.precise_bn import estimate_statistics
from corrnet_train.training.prefetch import DeviceBatch, Prefetcher
from corrnet_train.training.run_folder import RunFolder
from corrnet_train.training.run_log import Meter, RunLog
from corrnet_train.training.schedule import Schedule
from corrnet_train.training.step import StepResult, StepValues, TrainStep, diverged_message, prepare_model
from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.files import write_json
from corrnet_train.utils.interrupt import Flag, Stopped, interrupt_flag
from corrnet_train.utils.kernels import check_deterministic, chosen_kernels, prepare_deterministic
from corrnet_train.utils.lock import only_user
from corrnet_train.utils.precision import autocast, clip_dtype
from corrnet_train.utils.progress import progress_bar, training_bar
from video_data import Batch, LoaderState, ShardSet, TrainLoader, normalize, open_shards, train_loader
from video_data.utils.error_budget import allowed_errors
from video_data.utils.errors import WorkersError
from video_data.utils.workers import start_worker_server

_log = logging.getLogger(__name__)
_UNEQUAL = 5  # times as many videos of a class as of another one are told


class TrainingDiverged(WorkError):
    """The loss is no longer a finite number; the message names the step and the samples of the batch."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        finished: False when it was interrupted; then `checkpoint` is where it can go on.
        step: Finished steps.
        checkpoint: The last checkpoint.
        train_seconds: Time spent in training steps over all continuations, without evaluation, in seconds.
    """

    finished: bool
    step: int
    checkpoint: Path
    train_seconds: float


def last_checkpoint(config: RunConfig) -> Path:
    """Where a run can be continued."""
    return config.run.dir / "checkpoints" / LAST


class Trainer:
    """Trains one model as a `RunConfig` says.

    Everything that can be wrong (shards, classes, model, device, the checkpoint to continue) is checked here,
    before any work. All processes of a run make a trainer and call the same methods.

    Args:
        config: The run.
        resume: Continue from the last checkpoint in `config.run.dir`, or where it is gone from the newest intact one.
        requeue: Continue where there is a checkpoint, else begin, also in a folder in which a run has begun.
        extend: Let a run that continues have more `optim.epochs` than it began with: from the next step on the learning
            rate follows the cosine to the new end.
        console: Where progress and messages go.
        ranks: The processes that train together.

    Raises:
        ValueError: Bad settings, or a run folder that holds anything of a run when `resume` and `requeue` are False.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        resume: bool = False,
        requeue: bool = False,
        extend: bool = False,
        console: Console | None = None,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.console = (console or Console(stderr=True)) if ranks.is_first else Console(quiet=True)
        self.folder = config.run.dir
        self.last_checkpoint = last_checkpoint(config)
        self._resume, self._requeue, self._extend = resume, requeue, extend
        self._check_owner: Callable[[], None] = lambda: None
        if config.data.num_workers:
            start_worker_server()  # it imports what workers need meanwhile
        with ranks.together():
            if config.run.deterministic and config.run.device != "cpu":
                prepare_deterministic()
            self.device = ranks.device(config.run.device)
            checkpoint = self._find_checkpoint()
            config = self.config  # with `data.pixels` settled
            self._open()
            read_metrics(self.folder)  # so that a damaged line is told before any work
            self.model = self._build_model(fresh=checkpoint is None)
        self._check_alike(checkpoint)
        train = config.train
        self.averaged = AveragedModel(self.model, config.optim.ema_decay) if config.optim.ema_decay else None
        evaluated = self.model if self.averaged is None else self.averaged.module
        for model in dict.fromkeys([self.model, evaluated]):
            parallelize(
                model,
                ranks,
                self.device,
                batch_norm=train.batch_norm,
                parallel=train.parallel,
                precision=config.run.precision,
            )
        self.optimizer = build_optimizer(self.model, config.optim)
        self.classifier = VideoClassifier(
            evaluated,
            classes=self.shards.classes,
            clip=config.data.clip,
            device=self.device,
            precision=config.run.precision,
            num_clips=config.eval.num_clips,
            pixels=config.data.pixels_on(self.device.type),
            targets=self.targets,
        )
        self.wrapped = wrap(self.model, ranks, self.device)
        self.train_step = TrainStep(
            self.wrapped,
            self.optimizer,
            device=self.device,
            precision=config.run.precision,
            num_micro_batches=self.num_micro_batches,
            clip_grad_norm=config.optim.clip_grad_norm,
            loss=make_loss(
                self.targets,
                label_smoothing=config.augment.label_smoothing,
                class_weights=self._class_weights(),
            ),
            tally=tally(self.targets),
            prepare=self.augment,
            after_update=None if self.averaged is None else self.averaged.update,
            reduce=ranks.sum_,
            world_size=ranks.world_size,
            synchronize=lambda last: gradient_exchange(self.wrapped, last),
        )
        self.sharded = train.parallel == "fsdp"
        self.writer = (
            ShardedCheckpointWriter(ranks, timeout=train.timeout) if self.sharded else CheckpointWriter()
        )
        self.step = 0
        self.best_score = -math.inf  # `EvalResult.score`
        self.stale_evaluations = 0  # since the best one
        self.evaluation_due = False
        self.train_seconds = 0.0
        self._workers_error: WorkersError | None = None
        self._pending: deque[StepResult] = deque()  # steps of which the figures are on their way
        self.replaced_before = 0  # samples of all ranks, until the run was continued
        self.replaced = 0  # samples of this rank, since then
        self._replaced_before = 0  # those among them by loaders whose workers have died
        self.meter = Meter(self._utilization(), FIGURES[self.targets.task][0])
        self.loader_state = LoaderState(
            manifest_hash=self.shards.manifest_hash,
            split=config.data.train_split,
            seed=config.run.seed,
            position=0,
            balanced=config.data.sampling == "balanced",
        )
        self._seed()
        if checkpoint is not None:
            self._restore(checkpoint)

    def _open(self) -> None:
        """Shards and lengths."""
        config = self.config
        config.train.check_parallel(launched=self.ranks.launched)
        self.shards: ShardSet = open_shards(config.data.shards)
        check_settings(config, self.shards.task)
        self.targets = Targets.of_split(self.shards, config.data.train_split)
        num_samples = self.shards.num_samples(config.data.train_split)
        self._check_eval_split()
        batch_size = config.optim.batch_size
        self.micro_batch, self.num_micro_batches = config.train.accumulation(
            batch_size, world_size=self.ranks.world_size
        )
        if num_samples < batch_size:
            raise InputError(
                f"optim.batch_size={batch_size} is more than the {num_samples} samples of split "
                f"{config.data.train_split}: a batch would hold samples twice; give at most {num_samples}"
            )
        self.schedule = Schedule(config, num_samples)
        self.augment = Augment(
            config.augment,
            clip=config.data.clip,
            num_classes=len(self.shards.classes),
            micro_batch=self.micro_batch,
            dtype=clip_dtype(config.run.precision),
        )

    def _check_eval_split(self) -> None:
        split, splits = self.config.data.eval_split, self.shards.splits
        if split is not None and split not in splits:
            raise InputError(
                f"no split {split!r} in {self.shards.path} to measure accuracy on; it has {', '.join(splits)}. Pack "
                "the videos again with one (corrnet pack folder SRC DEST --val-fraction 0.2), name another one "
                "(data.eval_split=...), or train without (data.eval_split=none)"
            )

    def _build_model(self, *, fresh: bool) -> nn.Module:
        config = self.config.model
        torch.manual_seed(self.config.run.seed)
        model = build_from_config(self.config, len(self.shards.classes))
        if module := needs_leave(config.name):
            self._say(
                f"{config.name} is code: commands that take a checkpoint of it want {ALLOWED_MODULES}={module} in the "
                "environment"
            )
        if fresh and config.is_of_another_package:
            self._say(describe_blocks(config.name, model))
        if fresh and config.init_from is not None:
            classes = self.shards.classes
            message = initialize(
                model, config.init_from, classes=classes, new_head=config.new_head, targets=self.targets
            )
            self._say(message)
        if self.config.run.deterministic and self.device.type == "cuda":
            check_deterministic(model, self.config.model.name)
        if config.frozen_stages:
            learns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            total = sum(parameter.numel() for parameter in model.parameters())
            self._say(
                f"{learns / 1e6:.2f} of {total / 1e6:.2f} M parameters learn "
                f"(model.frozen_stages={config.frozen_stages})"
            )
        model.to(self.device)
        prepare_model(model, self.config.train)
        return model

    def _class_weights(self) -> Tensor | None:
        """Weights of the classes in the loss; say so where classes are far from equal and nothing is done about it."""
        config = self.config
        sizes = self.shards.class_sizes(config.data.train_split)
        if config.optim.class_weights is not None:
            several = self.shards.task == "multilabel"
            num_samples = self.shards.num_samples(config.data.train_split) if several else None
            return balanced_weights(sizes, num_samples=num_samples).to(self.device)
        if config.data.sampling == "uniform" and self.shards.task == "multiclass":
            (fewest, least), (most, largest) = (
                pick((size, name) for size, name in zip(sizes, self.shards.classes, strict=True) if size)
                for pick in (min, max)
            )
            if most >= _UNEQUAL * fewest:
                self._say(
                    f"classes are of unequal size, from {fewest} videos ({least}) to {most} ({largest}): "
                    "optim.class_weights=balanced or data.sampling=balanced makes them count alike"
                )
        return None

    def _utilization(self) -> float | None:
        """Return the MFU at one clip a second; None where it is not known what the device can do, or has to do."""
        config = self.config
        peak = peak_flops(self.device, config.run.precision)
        if peak is None or config.model.frozen_stages:  # of which there is no backward pass
            return None
        flops = training_flops(self.model, config.data.clip)
        return flops / (peak * self.ranks.world_size)

    def _check_alike(self, checkpoint: Checkpoint | None) -> None:
        """All processes must be about to do the same."""
        self.ranks.check_equal("the configuration", repr(config_to_dict(self.config)))
        self.ranks.check_equal("the manifest of data.shards", self.shards.manifest_hash)
        self.ranks.check_equal(
            f"what is in {self.folder} (all machines must share run.dir)",
            "no checkpoint" if checkpoint is None else f"a checkpoint of step {checkpoint.step}",
        )

    def run(self) -> TrainResult:
        """Train to the end, or to an interrupt.

        The first Ctrl-C (or SIGTERM) finishes the step, saves a checkpoint and returns; without torchrun, a second
        one stops at once. With it, so does the end of torchrun. Before an evaluation the run is saved, too.

        Raises:
            WorkersError: Processes of the loader died or hang; the message says after which step the run is saved.
            TrainingDiverged: The loss became infinite or not a number; the last checkpoint stays as it was.
            ValueError: Another process trains in the same folder, on whatever machine and however it was started.
        """
        with ExitStack() as stack:
            with self.ranks.together():
                if self.ranks.is_first:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    # torchrun and schedulers may start a run again before its last processes have ended.
                    patience = 10.0 if self.ranks.launched or self._requeue else 0.0
                    lock = only_user(
                        self.folder, "trains in", instead="run.dir", patience=patience, say=self._warn
                    )
                    self._check_owner = stack.enter_context(lock)
            self._look_again()
            if self.ranks.is_first:
                self.ranks.note_begun()
            stack.enter_context(chosen_kernels(deterministic=self.config.run.deterministic))
            return self._run()

    def _look_again(self) -> None:
        """Go on from what an owner has left that trained on while this process started.

        Raises:
            ValueError: This run was to begin, and now there is one; or what it was to continue is gone.
        """
        if not self.ranks.any(self.run_folder.has_changed()):
            return
        self._resume = self._resume or self.step > 0
        with self.ranks.together():
            checkpoint = self._find_checkpoint()
        self._check_alike(checkpoint)
        if checkpoint is not None:
            self._restore(checkpoint)

    def _run(self) -> TrainResult:
        if self.ranks.is_first:
            source = self.run_folder.source
            if source != self.last_checkpoint:  # no other name may lead to it, and shards without one go
                link(self.last_checkpoint, source)
            remove_unfinished(self.last_checkpoint.parent)
        self.log = RunLog(
            self.config,
            self.schedule,
            console=self.console,
            device=self.device,
            step=self.step,
            evaluation_due=self.evaluation_due,
            writes=self.ranks.is_first,
            figure=FIGURES[self.targets.task],
        )
        with interrupt_flag(launcher=self.ranks.launcher) as interrupted:
            try:
                with readable_errors(self.ranks, computes=True):
                    self._train(interrupted)
            except Stopped:
                pass  # in an evaluation, before which the run was saved
            except WorkersError as error:
                self._save_without_workers(error)
            finally:
                self.log.close()
                self.writer.wait()
            self.ranks.gather(None)  # torchrun ends all processes as soon as one has left with an error
        if self._workers_error is not None:
            raise self._with_way_on(self._workers_error)
        if self._lost_patience:
            self._tell_end()
        finished = self._is_over and not self.evaluation_due
        return TrainResult(finished, self.step, self.last_checkpoint, self.train_seconds)

    def _train(self, interrupted: Flag) -> None:
        config = self.config
        compiled = config.train.compile_mode(self.device.type) is not None
        if compiled:
            self.console.print(
                "compiling the model: the first step takes longer (train.compile=false trains without)",
                highlight=False,
            )
        if self.wrapped is not self.model:
            clip = config.data.clip
            shape = (self.micro_batch, clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size)
            self.train_step.warm_up(
                torch.zeros(shape, dtype=self.augment.dtype, device=self.device).contiguous(
                    memory_format=torch.channels_last_3d
                )
            )
        lag = 1 if self.device.type == "cuda" else 0  # a GPU works on while its last figures are awaited
        stop, saved, first = False, True, self.step + 1
        with training_bar(self.console) as bar:
            task = bar.add_task(
                f"train {config.model.name}", total=self.schedule.num_steps, completed=self.step
            )
            if self.evaluation_due:
                self._evaluate(interrupted)
            batches = Prefetcher(self._batches(), self.device)
            while not (self._is_over or stop):
                start, waited, stalled = time.perf_counter(), batches.waited, self.writer.stalled
                self._pending.append(self._train_step(batches, self._has_to_stop(interrupted)))
                self.step += 1
                self.loader_state = self._loader.state
                self.replaced = self._replaced_before + self._loader.replaced.total()
                log, self.evaluation_due, save = (
                    due(self.step)
                    for due in (self.schedule.logs, self.schedule.evaluates, self.schedule.saves)
                )
                saved = save or self.evaluation_due
                stop = self._take_figures(most_left=0 if log or saved else lag)
                stop = stop or (self.ranks.world_size == 1 and self._has_to_stop(interrupted))
                seconds = time.perf_counter() - start
                self.train_seconds += seconds
                self.meter.add_time(seconds, waited=batches.waited - waited)
                if self.step == first + 1:  # the first one waits for workers and compiles
                    self.log.estimate(self.step, seconds)
                if log:
                    figures = self.meter.values()
                    self.log.train(self.step, figures)
                    bar.tasks[task].fields |= figures
                bar.update(task, completed=self.step)
                if saved:
                    self.save(*([self.last_checkpoint] if self.evaluation_due else self._names()))
                if self.evaluation_due and not stop:
                    self._evaluate(interrupted)
                stalled = self.writer.stalled - stalled
                self.meter.add_time(stalled, stalled=stalled)
            self._take_figures(most_left=0)
        if not saved:
            self.save(self.last_checkpoint)

    @property
    def _is_over(self) -> bool:
        """Whether there are no more steps to take."""
        return self.step >= self.schedule.num_steps or self._lost_patience

    @property
    def _lost_patience(self) -> bool:
        patience = self.config.eval.patience
        return patience is not None and self.stale_evaluations >= patience

    def _tell_end(self) -> None:
        """Say that the run ended before its last step."""
        if self.step < self.schedule.num_steps:
            self._say(
                f"{self.stale_evaluations} evaluations brought no better score than {self.best_score:.3f}: the run "
                f"ends after step {self.step} of {self.schedule.num_steps} "
                f"(eval.patience={self.config.eval.patience}); to train on: {resume_command(self.folder)} "
                "eval.patience=null"
            )

    def _has_to_stop(self, interrupted: Flag) -> bool:
        return interrupted.is_set or self._workers_error is not None

    def _take_figures(self, *, most_left: int) -> bool:
        """Count the figures of steps until so many are left; return whether a process was asked to stop."""
        stop = False
        while len(self._pending) > most_left:
            values = self._checked(self._pending.popleft())
            self.meter.add(values, self.config.optim.batch_size)
            stop = stop or values.stop
        return stop

    def _batches(self) -> Iterator[Batch]:
        """Batches to the end of the run.

        When workers have died in the middle of a step, or others wait in it for this process, this one makes what the
        step lacks by itself, and the run stops. Where workers hang, so may this process: the others give it up then.

        Raises:
            WorkersError: Workers of a single process died before the step began, or hang.
        """
        position = self.loader_state.position
        end = position + (self.schedule.num_steps - self.step) * self.config.optim.batch_size
        self._loader = self.loader(num_samples=end - position)
        try:
            yield from self._loader
            return
        except WorkersError as error:
            half_done = self._loader.state != self.loader_state
            if self.ranks.world_size == 1 and (error.timed_out or not half_done):
                raise
            _log.error("%s; the step is finished without workers", error)
            self._workers_error = error.with_traceback(None)  # which would keep the batches that are ready
        self._replaced_before += self._loader.replaced.total()
        position = self._loader.state.position
        self._loader = self.loader(num_samples=end - position, position=position, num_workers=0)
        yield from self._loader

    def _save_without_workers(self, error: WorkersError) -> None:
        """Save after the last finished step, where that is possible; else raise the error."""
        if self.evaluation_due:  # it is saved
            raise self._with_way_on(error)
        half_done = self._loader.state != self.loader_state
        if half_done or self.ranks.world_size > 1:  # the others are in the middle of the step
            raise error
        self._take_figures(most_left=0)
        self.save(self.last_checkpoint)
        self._workers_error = error

    def _with_way_on(self, error: WorkersError) -> WorkersError:
        return WorkersError(
            f"{error}. The run is saved after step {self.step}; {resume_command(self.folder)} continues it"
        )

    def loader(
        self, *, num_samples: int, position: int | None = None, num_workers: int | None = None
    ) -> TrainLoader:
        """Batches of this process; where none are given, from the present position on, by as many workers as are set.

        The error budget is that of the whole run.
        """
        config = self.config
        world_size = self.ranks.world_size
        budget = allowed_errors(
            config.data.error_budget,
            self.schedule.num_steps * config.optim.batch_size / world_size,
            num_videos=self.shards.num_samples(config.data.train_split),
            repeats=config.augment.repeats,
        )
        budget -= self.replaced_before / world_size + self._replaced_before
        return train_loader(
            self.shards,
            config.data.train_split,
            config.data.clip,
            batch_size=self.micro_batch,
            seed=config.run.seed,
            num_workers=config.data.num_workers if num_workers is None else num_workers,
            rank=self.ranks.rank,
            world_size=world_size,
            position=self.loader_state.position if position is None else position,
            num_samples=num_samples,
            repeats=config.augment.repeats,
            balanced=config.data.sampling == "balanced",
            error_budget=min(1.0, max(0.0, budget) * world_size / max(1, num_samples)),
            pixels=config.data.pixels_on(self.device.type),
            timeout=self._loader_timeout,
        )

    @property
    def _loader_timeout(self) -> float:
        """Seconds without a batch; other processes that wait for this one must not give up first."""
        timeout = self.config.train.timeout
        return timeout if self.ranks.world_size == 1 else timeout / 2

    def _train_step(self, batches: Iterator[DeviceBatch], stop: bool) -> StepResult:
        """Take one step."""
        return self.train_step(batches, step=self.step, rate=self.schedule.rate(self.step), stop=stop)

    def _checked(self, result: StepResult) -> StepValues:
        """Return the figures of a step, when they are finite."""
        values = result.values()
        if math.isfinite(values.loss) and (math.isfinite(values.grad_norm) or self._skips_overflow()):
            return values
        batches = self.ranks.gather(
            [
                {"rank": self.ranks.rank, "loss": loss, "keys": keys}
                for loss, keys in zip(result.micro_losses.tolist(), result.keys, strict=True)
            ]
        )
        flat = [batch for own in batches for batch in own]
        if self.ranks.is_first:
            write_json(
                self.folder / "diverged.json",
                {"step": result.step, "lr": result.rate, "grad_norm": values.grad_norm, "batches": flat},
            )
        guilty = [batch for batch in flat if not math.isfinite(batch["loss"])] or flat
        keys = [key for batch in guilty for key in batch["keys"]]
        raise on_every_rank(
            TrainingDiverged(diverged_message(values, result.step, result.rate, keys, self.folder))
        )

    def _skips_overflow(self) -> bool:
        """Whether fp16 skips a step and lowers the scale of the loss; below 1 the gradient itself overflows."""
        return self.config.run.precision == "fp16" and self.train_step.scaler.get_scale() >= 1

    def _evaluate(self, interrupted: Flag) -> None:
        """Evaluate, and save what came of it.

        Raises:
            Stopped: A process was asked to stop.
        """
        compiled = self.config.train.compile_mode(self.device.type) is not None
        # Compiling for its batches would take longer than it saves.
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            result = self._accuracy(interrupted)
        averaged_steps = None if self.averaged is None else self.averaged.num_steps
        self.log.evaluation(self.step, self._eval_split, result, averaged_steps=averaged_steps)
        self.evaluation_due = False
        names = self._names()
        self.stale_evaluations += 1
        if result.score > self.best_score:
            self.best_score = result.score
            self.stale_evaluations = 0
            names.insert(0, self.last_checkpoint.with_name(BEST))
        self.save(*names)

    def _accuracy(self, interrupted: Flag) -> EvalResult:
        config, split = self.config, self._eval_split
        if config.eval.precise_bn:
            self._estimate_statistics(interrupted)
        copy_buffers(self.classifier.model, self.ranks)
        with progress_bar(self.console) as bar:
            task = bar.add_task(f"eval {split}", total=self.shards.num_samples(split))
            return evaluate(
                self.classifier,
                self.shards,
                split,
                num_clips=config.eval.num_clips_training,
                batch_size=config.eval.batch_size,
                num_workers=config.data.num_workers,
                on_batch=lambda n: bar.advance(task, n * self.ranks.world_size),
                ranks=self.ranks,
                stop=lambda: self._has_to_stop(interrupted),
                timeout=self._loader_timeout,
            )

    @property
    def _eval_split(self) -> str:
        """The split of an evaluation, of which there is none without."""
        assert self.config.data.eval_split is not None
        return self.config.data.eval_split

    def _estimate_statistics(self, interrupted: Flag) -> None:
        """Estimate batch norm's statistics from the clips that come next."""
        loader = self.loader(num_samples=self.config.eval.precise_bn)

        def clips() -> Iterator[Tensor]:
            for batch in Prefetcher(loader, self.device):
                if self.ranks.any(self._has_to_stop(interrupted)):
                    raise Stopped
                yield normalize(batch.video, self.augment.dtype, clip=self.config.data.clip)

        with autocast(self.device, self.config.run.precision):
            estimate_statistics(self.classifier.model, clips(), len(loader), self.ranks)

    def _names(self) -> list[Path]:
        """Where the checkpoint of this step goes, the last one last: killed between two, the run makes them again."""
        kept = self.last_checkpoint.with_name(f"step-{self.step:08d}.pt")
        return [kept, self.last_checkpoint] if self.schedule.keeps(self.step) else [self.last_checkpoint]

    def save(self, *paths: str | Path) -> None:
        """Start to write everything the run needs to continue to `paths`; all processes call it."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        all_rng, replaced = zip(*self.ranks.gather((rng, self.replaced)), strict=True)
        if not self.ranks.is_first and not self.sharded:
            return
        self._check_owner()
        checkpoint = Checkpoint(
            step=self.step,
            config=config_to_dict(self.config),
            classes=self.shards.classes,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            loader=self.loader_state.to_dict(),
            rng=list(all_rng),
            best_score=self.best_score,
            train_seconds=self.train_seconds,
            scaler=self.train_step.scaler.state_dict(),
            ema={} if self.averaged is None else self.averaged.state_dict(),
            norm_batch=self._norm_batch(),
            evaluation_due=self.evaluation_due,
            stale_evaluations=self.stale_evaluations,
            replaced=self.replaced_before + sum(replaced),
            meter=self.meter.state_dict(),
            targets=asdict(self.targets),
        )
        self.writer.save(checkpoint, *map(Path, paths))

    def _norm_batch(self) -> int:
        return self.config.train.norm_batch(self.config.optim.batch_size, world_size=self.ranks.world_size)

    def _seed(self) -> None:
        """Random numbers of this process from here on."""
        words = [self.config.run.seed % 2**64, self.step, self.ranks.rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))

    def _find_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to continue, whose settings must be those of this run."""
        self.run_folder = RunFolder(self.folder, say=self._warn)
        checkpoint = self.run_folder.find_checkpoint(
            resume=self._resume, requeue=self._requeue, checkpoint_every=self.config.run.checkpoint_every
        )
        self._settle_pixels(checkpoint)
        if checkpoint is not None:
            source = str(self.run_folder.source)
            check_resumable(checkpoint, self.config, source=source, extend=self._extend)
        return checkpoint

    def _warn(self, line: str) -> None:
        self.console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _settle_pixels(self, checkpoint: Checkpoint | None = None) -> None:
        """Replace data.pixels=auto by what it means here; a run that goes on keeps what it had, on any device."""
        data = self.config.data
        if data.pixels == "auto":
            before = {} if checkpoint is None else checkpoint.config.get("data", {})
            pixels = before.get("pixels", data.pixels_on(self.device.type))
            data = data.model_copy(update={"pixels": pixels})
            self.config = self.config.model_copy(update={"data": data})

    def _tell_length(self, checkpoint: Checkpoint) -> None:
        """Say that a run is trained longer than it began with, or is at its end."""
        schedule, epochs = self.schedule, self.config.optim.epochs
        before = checkpoint.config["optim"]["epochs"]
        if epochs != before:
            self._say(
                f"optim.epochs is {epochs:g}, before {before:g}: from step {self.step} on the learning rate follows "
                f"the cosine that ends at step {schedule.num_steps}, from {schedule.rate(self.step):.3g}"
            )
        elif self.step >= schedule.num_steps and not checkpoint.evaluation_due:
            self._say(
                f"the run has all of its {schedule.num_steps} steps (optim.epochs={epochs:g}); to train it longer: "
                f"{resume_command(self.folder)} optim.epochs=..."
            )

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _check_same_videos(self, checkpoint: Checkpoint) -> None:
        """Refuse to go on with other packed videos than those that the run had: their order would mean others."""
        had, has = checkpoint.loader.get("manifest_hash"), self.shards.manifest_hash
        if had not in (None, has):
            folder = shlex.quote(str(self.folder))
            raise InputError(
                f"{self.config.data.shards} holds other packed videos (manifest {has[:12]}) than {self.folder} was "
                f"trained on ({had[:12]}): give those with --shards, or train another run (run.dir=) on these, from "
                f"the weights of this one with model.init_from={folder}"
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._check_same_videos(checkpoint)
        self.loader_state = LoaderState.from_dict(checkpoint.loader, expected=self.loader_state)
        if checkpoint.classes != self.shards.classes:
            raise InputError(
                f"{self.config.data.shards} has other classes than this run, or in another order"
            )
        load_weights(self.model, checkpoint.model, source=str(self.run_folder.source))
        load_optimizer(self.optimizer, checkpoint.optimizer)
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint.ema)
        if checkpoint.scaler:
            self.train_step.scaler.load_state_dict(checkpoint.scaler)
        self.step = checkpoint.step
        self._tell_length(checkpoint)
        self.best_score = checkpoint.best_score
        self.evaluation_due = checkpoint.evaluation_due
        self.stale_evaluations = checkpoint.stale_evaluations
        self.train_seconds = checkpoint.train_seconds
        self.replaced_before = checkpoint.replaced
        self.meter.load_state_dict(checkpoint.meter)
        if len(checkpoint.rng) != self.ranks.world_size:
            self._seed()
        else:
            rng = checkpoint.rng[self.ranks.rank]
            torch.set_rng_state(rng["cpu"])
            if self.device.type == "cuda" and "cuda" in rng:
                torch.cuda.set_rng_state(rng["cuda"], self.device)
        if checkpoint.norm_batch not in (None, self._norm_batch()):
            self.console.print(
                f"[yellow]batch norm normalized over {checkpoint.norm_batch} clips before, over "
                f"{self._norm_batch()} from here on[/]: the run will not end as it would have. With "
                f"train.micro_batch={checkpoint.norm_batch} and train.batch_norm=local it does for any number of "
                "processes",
                highlight=False,
                soft_wrap=True,
            )
