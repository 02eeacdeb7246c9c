"""The batches that the loaders hand out, and scaling their pixels for a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from video_data.media.flow import NO_MOTION
from video_data.media.planes import YuvClips, convert
from video_data.sampling.clips import ClipConfig
from video_data.shards.format import SampleRecord
from video_data.shards.reader import ShardSet
from video_data.utils.errors import InputError

PixelFormat = Literal["rgb", "yuv"]

PIXEL_MEAN, PIXEL_STD = 0.45, 0.225
"""Mean and deviation that `normalize` takes for all channels of pixels in 0..1; the paper gives none."""

_SCALE = 1 / (PIXEL_STD * 255)
_SMALL = ("label", "index", "valid")


class Replacement(NamedTuple):
    """A sample that could not be read.

    Attributes:
        key: Its key; the split and number where its index entry cannot be read.
        reason: What was wrong, in the same words for all samples of which it is true.
        message: What was wrong, with the details.
    """

    key: str
    reason: str
    message: str


class Unreadable(NamedTuple):
    """A test video that could not be read.

    Attributes:
        number: Its number in the split.
        key: Its key; the split and number where its index entry cannot be read.
        source: Path of the original, as it was packed; empty where its index entry cannot be read.
        reason: What was wrong, in the same words for all videos of which it is true.
        message: What was wrong, with the details.
    """

    number: int
    key: str
    source: str
    reason: str
    message: str


class ViewStart(NamedTuple):
    """Where a test clip begins.

    Attributes:
        frame: Its first frame, counted from 0.
        seconds: Time of that frame from the first one of the video.
    """

    frame: int
    seconds: float


class _SmallByValue:
    """Small tensors travel by value: for each one in shared memory the receiver opens a connection to the worker."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value.numpy() if name in _SMALL else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if name in _SMALL else value)


@dataclass
class Batch(_SmallByValue):
    """Training clips. `clips, labels = batch` unpacks `video` and `label`.

    Attributes:
        video: uint8 [N, C, L, H, W] with the strides of channels_last_3d, or planes for `pixels="yuv"`; C is
            `ClipConfig.num_channels`, 3 for RGB.
        label: int64 [N]; of a multilabel set float32 [N, classes], 1 for the labels of a sample and 0 for all others;
            of a set for regression the values, float32 [N, 1].
        keys: Key of each sample.
        positions: Global position of each sample.
        replaced: Samples that could not be read; others took their places.
    """

    video: Tensor | YuvClips
    label: Tensor
    keys: list[str]
    positions: list[int]
    replaced: list[Replacement]

    def __iter__(self) -> Iterator[Any]:
        """Yield `video` and `label`."""
        yield from (self.video, self.label)

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory with the same strides."""
        return replace(self, video=_pin_clips(self.video), label=self.label.pin_memory())


@dataclass
class ViewBatch(_SmallByValue):
    """Test views of videos. `views, labels = batch` unpacks `video` and `label`; mind `valid`.

    Attributes:
        video: uint8 [B, V, C, L, H, W]; each [V, C, L, H, W] has the strides of channels_last_3d; or planes for
            `pixels="yuv"`. The views are ordered by clip, then by crop.
        label: int64 [B], -1 where `valid` is false; of a multilabel set float32 [B, classes], of one for regression
            [B, 1], 0 there.
        keys: Key of each video; empty where `valid` is false.
        index: int64 [B], index of each video in its split; -1 where `valid` is false.
        starts: Where the clips of each video begin; empty where `valid` is false.
        valid: bool [B]; false marks rows that must not be counted: they fill up the batch of a rank, or their video
            cannot be read.
        unreadable: Videos that cannot be read, where the loader was told to go on.
    """

    video: Tensor | YuvClips
    label: Tensor
    keys: list[str]
    index: Tensor
    starts: list[list[ViewStart]]
    valid: Tensor = field(repr=False)
    unreadable: list[Unreadable] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        """Yield `video` and `label`."""
        yield from (self.video, self.label)

    def pin_memory(self) -> "ViewBatch":
        """Return a copy in page-locked memory with the same strides."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("label", "index", "valid")}
        return replace(self, video=_pin_clips(self.video), **pinned)


