"""Test views: clips spaced uniformly over every video, each video counted once (paper section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from video_data.batches import ViewBatch, check_counts, make_data_loader, to_tensor
from video_data.clips import ClipConfig, clip_frames, view_boxes, view_starts
from video_data.decode import decode_frames
from video_data.probe import VideoError, VideoInfo, VideoSource, probe_video
from video_data.shards import ShardError, ShardSet


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
    check_counts(batch_size=batch_size, num_workers=num_workers, rank=rank, world_size=world_size)
    _check_views(num_clips, num_crops)
    dataset = _ViewDataset(shards, split, clip, num_clips, num_crops)
    num_videos = shards.num_samples(split)
    padded = -(-num_videos // world_size) * world_size
    rows = [index if index < num_videos else -1 for index in range(rank, padded, world_size)]
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    loader: DataLoader[ViewBatch] = make_data_loader(
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
        return to_tensor(_cut_views(source, probe_video(source), clip, num_clips, num_crops))
    except VideoError as error:
        name = f"{source}: " if isinstance(source, Path) else ""
        raise VideoError(f"{name}{error}") from error


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


def _collate_views(videos: Sequence[_Views]) -> ViewBatch:
    index = torch.tensor([video.index for video in videos])
    return ViewBatch(
        video=to_tensor(np.stack([video.pixels for video in videos])),
        label=torch.tensor([video.label for video in videos]),
        keys=[video.key for video in videos],
        index=index,
        valid=index >= 0,
    )


def _check_views(num_clips: int, num_crops: int) -> None:
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops must be 1 or 3, got {num_crops}")
