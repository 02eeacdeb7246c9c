"""The loader of test views: clips spaced uniformly over every video, each video counted once (paper section 5)."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from video_data.loading._streams import Streams, check_streams, decode_streams, name_sample, read_streams
from video_data.loading.batches import (
    PixelFormat,
    Unreadable,
    ViewBatch,
    ViewStart,
    channels_first,
    check_options,
    check_pixels,
    label_tensor,
)
from video_data.media.container import VideoInfo, VideoSource, probe_video
from video_data.media.decode import unique_frames
from video_data.media.encode import index_video, reencode, warn_of_flaws
from video_data.media.flow import flow_video
from video_data.media.limits import VideoError
from video_data.media.pictures import holds_pictures, pictures_video
from video_data.media.planes import PlaneLayout, YuvClips, decode_planes, join_planes
from video_data.sampling.clips import DEFAULT_NUM_CLIPS, ClipConfig, clip_frames, view_boxes, view_starts
from video_data.shards.format import SampleRecord
from video_data.shards.pack_options import PackOptions
from video_data.shards.reader import ShardError, ShardSet
from video_data.utils.errors import InputError, WorkError
from video_data.utils.loader import LOADER_TIMEOUT, batch_buffer, make_data_loader
from video_data.utils.workers import working_on


def eval_loader(
    shards: ShardSet,
    split: str,
    clip: ClipConfig,
    *,
    num_clips: int = DEFAULT_NUM_CLIPS,
    num_crops: int = 1,
    batch_size: int = 1,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    first: int = 0,
    pixels: PixelFormat = "rgb",
    skip_unreadable: bool = False,
    timeout: float = LOADER_TIMEOUT,
) -> "DataLoader[ViewBatch]":
    """Load every video of a split once, as clips spaced uniformly over it (paper section 5).

    The shorter side counts as resized to the smaller end of `clip.short_side_range`. Rank r takes the videos
    r, r + world_size, and so on; ranks that have one video less get a row with `valid` false at the end.

    Args:
        shards: An open shard set.
        split: Split to read.
        clip: The clip that the network sees.
        num_clips: Clips of each video; 10 in the paper, 30 for the last rows of its Tables 6 and 7.
        num_crops: Crops of each clip: 1 for the center, 3 spread along the longer side.
        batch_size: Videos of a batch on each rank; the last batch may be smaller.
        num_workers: Decoding processes; 0 decodes in this process.
        rank: Number of this process among those that test together.
        world_size: Number of processes that test together.
        first: Number of the video to begin with, to go on where testing was stopped.
        pixels: `rgb` for tensors, `yuv` for planes that `to_rgb` or `normalize` resizes and converts on the device.
        skip_unreadable: Whether a video that cannot be read gives a row with `valid` false and is listed in
            `ViewBatch.unreadable`, in place of an error.
        timeout: Seconds without a batch after which the workers are given up.

    Raises:
        ValueError: There is no such split, a number is out of its range, or the set was packed without the flow that
            `clip` asks for.
        WorkError: While iterating, a video cannot be read; a result over fewer videos would be a different
            one. Not with `skip_unreadable`.
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
    _check_views(num_clips, num_crops)
    dataset = _ViewDataset(shards, split, clip, num_clips, num_crops, pixels, skip_unreadable)
    num_videos = shards.num_samples(split)
    if not 0 <= first <= num_videos:
        raise InputError(f"first must be from 0 to the {num_videos} videos of split {split}, got {first}")
    end = first - (first - num_videos) // world_size * world_size  # equally many for each rank
    rows = [index if index < num_videos else -1 for index in range(first + rank, end, world_size)]
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    loader: DataLoader[ViewBatch] = make_data_loader(dataset, batches, num_workers, timeout=timeout)
    return loader


@overload
def decode_views(
    source: VideoSource | str,
    clip: ClipConfig,
    num_clips: int,
    *,
    num_crops: int = 1,
    pixels: Literal["rgb"] = "rgb",
) -> Tensor: ...


@overload
def decode_views(
    source: VideoSource | str, clip: ClipConfig, num_clips: int, *, num_crops: int = 1, pixels: Literal["yuv"]
) -> YuvClips: ...


@overload
def decode_views(
    source: VideoSource | str, clip: ClipConfig, num_clips: int, *, num_crops: int = 1, pixels: PixelFormat
) -> Tensor | YuvClips: ...