def label_tensor(shards: ShardSet, records: Sequence[SampleRecord | None]) -> Tensor:
    """Return the labels or values of samples as batches have them; None stands for a row that is not valid."""
    if shards.task == "regression":
        return torch.tensor([[0.0 if record is None else record.value] for record in records])
    if shards.task == "multiclass":
        return torch.tensor([-1 if record is None else record.label for record in records])
    labels = torch.zeros(len(records), len(shards.classes))
    for row, record in zip(labels, records, strict=True):
        if record is not None:
            row[list(record.labels(shards.task))] = 1
    return labels


def normalize(
    video: Tensor | YuvClips, dtype: torch.dtype = torch.float32, *, clip: ClipConfig | None = None
) -> Tensor:
    """Scale pixels to about zero mean and unit variance: (video / 255 - 0.45) / 0.225 for every channel.

    The paper gives no constants; these are close to the means and deviations of natural video. Optical flow is scaled
    alike, but so that no motion is 0. It runs on the device of `video` and keeps its strides.

    Args:
        video: uint8 tensor of any shape, or planes, of which a GPU makes normalized clips in one kernel.
        dtype: Type of the result; the arithmetic is float32. Give that of autocast, which then has nothing to convert.
        clip: The clips that `video` [..., C, L, H, W] holds; their last channels may be flow. None: there is none.

    Raises:
        ValueError: `video` is not uint8, or has not the channels of `clip`.
    """
    if isinstance(video, YuvClips):
        if clip is not None and clip.num_flow_channels:
            raise ValueError(f"planes are RGB, clips of modality {clip.modality} are not")
        return convert(video, dtype, mean=PIXEL_MEAN * 255, scale=_SCALE)
    if video.dtype != torch.uint8:
        raise ValueError(f"normalize takes uint8 pixels, got {video.dtype}")
    pixels = video.float()
    if clip is not None and clip.num_flow_channels:
        if video.ndim < 4 or video.shape[-4] != clip.num_channels:
            raise ValueError(
                f"clips of modality {clip.modality} have {clip.num_channels} channels, video has the shape "
                f"{list(video.shape)} [..., C, L, H, W]"
            )
        num_rgb = clip.num_channels - clip.num_flow_channels
        pixels.narrow(-4, 0, num_rgb).sub_(PIXEL_MEAN * 255)
        pixels.narrow(-4, num_rgb, clip.num_flow_channels).sub_(NO_MOTION)
    else:
        pixels.sub_(PIXEL_MEAN * 255)
    if dtype == torch.float32:
        return pixels.mul_(_SCALE)
    # A GPU rounds as it multiplies.
    return torch.mul(pixels, _SCALE, out=torch.empty_like(pixels, dtype=dtype))


def channels_first(pixels: Tensor) -> Tensor:
    """Move the channels of [..., L, H, W, C] to [..., C, L, H, W] without copying."""
    return pixels.movedim(-1, -4)


def _pin_clips(video: Tensor | YuvClips) -> Tensor | YuvClips:
    if isinstance(video, YuvClips):
        return video.pin_memory()
    return video.movedim(-4, -1).pin_memory().movedim(-1, -4)


def check_options(
    *, batch_size: int, num_workers: int, rank: int, world_size: int, pixels: str, timeout: float
) -> None:
    """Raise ValueError for an option out of its range."""
    if batch_size < 1 or num_workers < 0:
        raise InputError(
            f"batch_size must be at least 1 and num_workers at least 0, got {batch_size} and {num_workers}"
        )
    if not 0 <= rank < world_size:
        raise InputError(f"rank must be from 0 to world_size - 1, got rank {rank} of world_size {world_size}")
    if not timeout > 0:
        raise InputError(f"timeout must be more than 0 seconds, got {timeout}")
    check_pixels(pixels)


def check_pixels(pixels: str) -> None:
    """Raise ValueError for an unknown kind of pixels."""
    if pixels not in ("rgb", "yuv"):
        raise InputError(f"pixels must be 'rgb' or 'yuv', got {pixels!r}")
