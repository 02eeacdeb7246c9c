"""The plan of a run that is not started: its size, memory, and time from a few real steps and batches."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat

import torch

from corrnet_models import count_parameters
from corrnet_train.config.schema import AugmentConfig, RunConfig
from corrnet_train.networks.build import build_from_config
from corrnet_train.networks.cost import activation_bytes, clip_gmacs
from corrnet_train.training.augment import Augment
from corrnet_train.training.loss import make_loss, tally
from corrnet_train.training.prefetch import DeviceBatch
from corrnet_train.training.step import TrainStep
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.kernels import chosen_kernels

_CPU_GMACS = 80  # of the clips that are timed at once without a GPU: a few seconds in fp32
_TIMED_STEPS = 2
_MOST_SECONDS = 20  # after which no further step is timed
_TIMED_BATCHES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes that training needs on each device.

    Attributes:
        weights: Parameters, buffers and, where they are kept, averaged weights.
        gradients: One for each parameter that learns.
        optimizer: Its state.
        activations: What the forward pass of a micro-batch keeps for the backward pass; scratch memory comes on top.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """What a run would be.

    Attributes:
        num_parameters: Parameters of the model, also those that do not learn.
        gmacs: Billions of multiply-accumulates of the forward pass of a clip.
        clip_shape: Channels, frames, height and width of a clip.
        num_train, num_eval: videos of the two splits.
        world_size, micro_batch, num_micro_batches: how the global batch is split.
        num_steps, num_warmup_steps: steps of the run.
        peak_lr: Largest learning rate.
        memory: For each device.
        clip_seconds: Time of a clip in training on one device.
        loader_seconds: Time of a clip in the loader of one process.
    """

    num_parameters: int
    gmacs: float
    clip_shape: tuple[int, int, int, int]
    num_train: int
    num_eval: int
    world_size: int
    micro_batch: int
    num_micro_batches: int
    num_steps: int
    num_warmup_steps: int
    peak_lr: float
    memory: Memory
    clip_seconds: float
    loader_seconds: float

    @property
    def seconds(self) -> float:
        """Time of the whole training, without evaluation; loading and computing take place at once."""
        clips = self.num_steps * self.micro_batch * self.num_micro_batches
        return clips * max(self.clip_seconds, self.loader_seconds)


def make_plan(trainer: Trainer) -> Plan:
    """Measure a few steps and batches of a run that has not begun; its weights stay as they are."""
    config = trainer.config
    clip = config.data.clip
    learning = count_parameters(trainer.model)
    gmacs = clip_gmacs(trainer.model, clip)
    state = {"sgd": 1 if config.optim.momentum else 0, "adamw": 2}[config.optim.name]
    copies = 1 + (trainer.averaged is not None)
    held = sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
    share = trainer.ranks.world_size if trainer.sharded else 1
    with chosen_kernels(deterministic=config.run.deterministic):
        clip_seconds = _clip_seconds(trainer, gmacs)
    return Plan(
        num_parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        gmacs=gmacs,
        clip_shape=(clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size),
        num_train=trainer.shards.num_samples(config.data.train_split),
        num_eval=0 if (split := config.data.eval_split) is None else trainer.shards.num_samples(split),
        world_size=trainer.ranks.world_size,
        micro_batch=trainer.micro_batch,
        num_micro_batches=trainer.num_micro_batches,
        num_steps=trainer.schedule.num_steps,
        num_warmup_steps=trainer.schedule.num_warmup_steps,
        peak_lr=config.optim.peak_lr,
        memory=Memory(
            weights=copies * held // share,
            gradients=4 * learning // share,
            optimizer=state * 4 * learning // share,
            activations=kept_bytes(config, len(trainer.shards.classes), trainer.micro_batch),
        ),
        clip_seconds=clip_seconds,
        loader_seconds=_loader_seconds(trainer),
    )


def kept_bytes(config: RunConfig, num_classes: int, num_clips: int) -> int:
    """Bytes that the forward pass of `num_clips` clips keeps for the backward pass, in the network of a run."""
    model = build_from_config(config, num_classes)
    if config.train.grad_checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    clip = config.data.clip
    shape = (num_clips, clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size)
    return activation_bytes(model, shape, config.run.precision)


def _clip_seconds(trainer: Trainer, gmacs: float) -> float:
    """Time of a clip in a training step, from a few steps on random clips with a learning rate of zero."""
    gpu = trainer.device.type == "cuda"
    num_clips = (
        trainer.micro_batch if gpu else min(trainer.micro_batch, max(1, round(_CPU_GMACS / max(gmacs, 1e-9))))
    )
    clip = trainer.config.data.clip
    shape = (num_clips, clip.num_frames, clip.crop_size, clip.crop_size, clip.num_channels)
    video = torch.randint(256, shape, dtype=torch.uint8, device=trainer.device).movedim(-1, 1)
    label = torch.zeros(num_clips, dtype=torch.int64, device=trainer.device)
    if trainer.targets.task != "multiclass":
        label = torch.zeros(num_clips, len(trainer.shards.classes), device=trainer.device)
    batch = DeviceBatch(video, label, [""] * num_clips)
    # One clip cannot be mixed.
    plain = Augment(AugmentConfig(), clip=clip, num_classes=1, micro_batch=1, dtype=trainer.augment.dtype)
    step = TrainStep(
        trainer.wrapped,
        torch.optim.SGD(trainer.model.parameters(), lr=0.0),
        device=trainer.device,
        precision=trainer.config.run.precision,
        loss=make_loss(trainer.targets),
        tally=tally(trainer.targets),
        prepare=trainer.augment if num_clips > 1 else plain,
    )
    buffers = [buffer.clone() for buffer in trainer.model.buffers()]
    seconds: list[float] = []
    compiles = trainer.config.train.compile_mode(trainer.device.type) is not None  # in the first step
    for number in range(1 + _TIMED_STEPS):
        if sum(seconds[compiles:]) > _MOST_SECONDS:
            break
        start = time.perf_counter()
        step(repeat(batch), step=number, rate=0.0).values()
        seconds.append(time.perf_counter() - start)
    for buffer, kept in zip(trainer.model.buffers(), buffers, strict=True):
        buffer.copy_(kept)
    return min(seconds[1:] or seconds) / num_clips  # the first one also warms up


def _loader_seconds(trainer: Trainer) -> float:
    """Time of a clip in the loader, once its processes have started."""
    num_batches = 1 + max(_TIMED_BATCHES, 2 * trainer.config.data.num_workers)
    loader = trainer.loader(num_samples=num_batches * trainer.micro_batch * trainer.ranks.world_size)
    batches: Iterator[object] = iter(loader)
    next(batches)
    start = time.perf_counter()
    rest = sum(1 for _ in islice(batches, num_batches))
    return (time.perf_counter() - start) / (rest * trainer.micro_batch)
