"""The streams of a sample that make a clip: its video, its optical flow, or both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from video_data.media.container import VideoInfo, VideoSource
from video_data.media.decode import decode_clips
from video_data.media.flow import decode_flow
from video_data.sampling.clips import Box, ClipConfig
from video_data.shards.reader import ShardError, ShardSet
from video_data.utils.errors import InputError

Stream = tuple[VideoSource, VideoInfo]


@dataclass(frozen=True)
class Streams:
    """The videos of one sample that a clip is cut from, each with its frame index; None for what is not needed."""

    rgb: Stream | None
    flow: Stream | None = None


def check_streams(shards: ShardSet, clip: ClipConfig, pixels: str) -> None:
    """Raise ValueError when a set cannot give the clips that are wanted."""
    if clip.modality == "rgb":
        return
    if not shards.has_flow:
        raise InputError(
            f"modality {clip.modality!r} needs optical flow, {shards.path} was packed without: "
            "pack it with the option flow, or take modality 'rgb'"
        )
    if pixels != "rgb":
        raise InputError(f"modality {clip.modality!r} needs pixels 'rgb', got {pixels!r}")


def read_streams(shards: ShardSet, split: str, index: int, info: VideoInfo, clip: ClipConfig) -> Streams:
    """Read what clips of a sample are cut from.

    Args:
        shards: An open shard set that `check_streams` accepts.
        split: Split of the sample.
        index: Its number in the split.
        info: The frame index of its video.
        clip: The clip that is wanted.

    Raises:
        ShardError: Something of it cannot be read.
    """
    rgb = (shards.read(split, index), info) if clip.modality != "flow" else None
    if clip.modality == "rgb":
        return Streams(rgb)
    return Streams(rgb, (shards.read_flow(split, index), shards.flow_info(split, index)))


def name_sample(shards: ShardSet, split: str, index: int) -> str:
    """Return how messages call a sample: by its key, or its number where its index entry cannot be read."""
    try:
        return f"sample {shards.sample(split, index).key} of split {split}"
    except ShardError:
        return f"sample {index} of split {split}"


def decode_streams(
    streams: Streams,
    clips: Sequence[Sequence[int]],
    boxes: Sequence[Box],
    size: int,
    *,
    flip: bool = False,
    out: np.ndarray,
) -> None:
    """Decode the same clips and crops of all streams.

    Args:
        streams: What to cut from.
        clips: For each clip its frames, [N][L].
        boxes: Parts of the displayed picture to cut.
        size: Side in pixels to which each part is scaled.
        flip: Whether to mirror the parts left to right.
        out: Array for the result, uint8 [N, len(boxes), L, size, size, C]: RGB first, then flow in x and y.

    Raises:
        VideoError: A frame cannot be decoded or is not what the index says, or a limit is passed.
    """
    if streams.rgb is not None:
        decode_clips(*streams.rgb, clips, boxes, size, flip=flip, out=out[..., :3])
    if streams.flow is not None:
        decode_flow(*streams.flow, clips, boxes, size, flip=flip, out=out[..., -2:])
