"""Loaders: batches of training clips in a resumable order, and test views of every video."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from video_data.clips import ClipConfig, clip_frames, train_clip, view_boxes, view_starts
from video_data.decode import decode_frames
from video_data.manifest import SampleRecord
from video_data.order import SampleOrder
from video_data.probe import VideoError, VideoInfo, VideoSource, probe_video
from video_data.shards import ShardError, ShardSet

_MAX_REPLACEMENTS = 32  # neighbours that are tried for one unreadable sample


class LoaderState(BaseModel):
    """Where a training run stands in its stream of samples; nothing else is needed to go on exactly.

    Attributes:
        manifest_hash: `ShardSet.manifest_hash` of the set.
        split: split that is read.
        seed: seed of order and augmentation.
        position: samples consumed so far by all ranks together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest_hash: str
    split: str
    seed: int
    position: int = Field(ge=0)

    def advance(self, num_samples: int) -> Self:
        """The state after `num_samples` more samples, counted over all ranks."""
        return self.model_copy(update={"position": self.position + num_samples})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, expected: "LoaderState | None" = None) -> Self:
        """Restores a state.

        Args:
            values: what `to_dict` returned.
            expected: a state of the run that is to go on; its position does not matter.

        Raises:
            ValueError: a field is missing or wrong, or the set, split or seed is not the expected one.
        """
        state = cls.model_validate(values)
        if expected is not None:
            for name in ("manifest_hash", "split", "seed"):
                got, wanted = getattr(state, name), getattr(expected, name)
                if got != wanted:
                    raise ValueError(f"the saved loader state has {name} {got!r}, this run has {wanted!r}")
        return state


@dataclass
class Batch:
    """Training clips.

    Attributes:
        video: uint8 [N, 3, L, H, W] with the strides of channels_last_3d.
        label: int64 [N].
        keys: key of each sample.
        positions: global position of each sample.
        replaced: key and reason of each sample that could not be read; another took its place.
    """

    video: Tensor
    label: Tensor
    keys: list[str]
    positions: list[int]
    replaced: list[tuple[str, str]]

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory with the same strides."""
        return replace(self, video=_pin_clips(self.video), label=self.label.pin_memory())


@dataclass
class ViewBatch:
    """Test views of videos.

    Attributes:
        video: uint8 [B, V, 3, L, H, W]; each [V, 3, L, H, W] has the strides of channels_last_3d. The views
            are ordered by clip, then by crop.
        label: int64 [B]; -1 where `valid` is false.
        keys: key of each video; empty where `valid` is false.
        index: int64 [B], index of each video in its split; -1 where `valid` is false.
        valid: bool [B]; false marks rows that only fill up the batch of a rank and must not be counted.
    """

    video: Tensor
    label: Tensor
    keys: list[str]
    index: Tensor
    valid: Tensor = field(repr=False)

    def pin_memory(self) -> "ViewBatch":
        """A copy in page-locked memory with the same strides."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("label", "index", "valid")}
        return replace(self, video=_pin_clips(self.video), **pinned)


