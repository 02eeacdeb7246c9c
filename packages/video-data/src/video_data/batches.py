"""What the loaders hand out, and what both of them need."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


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


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Moves the channels of [..., L, H, W, 3] to [..., 3, L, H, W] without copying."""
    return torch.from_numpy(pixels).movedim(-1, -4)


def _pin_clips(video: Tensor) -> Tensor:
    return video.movedim(-4, -1).pin_memory().movedim(-1, -4)


def make_data_loader(
    dataset: Dataset[Any],
    batches: Any,
    collate: Callable[[Any], Any],
    num_workers: int,
    multiprocessing_context: str | None,
) -> "DataLoader[Any]":
    """A DataLoader whose workers stay alive between iterations and decode on one thread each."""
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


def check_counts(*, batch_size: int, num_workers: int, rank: int, world_size: int) -> None:
    """Raises ValueError for a number out of its range."""
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and num_workers at least 0, got {batch_size} and {num_workers}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1, got rank {rank} of world_size {world_size}")