def decode_views(
    source: VideoSource | str,
    clip: ClipConfig,
    num_clips: int,
    *,
    num_crops: int = 1,
    pixels: PixelFormat = "rgb",
) -> Tensor | YuvClips:
    """Cut the test views of one video, exactly as `eval_loader` does for a packed one.

    A video whose frames cannot be found by their times is encoded again first. For optical flow it is encoded as
    packing does by default, and its flow computed (extra `flow`).

    Args:
        source: Path or content of a video, or a folder of pictures, which counts as 25 frames a second; also such a
            folder and the pattern of the pictures in it that are meant, as `clip/img_*.jpg`.
        clip: The clip that the network sees.
        num_clips: Clips spaced uniformly over the video.
        num_crops: Crops of each clip: 1 for the center, 3 spread along the longer side.
        pixels: `rgb` for a tensor, `yuv` for planes that `to_rgb` resizes and converts.

    Returns:
        uint8 [num_clips * num_crops, C, L, H, W] with the strides of channels_last_3d, or planes of that shape.

    Raises:
        ValueError: The video cannot be read; the message says why.
        ImportError: Flow is wanted and OpenCV is missing.
    """
    return _decode_views(source, clip, num_clips, num_crops=num_crops, pixels=pixels)[0]


def decode_timed_views(
    source: VideoSource | str,
    clip: ClipConfig,
    num_clips: int,
    *,
    pixels: PixelFormat = "rgb",
    name: str = "",
) -> tuple[Tensor | YuvClips, list[ViewStart]]:
    """Cut the test views of one video as `decode_views` does, and say where they begin.

    Args:
        source: As for `decode_views`.
        clip: The clip that the network sees.
        num_clips: Clips spaced uniformly over the video.
        pixels: As for `decode_views`.
        name: What warnings call the video; empty takes its path.

    Returns:
        uint8 [num_clips, C, L, H, W], or planes of that shape, and the start of each clip.

    Raises:
        ValueError: The video cannot be read; the message says why.
        ImportError: Flow is wanted and OpenCV is missing.
    """
    return _decode_views(source, clip, num_clips, num_crops=1, pixels=pixels, name=name)


def _decode_views(
    source: VideoSource | str,
    clip: ClipConfig,
    num_clips: int,
    *,
    num_crops: int,
    pixels: PixelFormat,
    name: str = "",
) -> tuple[Tensor | YuvClips, list[ViewStart]]:
    _check_views(num_clips, num_crops)
    check_pixels(pixels)
    if clip.modality != "rgb" and pixels != "rgb":
        raise InputError(f"modality {clip.modality!r} needs pixels 'rgb', got {pixels!r}")
    source = Path(source) if isinstance(source, str) else source
    prefix = "" if isinstance(source, bytes) else f"{source}: "
    name = name or ("a video" if isinstance(source, bytes) else str(source))
    try:
        if isinstance(source, Path) and holds_pictures(source):
            source = pictures_video(source)
        views = _Views(num_clips, num_crops, clip)
        if clip.modality != "rgb":
            streams, info = _with_flow(source, clip, name)
        else:
            source, info = index_video(source, name)
            streams = Streams((source, info))
        if pixels == "rgb":
            out = np.empty(views.shape, dtype=np.uint8)
            views.read_rgb(streams, info, out)
            return channels_first(torch.from_numpy(out)), views.starts(info)
        parts = views.read_planes(source, info)
        planes = join_planes(parts, shape=views.shape[:1], size=clip.crop_size, num_frames=clip.num_frames)
        return planes, views.starts(info)
    except VideoError as error:
        raise VideoError(f"{prefix}{error}", reason=error.reason) from error


def _with_flow(source: VideoSource, clip: ClipConfig, name: str) -> tuple[Streams, VideoInfo]:
    """Return what `clip` needs of a video and its flow as packing makes them, and the video's index."""
    options = PackOptions()
    content, delivery = reencode(
        source, max_short_side=options.max_short_side, gop=options.gop, crf=options.crf
    )
    warn_of_flaws(name, delivery)
    flow = flow_video(content, gop=options.gop)
    info = probe_video(content)
    rgb = None if clip.modality == "flow" else (content, info)
    return Streams(rgb, (flow, probe_video(flow))), info