class TrainLoader:
    """An endless stream of training samples, cut into runs of batches. Use `train_loader` to make one.

    Each `iter()` goes on where the last batch ended, with the same worker processes.

    Attributes:
        num_replaced: samples of this rank replaced since the last `iter()`.
    """

    def __init__(
        self,
        sampler: "_PositionSampler",
        loader: "DataLoader[Batch]",
        state: LoaderState,
        allowed: float,
    ) -> None:
        self.num_replaced = 0
        self._sampler = sampler
        self._loader = loader
        self._state = state
        self._allowed = allowed

    @property
    def state(self) -> LoaderState:
        """The state after the last batch that was handed out."""
        return self._state

    def __len__(self) -> int:
        """Batches of one run."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yields `len(self)` batches.

        Raises:
            RuntimeError: more samples than the error budget allows could not be read.
        """
        self._sampler.position = self._state.position
        self.num_replaced = 0
        reasons: dict[str, int] = {}
        for batch in self._loader:
            for _, reason in batch.replaced:
                reasons[reason] = reasons.get(reason, 0) + 1
            self.num_replaced += len(batch.replaced)
            if self.num_replaced > self._allowed:
                summary = "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
                raise RuntimeError(
                    f"{self.num_replaced} samples could not be read, the error budget allows "
                    f"{int(self._allowed)} in this run: {summary}. Last one: {batch.replaced[-1][0]}"
                )
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
    error_budget: float = 0.01,
    multiprocessing_context: str | None = None,
) -> TrainLoader:
    """Loads training clips in an order that depends on (manifest, split, seed) alone.

    The stream of samples has no end: pass after pass over the split, each in its own order, and batches may
    straddle two passes. Global batch b holds the positions from `position + b * batch_size * world_size` on;
    rank r takes the r-th slice of `batch_size`. So each sample is used exactly once a pass for any number of
    ranks and workers, and a run resumes exactly by starting at the position where it stopped.

    Args:
        shards: an open shard set.
        split: split to read.
        clip: the clip that is cut from each video.
        batch_size: samples of a batch on each rank.
        seed: seed of order and augmentation.
        num_workers: decoding processes; 0 decodes in this process.
        rank: number of this process among those that train together.
        world_size: number of processes that train together.
        position: samples consumed before, by all ranks.
        num_samples: samples of one iteration over all ranks, rounded up to whole global batches; None means
            one pass.
        error_budget: fraction of the samples of one iteration that may be unreadable. Each is replaced by the
            next readable one in the order and listed in its batch; beyond the budget the loader raises
            RuntimeError.
        multiprocessing_context: how workers start, `fork`, `spawn` or `forkserver`; None means the system's
            way.

    Raises:
        ValueError: there is no such split, or a number is out of its range.
    """
    _check_counts(batch_size=batch_size, num_workers=num_workers, rank=rank, world_size=world_size)
    if position < 0:
        raise ValueError(f"position must be at least 0, got {position}")
    if not 0 <= error_budget <= 1:
        raise ValueError(f"error_budget is a fraction from 0 to 1, got {error_budget}")
    if num_samples is None:
        num_samples = shards.num_samples(split)
    if num_samples < 0:
        raise ValueError(f"num_samples must be at least 0, got {num_samples}")
    dataset = _TrainDataset(shards, split, clip, seed)
    sampler = _PositionSampler(batch_size, rank, world_size, position, num_samples)
    loader: DataLoader[Batch] = _data_loader(
        dataset, sampler, _collate_clips, num_workers, multiprocessing_context
    )
    state = LoaderState(manifest_hash=shards.manifest_hash, split=split, seed=seed, position=position)
    return TrainLoader(sampler, loader, state, allowed=error_budget * len(sampler) * batch_size)


