"""The loader of training clips, in an order that is a function of seed and position, so that a run resumes exactly."""

import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from video_data.loading._streams import Streams, check_streams, decode_streams, name_sample, read_streams
from video_data.loading.batches import (
    Batch,
    PixelFormat,
    Replacement,
    channels_first,
    check_options,
    label_tensor,
)
from video_data.media.limits import VideoError
from video_data.media.planes import PlaneLayout, YuvClips, decode_planes, join_planes
from video_data.sampling.clips import ClipConfig, ClipSpec, train_clip
from video_data.sampling.order import BalancedOrder, SampleOrder, hash_words
from video_data.shards.format import SampleRecord
from video_data.shards.reader import ShardError, ShardSet
from video_data.utils.error_budget import ErrorBudget, allowed_errors
from video_data.utils.errors import InputError, WorkError, describe
from video_data.utils.loader import LOADER_TIMEOUT, batch_buffer, make_data_loader
from video_data.utils.settings import changed_settings
from video_data.utils.workers import working_on

Transform = Callable[[Tensor], Tensor]
_MAX_REPLACEMENTS = 32  # neighbors that are tried for one unreadable sample


class LoaderState(BaseModel):
    """Where a training run stands in its stream of samples; nothing else is needed to go on exactly.

    Attributes:
        manifest_hash: `ShardSet.manifest_hash` of the set.
        split: Split that is read.
        seed: Seed of order and augmentation.
        position: Samples consumed so far by all ranks together.
        balanced: Whether classes come equally often.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest_hash: str
    split: str
    seed: int
    position: int = Field(ge=0)
    balanced: bool = False

    def advance(self, num_samples: int) -> Self:
        """Return the state after `num_samples` more samples, counted over all ranks."""
        return self.model_copy(update={"position": self.position + num_samples})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, expected: "LoaderState | None" = None) -> Self:
        """Restore a state.

        Args:
            values: What `to_dict` returned.
            expected: A state of the run that is to go on; its position does not matter.

        Raises:
            ValueError: A field is missing or wrong, or the set, split, seed or kind of order is not the expected one.
        """
        state = cls.model_validate(values)
        if expected is not None:
            names = ("manifest_hash", "split", "seed", "balanced")
            for name, (got, wanted) in changed_settings(vars(state), vars(expected), names=names).items():
                raise InputError(f"the saved loader state has {name} {got!r}, this run has {wanted!r}")
        return state


class TrainLoader:
    """An endless stream of training samples, cut into runs of batches. Use `train_loader` to make one.

    Each `iter()` goes on where the last batch ended, with the same worker processes.
    """

    def __init__(
        self,
        sampler: "_PositionSampler",
        loader: "DataLoader[Batch]",
        state: LoaderState,
        allowed: float,
    ) -> None:
        self._sampler = sampler
        self._loader = loader
        self._state = state
        self._budget = ErrorBudget(allowed)

    @property
    def replaced(self) -> Counter[str]:
        """How many samples of this rank were replaced since the last `iter()`, by reason."""
        return self._budget.counts

    @property
    def state(self) -> LoaderState:
        """The state after the last batch that was handed out."""
        return self._state

    def __len__(self) -> int:
        """Batches of one run."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield `len(self)` batches. The first sample that is replaced for a reason is logged as a warning.

        Raises:
            WorkError: More samples than the error budget allows could not be read.
        """
        self._sampler.position = self._state.position
        self._budget.clear()
        for batch in self._loader:
            for sample in batch.replaced:
                self._budget.add(*sample)
            self._state = self._state.advance(self._sampler.global_batch)
            yield batch


def train_loader(
    shards: ShardSet,
    split: str,
    clip: ClipConfig,
    *,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    position: int = 0,
    num_samples: int | None = None,
    repeats: int = 1,
    balanced: bool = False,
    error_budget: float | None = None,
    pixels: PixelFormat = "rgb",
    transform: Transform | None = None,
    timeout: float = LOADER_TIMEOUT,
) -> TrainLoader:
    """Load training clips in an order that depends on (manifest, split, seed) alone.

    The stream of samples has no end: pass after pass over the split, each in its own order, and batches may
    straddle two passes. Global batch b holds the positions from `position + b * batch_size * world_size` on;
    rank r takes the r-th slice of `batch_size`. So each sample is used exactly once a pass for any number of
    ranks and workers, and a run resumes exactly by starting at the position where it stopped.

    Args:
        shards: An open shard set.
        split: Split to read.
        clip: The clip that is cut from each video.
        batch_size: Samples of a batch on each rank.
        seed: Seed of order and augmentation.
        num_workers: Decoding processes; 0 decodes in this process. `suggest_num_workers` knows a good number.
        rank: Number of this process among those that train together.
        world_size: Number of processes that train together.
        position: Samples consumed before, by all ranks.
        num_samples: Samples of one iteration over all ranks, rounded up to whole global batches; None means
            one pass.
        repeats: Positions in a row that hold the same sample, each with a clip of its own (repeated augmentation); a
            pass is that much longer. `batch_size` must be a multiple of it.
        balanced: Whether each class comes equally often, as `BalancedOrder` says, and not each sample. The index of
            every shard is read at once then, and a pass is still as long as the split.
        error_budget: Fraction of the samples of one iteration that may be unreadable; None stands for 0.01, and in
            small sets for 5 videos of each pass. Each is replaced by the next readable one in the order and listed in
            its batch; beyond the budget the loader raises WorkError.
        pixels: `rgb` for tensors, `yuv` for planes that `to_rgb` or `normalize` resizes and converts on the device.
        transform: Called with each clip in the worker that has decoded it, uint8 [L, C, H, W] as
            `torchvision.transforms.v2` takes videos; it returns another one of that shape and type. The random numbers
            of torch, NumPy and Python that it draws depend on seed and position alone, so that a run that goes on
            and any number of workers give the same clips. For `pixels="rgb"`.
        timeout: Seconds without a batch after which the workers are given up.

    Raises:
        ValueError: There is no such split, a number is out of its range, `transform` cannot be sent to workers or is
            for planes, the set was packed without the flow that
            `clip` asks for, or `balanced` is for a set whose samples are not of one class each.
        ShardError: With `balanced`, an index cannot be read.
    """
    check_options(
        batch_size=batch_size,
        num_workers=num_workers,
        rank=rank,
        world_size=world_size,
        pixels=pixels,
        timeout=timeout,
    )
    check_streams(shards, clip, pixels)
    if transform is not None:
        _check_transform(transform, pixels, num_workers)
    if balanced and shards.task != "multiclass":
        raise InputError(
            f"balanced is for sets whose samples are of one class each; the task of this one is {shards.task}"
        )
    if position < 0:
        raise InputError(f"position must be at least 0, got {position}")
    if repeats < 1 or batch_size % repeats:
        raise InputError(
            f"repeats must divide the batch of a rank, so that it holds whole repetitions; got repeats={repeats} with "
            f"batch_size={batch_size}"
        )
    if num_samples is None:
        num_samples = repeats * shards.num_samples(split)
    if num_samples < 0:
        raise InputError(f"num_samples must be at least 0, got {num_samples}")
    order: SampleOrder | BalancedOrder = SampleOrder(shards.shard_sizes(split), seed=seed)
    if balanced:
        order = BalancedOrder(np.array([sample.label for sample in shards.samples(split)]), seed=seed)
    dataset = _TrainDataset(shards, split, clip, seed, pixels, repeats, order, transform)
    sampler = _PositionSampler(batch_size, rank, world_size, position, num_samples)
    allowed = allowed_errors(
        error_budget, len(sampler) * batch_size, num_videos=shards.num_samples(split), repeats=repeats
    )
    loader: DataLoader[Batch] = make_data_loader(dataset, sampler, num_workers, timeout=timeout)
    state = LoaderState(
        manifest_hash=shards.manifest_hash, split=split, seed=seed, position=position, balanced=balanced
    )
    return TrainLoader(sampler, loader, state, allowed=allowed)


def _check_transform(transform: Transform, pixels: PixelFormat, num_workers: int) -> None:
    if pixels != "rgb":
        raise InputError(f"transform takes pixels 'rgb', got {pixels!r}: planes are converted on the device")
    if num_workers:
        try:
            pickle.dumps(transform)
        except Exception as error:  # whatever pickling by its own code raises
            raise InputError(
                f"transform cannot be sent to decoding processes ({describe(error)}): define it at the top of a "
                "module, or give num_workers=0"
            ) from error


def _transformed(transform: Transform, clip: Tensor, seed: int, position: int) -> Tensor:
    """Return what a transform makes of a clip [C, L, H, W]; the state of the generators of random numbers stays."""
    words = hash_words(seed, position, 3, num_words=3)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(words[0])
            np.random.seed(words[1] % 2**32)
            random.seed(words[2])
            made = transform(clip.transpose(0, 1))
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
    expected = list(clip.transpose(0, 1).shape)
    if not isinstance(made, Tensor) or made.dtype != torch.uint8 or list(made.shape) != expected:
        got = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise InputError(f"transform must return uint8 {expected} [L, C, H, W], as it gets; got {got}")
    return made.transpose(0, 1)


class _PositionSampler(Sampler[list[int]]):
    """Positions of the batches of one rank, from `position` on."""

    def __init__(self, batch_size: int, rank: int, world_size: int, position: int, num_samples: int) -> None:
        self.position = position
        self.global_batch = batch_size * world_size
        self._batch_size = batch_size
        self._rank = rank
        self._num_batches = -(-num_samples // self.global_batch)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position + self._rank * self._batch_size
        for first in range(start, start + self._num_batches * self.global_batch, self.global_batch):
            yield list(range(first, first + self._batch_size))


class _TrainDataset(Dataset[Batch]):
    """Batches of training clips by global positions."""

    def __init__(
        self,
        shards: ShardSet,
        split: str,
        clip: ClipConfig,
        seed: int,
        pixels: PixelFormat,
        repeats: int,
        order: SampleOrder | BalancedOrder,
        transform: Transform | None,
    ) -> None:
        self._shards = shards
        self._split = split
        self._clip = clip
        self._seed = seed
        self._pixels = pixels
        self._repeats = repeats
        self._order = order
        self._transform = transform
        self._num_samples = shards.num_samples(split)

    def __getitem__(self, positions: list[int]) -> Batch:
        clips = (_RgbClips if self._pixels == "rgb" else _YuvClips)(len(positions), self._clip)
        replaced: list[Replacement] = []
        records = [self._read(position, clips, row, replaced) for row, position in enumerate(positions)]
        video = clips.video()
        if self._transform is not None:
            assert isinstance(video, Tensor)
            for position, clip in zip(positions, video, strict=True):
                clip.copy_(_transformed(self._transform, clip, self._seed, position))
        return Batch(
            video=video,
            label=label_tensor(self._shards, records),
            keys=[record.key for record in records],
            positions=positions,
            replaced=replaced,
        )

    def describe(self, index: int) -> str:
        """Name a sample of the split for a message."""
        return name_sample(self._shards, self._split, index)

    def _read(
        self, position: int, clips: "_RgbClips | _YuvClips", row: int, replaced: list[Replacement]
    ) -> SampleRecord:
        """Read the sample at a position, or the next in the order that can be read, into a row of `clips`."""
        tries = min(_MAX_REPLACEMENTS, self._num_samples)
        for step in range(tries):
            index = self._order(position // self._repeats, step)
            key = f"{self._split}/{index}"
            working_on(index)
            try:
                record = self._shards.sample(self._split, index)
                key = record.key
                info = self._shards.info(self._split, index)
                spec = train_clip(info, info.display_size, self._clip, seed=self._seed, position=position)
                streams = read_streams(self._shards, self._split, index, info, self._clip)
                clips.read(row, streams, spec)
            except (VideoError, ShardError) as error:
                replaced.append(Replacement(key, error.reason, str(error)))
            else:
                return record
        last = replaced[-1]
        raise WorkError(f"{tries} samples in a row could not be read; {last.key}: {last.message}")


class _RgbClips:
    """Decodes the clips of a batch straight into their rows."""

    def __init__(self, num_clips: int, clip: ClipConfig) -> None:
        self._size = clip.crop_size
        self._clips = batch_buffer(num_clips, clip.num_frames, self._size, self._size, clip.num_channels)

    def read(self, row: int, streams: Streams, spec: ClipSpec) -> None:
        out = self._clips[row].numpy()[None, None]
        decode_streams(streams, [spec.frames], [spec.box], self._size, flip=spec.flip, out=out)

    def video(self) -> torch.Tensor:
        return channels_first(self._clips)


class _YuvClips:
    """Decodes the clips of a batch as planes."""

    def __init__(self, num_clips: int, clip: ClipConfig) -> None:
        self._shape, self._size = (num_clips,), clip.crop_size
        self._num_frames = clip.num_frames
        self._parts: list[tuple[PlaneLayout, np.ndarray]] = []

    def read(self, row: int, streams: Streams, spec: ClipSpec) -> None:
        assert streams.rgb is not None
        frames, inverse = np.unique(spec.frames, return_inverse=True)
        ((layout, planes),) = decode_planes(*streams.rgb, frames.tolist(), [spec.box])
        layout = replace(layout, flip=spec.flip, clips=((row, tuple(inverse.tolist())),))
        self._parts.append((layout, planes))

    def video(self) -> YuvClips:
        return join_planes(self._parts, shape=self._shape, size=self._size, num_frames=self._num_frames)
