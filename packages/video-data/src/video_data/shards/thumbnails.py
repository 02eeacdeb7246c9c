"""Small pictures of some clips of each class of a shard set."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np

from video_data.media.container import VideoInfo, video_errors
from video_data.media.decode import read_frames
from video_data.media.display import frame_kind
from video_data.media.filters import PictureGraph
from video_data.media.limits import VideoError
from video_data.sampling.order import permutation
from video_data.shards.inspect import read_index, seconds_of
from video_data.shards.reader import ShardError, ShardSet
from video_data.utils.errors import InputError
from video_data.utils.pool import map_in_order


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small pictures of one sample.

    Attributes:
        split: Split of the sample.
        key: Its key.
        class_name: Its class.
        source: Path of the original, as it was packed.
        num_frames: Frames of the video.
        seconds: Its length.
        pictures: uint8 [N, H, W, 3], frames spaced uniformly from the first to the last; empty when they could not be
            read.
        problem: Why the pictures could not be read; empty when they could.
    """

    split: str
    key: str
    class_name: str
    source: str
    num_frames: int
    seconds: float
    pictures: np.ndarray
    problem: str = ""


def sample_thumbnails(
    shards: ShardSet,
    *,
    num_classes: int = 50,
    clips_per_class: int = 2,
    num_frames: int = 8,
    height: int = 96,
    seed: int = 0,
    splits: Sequence[str] | None = None,
    num_workers: int = 1,
    progress: bool = True,
) -> list[Thumbnails]:
    """Small pictures of some clips of each class, for a contact sheet.

    Which classes and samples are shown depends on the set, the seed and these numbers alone. Only as many indexes
    are read as it takes to find them. A sample that cannot be read is among them, with the reason.

    Args:
        shards: An open shard set; with `verify` damage that a decoder conceals is found too.
        num_classes: Most classes.
        clips_per_class: Most samples of a class.
        num_frames: Pictures of a sample.
        height: Rows of a picture in pixels.
        seed: Seed of the choice.
        splits: Splits to choose from; None means all.
        num_workers: Processes.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The samples by class in the order of labels.

    Raises:
        ValueError: A number is less than 1, or there is no such split.
    """
    numbers = {
        "num_classes": num_classes,
        "clips_per_class": clips_per_class,
        "num_frames": num_frames,
        "height": height,
    }
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    splits = list(shards.splits) if splits is None else list(splits)
    for split in splits:
        shards.num_samples(split)  # refuses an unknown split
    chosen = _choose(shards, splits, num_classes, clips_per_class, seed)
    return read_thumbnails(
        shards, chosen, num_frames=num_frames, height=height, num_workers=num_workers, progress=progress
    )


def read_thumbnails(
    shards: ShardSet,
    samples: Sequence[tuple[str, int]],
    *,
    num_frames: int = 8,
    height: int = 96,
    num_workers: int = 1,
    progress: bool = True,
) -> list[Thumbnails]:
    """Small pictures of samples, in their order.

    Args:
        shards: An open shard set.
        samples: Split of each, and its index there.
        num_frames: Pictures of a sample, at least 1.
        height: Rows of a picture in pixels, at least 1.
        num_workers: Processes.
        progress: Whether to show a progress bar on standard error.
    """
    read = partial(_thumbnails, shards=shards, num_frames=num_frames, height=height)
    results = map_in_order(read, samples, num_workers=num_workers, title="sheet", progress=progress)
    with closing(results):
        return list(results)


def _choose(
    shards: ShardSet, splits: list[str], num_classes: int, clips_per_class: int, seed: int
) -> list[tuple[str, int]]:
    """Split and index of samples, by label."""
    available = Counter[int]()
    for split, summary in shards.manifest.splits.items():
        if split in splits:
            available.update({shards.classes.index(name): count for name, count in summary.per_class.items()})
    labels = [label for label in sorted(available) if available[label]]
    labels = sorted(labels[i] for i in permutation(len(labels), seed, 0)[:num_classes])
    left = {label: min(clips_per_class, available[label]) for label in labels}
    found: list[tuple[int, str, int]] = []
    entries = [shard for shard in shards.manifest.shards if shard.split in splits]
    for number in permutation(len(entries), seed, 1):
        if not any(left.values()):
            break
        shard = entries[number]
        records = read_index(shards, shard)
        if isinstance(records, str):
            continue  # the inspection lists it
        indices = shards.shard_indices(shard.name)
        for local in permutation(len(records), seed, 2, int(number)):
            labels = records[local].labels(shards.task)
            label = next((label for label in labels if left.get(label)), None)
            if label is not None:
                left[label] -= 1
                found.append((label, shard.split, indices[local]))
    return [(split, index) for _, split, index in sorted(found)]


def _thumbnails(choice: tuple[str, int], *, shards: ShardSet, num_frames: int, height: int) -> Thumbnails:
    split, index = choice
    record = shards.sample(split, index)
    pictures, problem = np.empty((0, height, height, 3), dtype=np.uint8), ""
    try:
        pictures = _pictures(shards.read(split, index), shards.info(split, index), num_frames, height)
    except (VideoError, ShardError) as error:
        problem = str(error)
    return Thumbnails(
        split=split,
        key=record.key,
        class_name=shards.label_text(record),
        source=record.shown,
        num_frames=record.num_frames,
        seconds=seconds_of(record),
        pictures=pictures,
        problem=problem,
    )


@video_errors()
def _pictures(content: bytes, info: VideoInfo, num_frames: int, height: int) -> np.ndarray:
    """Frames spaced uniformly over a video, uint8 [N, height, W, 3]."""
    places = np.linspace(0, info.num_frames - 1, num_frames).round().astype(int)
    frames = np.unique(places)
    # As wide as the picture is, within reason.
    width = round(height * min(4.0, max(0.25, info.display_size[0] / info.display_size[1])))
    pictures = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    graphs: dict[tuple[object, ...], PictureGraph] = {}
    for slot, frame in read_frames(content, info, frames.tolist()):
        kind = frame_kind(frame)
        if kind not in graphs:
            graphs[kind] = PictureGraph(frame, info.display, (width, height))
        pictures[slot] = graphs[kind].convert(frame)
    return pictures