def test_loader(
    shards: ShardSet,
    split: str,
    clip: ClipConfig,
    *,
    num_clips: int = 10,
    num_crops: int = 1,
    batch_size: int = 1,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    multiprocessing_context: str | None = None,
) -> "DataLoader[ViewBatch]":
    """Loads every video of a split once, as clips spaced uniformly over it (paper section 5).

    The shorter side counts as resized to the smaller end of `clip.short_side_range`. Rank r takes the videos
    r, r + world_size, and so on; ranks that have one video less get a row with `valid` false at the end.

    Args:
        shards: an open shard set.
        split: split to read.
        clip: the clip that the network sees.
        num_clips: clips of each video; 10 in the paper, 30 for the last rows of its Tables 6 and 7.
        num_crops: crops of each clip: 1 for the centre, 3 spread along the longer side.
        batch_size: videos of a batch on each rank; the last batch may be smaller.
        num_workers: decoding processes; 0 decodes in this process.
        rank: number of this process among those that test together.
        world_size: number of processes that test together.
        multiprocessing_context: how workers start, `fork`, `spawn` or `forkserver`; None means the system's
            way.

    Raises:
        ValueError: there is no such split, or a number is out of its range.
        RuntimeError: while iterating, a video cannot be read; a result over fewer videos would be a different
            one.
    """
    _check_counts(batch_size=batch_size, num_workers=num_workers, rank=rank, world_size=world_size)
    _check_views(num_clips, num_crops)
    dataset = _ViewDataset(shards, split, clip, num_clips, num_crops)
    num_videos = shards.num_samples(split)
    padded = -(-num_videos // world_size) * world_size
    rows = [index if index < num_videos else -1 for index in range(rank, padded, world_size)]
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    loader: DataLoader[ViewBatch] = _data_loader(
        dataset, batches, _collate_views, num_workers, multiprocessing_context
    )
    return loader


def decode_views(source: VideoSource, clip: ClipConfig, num_clips: int, *, num_crops: int = 1) -> Tensor:
    """Cuts the test views of one video, exactly as `test_loader` does for a packed one.

    Args:
        source: path or content of a video.
        clip: the clip that the network sees.
        num_clips: clips spaced uniformly over the video.
        num_crops: crops of each clip: 1 for the centre, 3 spread along the longer side.

    Returns:
        uint8 [num_clips * num_crops, 3, L, H, W] with the strides of channels_last_3d.

    Raises:
        ValueError: the video cannot be read; the message says why.
    """
    _check_views(num_clips, num_crops)
    try:
        return _to_tensor(_cut_views(source, probe_video(source), clip, num_clips, num_crops))
    except VideoError as error:
        name = f"{source}: " if isinstance(source, Path) else ""
        raise VideoError(f"{name}{error}") from error


def normalize(video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scales pixels to about zero mean and unit variance: (video / 255 - 0.45) / 0.225 for every channel.

    The paper gives no constants; these are close to the means and deviations of natural video. It runs on the
    device of `video` and keeps its strides.

    Args:
        video: uint8 tensor of any shape.
        dtype: type of the result; the arithmetic is float32.

    Raises:
        ValueError: `video` is not uint8.
    """
    if video.dtype != torch.uint8:
        raise ValueError(f"normalize takes uint8 pixels, got {video.dtype}")
    return video.float().sub_(0.45 * 255).mul_(1 / (0.225 * 255)).to(dtype)


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


@dataclass
class _Clip:
    """One decoded training sample; `pixels` is uint8 [L, H, W, 3]."""

    pixels: np.ndarray
    label: int
    key: str
    position: int
    replaced: list[tuple[str, str]]


class _TrainDataset(Dataset[_Clip]):
    """Training clips by global position."""

    def __init__(self, shards: ShardSet, split: str, clip: ClipConfig, seed: int) -> None:
        self._shards = shards
        self._split = split
        self._clip = clip
        self._seed = seed
        self._order = SampleOrder(shards.shard_sizes(split), seed=seed)

    def __getitem__(self, position: int) -> _Clip:
        pass_index, offset = divmod(position, self._order.num_samples)
        replaced: list[tuple[str, str]] = []
        for step in range(min(_MAX_REPLACEMENTS, self._order.num_samples)):
            index = self._order.at(pass_index, (offset + step) % self._order.num_samples)
            record = self._shards.sample(self._split, index)
            try:
                pixels = self._read_clip(index, record, position)
            except (VideoError, ShardError) as error:
                replaced.append((record.key, str(error)))
            else:
                return _Clip(pixels, record.label, record.key, position, replaced)
        raise RuntimeError(
            f"{len(replaced)} samples in a row could not be read; {replaced[-1][0]}: {replaced[-1][1]}"
        )

    def _read_clip(self, index: int, record: SampleRecord, position: int) -> np.ndarray:
        info = record.video_info()
        spec = train_clip(info.num_frames, info.display_size, self._clip, seed=self._seed, position=position)
        frames, inverse = np.unique(spec.frames, return_inverse=True)
        content = self._shards.read(self._split, index)
        decoded = decode_frames(content, info, frames.tolist(), [spec.box], self._clip.crop_size)[0]
        clip: np.ndarray = decoded if len(frames) == len(spec.frames) else decoded[inverse]
        return clip[:, :, ::-1] if spec.flip else clip


@dataclass
class _Views:
    """One decoded test video; `pixels` is uint8 [V, L, H, W, 3]."""

    pixels: np.ndarray
    label: int
    key: str
    index: int


class _ViewDataset(Dataset[_Views]):
    """Test views by index in the split; -1 gives a row that fills up a batch."""

    def __init__(
        self, shards: ShardSet, split: str, clip: ClipConfig, num_clips: int, num_crops: int
    ) -> None:
        self._shards = shards
        self._split = split
        self._clip = clip
        self._views = (num_clips, num_crops)

    def __getitem__(self, index: int) -> _Views:
        if index < 0:
            size = self._clip.crop_size
            shape = (self._views[0] * self._views[1], self._clip.num_frames, size, size, 3)
            return _Views(np.zeros(shape, dtype=np.uint8), -1, "", -1)
        record = self._shards.sample(self._split, index)
        try:
            content = self._shards.read(self._split, index)
            pixels = _cut_views(content, record.video_info(), self._clip, *self._views)
        except (VideoError, ShardError) as error:
            raise RuntimeError(
                f"test video {record.key} of split {self._split} cannot be read: {error}"
            ) from error
        return _Views(pixels, record.label, record.key, index)


def _cut_views(
    source: VideoSource, info: VideoInfo, clip: ClipConfig, num_clips: int, num_crops: int
) -> np.ndarray:
    """Views of a video, uint8 [num_clips * num_crops, L, H, W, 3], from one pass over their frames."""
    wanted = [
        clip_frames(info.num_frames, clip, start) for start in view_starts(info.num_frames, clip, num_clips)
    ]
    frames, inverse = np.unique(wanted, return_inverse=True)
    boxes = view_boxes(info.display_size, clip, num_crops)
    decoded = decode_frames(source, info, frames.tolist(), boxes, clip.crop_size)
    views = decoded[:, inverse.reshape(num_clips, clip.num_frames)]  # [crops, clips, L, H, W, 3]
    return views.swapaxes(0, 1).reshape(num_clips * num_crops, *views.shape[2:])


def _collate_clips(clips: Sequence[_Clip]) -> Batch:
    return Batch(
        video=_to_tensor(np.stack([clip.pixels for clip in clips])),
        label=torch.tensor([clip.label for clip in clips]),
        keys=[clip.key for clip in clips],
        positions=[clip.position for clip in clips],
        replaced=[entry for clip in clips for entry in clip.replaced],
    )


def _collate_views(videos: Sequence[_Views]) -> ViewBatch:
    index = torch.tensor([video.index for video in videos])
    return ViewBatch(
        video=_to_tensor(np.stack([video.pixels for video in videos])),
        label=torch.tensor([video.label for video in videos]),
        keys=[video.key for video in videos],
        index=index,
        valid=index >= 0,
    )


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """Moves the channels of [..., L, H, W, 3] to [..., 3, L, H, W] without copying."""
    return torch.from_numpy(pixels).movedim(-1, -4)


def _pin_clips(video: Tensor) -> Tensor:
    return video.movedim(-4, -1).pin_memory().movedim(-1, -4)


def _data_loader(
    dataset: Dataset[Any],
    batches: Any,
    collate: Callable[[Any], Any],
    num_workers: int,
    multiprocessing_context: str | None,
) -> "DataLoader[Any]":
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        multiprocessing_context=multiprocessing_context if num_workers else None,
        generator=torch.Generator(),  # else each iter() would draw from the global random state
    )


def _start_worker(worker: int) -> None:
    """Workers decode on one thread each and leave Ctrl-C to the main process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_counts(*, batch_size: int, num_workers: int, rank: int, world_size: int) -> None:
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and num_workers at least 0, got {batch_size} and {num_workers}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1, got rank {rank} of world_size {world_size}")


def _check_views(num_clips: int, num_crops: int) -> None:
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops must be 1 or 3, got {num_crops}")