class _ViewDataset(Dataset[ViewBatch]):
    """Test views by indices in the split; -1 gives a row that fills up a batch."""

    def __init__(
        self,
        shards: ShardSet,
        split: str,
        clip: ClipConfig,
        num_clips: int,
        num_crops: int,
        pixels: PixelFormat,
        skip_unreadable: bool,
    ) -> None:
        self._skip_unreadable = skip_unreadable
        self._shards = shards
        self._split = split
        self._clip = clip
        self._views = _Views(num_clips, num_crops, clip)
        self._pixels = pixels

    def describe(self, index: int) -> str:
        """Name a video of the split for a message."""
        return name_sample(self._shards, self._split, index)

    def __getitem__(self, indices: list[int]) -> ViewBatch:
        rgb = batch_buffer(len(indices), *self._views.shape) if self._pixels == "rgb" else None
        parts: list[tuple[PlaneLayout, np.ndarray]] = []
        records: list[SampleRecord | None] = [None] * len(indices)
        keys = [""] * len(indices)
        starts: list[list[ViewStart]] = [[] for _ in indices]
        unreadable: list[Unreadable] = []
        for row, index in enumerate(indices):
            key, source = f"{self._split}/{index}", ""
            working_on(index)
            try:
                if index >= 0:
                    record = self._shards.sample(self._split, index)
                    key, source = record.key, record.shown
                    info = self._shards.info(self._split, index)
                    parts += self._read(index, info, row, rgb)
                    starts[row] = self._views.starts(info)
                    records[row], keys[row] = record, key
                    continue
            except (VideoError, ShardError) as error:
                if not self._skip_unreadable:
                    raise WorkError(
                        f"test video {key} of split {self._split} cannot be read: {error}"
                    ) from error
                unreadable.append(Unreadable(index, key, source, error.reason, str(error)))
            if rgb is not None:
                rgb[row] = 0
        return ViewBatch(
            video=self._planes(parts, len(indices)) if rgb is None else channels_first(rgb),
            label=label_tensor(self._shards, records),
            keys=keys,
            index=torch.tensor([index if key else -1 for index, key in zip(indices, keys, strict=True)]),
            starts=starts,
            valid=torch.tensor([bool(key) for key in keys]),
            unreadable=unreadable,
        )

    def _planes(self, parts: list[tuple[PlaneLayout, np.ndarray]], num_videos: int) -> YuvClips:
        num_views, num_frames, size = self._views.shape[:3]
        return join_planes(parts, shape=(num_videos, num_views), size=size, num_frames=num_frames)

    def _read(
        self, index: int, info: VideoInfo, row: int, rgb: Tensor | None
    ) -> list[tuple[PlaneLayout, np.ndarray]]:
        """Write the views of a video into its row of `rgb`; without that, return their planes."""
        streams = read_streams(self._shards, self._split, index, info, self._clip)
        if rgb is not None:
            self._views.read_rgb(streams, info, rgb[row].numpy())
            return []
        assert streams.rgb is not None
        return self._views.read_planes(*streams.rgb, first_row=row * self._views.shape[0])


class _Views:
    """Reads the views of videos in one pass over their frames.

    Attributes:
        shape: Of the views of a video as pixels: [num_clips * num_crops, L, H, W, C].
    """

    def __init__(self, num_clips: int, num_crops: int, clip: ClipConfig) -> None:
        side = clip.crop_size
        self.shape = (num_clips * num_crops, clip.num_frames, side, side, clip.num_channels)
        self._num_clips = num_clips
        self._num_crops = num_crops
        self._clip = clip

    def read_rgb(self, streams: Streams, info: VideoInfo, out: np.ndarray) -> None:
        """Write the views into `out`, uint8 of `shape`."""
        boxes = view_boxes(info.display_size, self._clip, self._num_crops)
        out = out.reshape(self._num_clips, self._num_crops, *self.shape[1:])
        decode_streams(streams, self._clips(info), boxes, self._clip.crop_size, out=out)

    def read_planes(
        self, source: VideoSource, info: VideoInfo, *, first_row: int = 0
    ) -> list[tuple[PlaneLayout, np.ndarray]]:
        """Planes for each crop; the views fill the rows of the batch from `first_row` on."""
        clips = self._clips(info)
        frames, _ = unique_frames(clips)
        boxes = view_boxes(info.display_size, self._clip, self._num_crops)
        parts = []
        for crop, (layout, planes) in enumerate(decode_planes(source, info, frames, boxes)):
            rows = range(first_row + crop, first_row + self.shape[0], self._num_crops)
            views = tuple(
                (row, tuple(np.searchsorted(frames, clip).tolist()))
                for row, clip in zip(rows, clips, strict=True)
            )
            parts.append((replace(layout, clips=views), planes))
        return parts

    def starts(self, info: VideoInfo) -> list[ViewStart]:
        """Where the clips begin."""
        times = (info.pts - info.pts[0]) * float(info.time_base)
        return [ViewStart(clip[0], float(times[clip[0]])) for clip in self._clips(info)]

    def _clips(self, info: VideoInfo) -> list[tuple[int, ...]]:
        """Frames of each clip."""
        starts = view_starts(info, self._clip, self._num_clips)
        return [clip_frames(info, self._clip, start) for start in starts]


def _check_views(num_clips: int, num_crops: int) -> None:
    if num_clips < 1:
        raise InputError(f"num_clips must be at least 1, got {num_clips}")
    if num_crops not in (1, 3):
        raise InputError(f"num_crops must be 1 or 3, got {num_crops}")
