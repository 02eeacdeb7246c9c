"""What is in a shard set, from its manifest and indexes alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from video_data.shards.format import (
    Coverage,
    Duplicate,
    FlawedVideo,
    PassedOver,
    SampleRecord,
    ShardEntry,
    Split,
    Task,
)
from video_data.shards.pack_options import PackOptions, StrictModel
from video_data.shards.reader import ShardError, ShardSet
from video_data.utils.messages import hide_secrets
from video_data.utils.pool import map_in_order

_NUM_BINS = 24


class Distribution(StrictModel):
    """How a number is distributed over samples.

    Attributes:
        min: Smallest value.
        median: Middle value.
        mean: Average.
        max: Largest value.
        edges: Borders of bins of equal width, one more than there are bins.
        counts: Samples in each bin.
    """

    min: float
    median: float
    mean: float
    max: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class SplitInspection(StrictModel):
    """One split.

    Attributes:
        num_shards: Its tars.
        num_samples: Its samples.
        tar_bytes: Bytes of its tars.
        num_frames: Frames of the videos whose indexes could be read.
        seconds: Their length, each frame shown until the next one comes.
        per_class: Samples of each class, by name.
    """

    num_shards: int
    num_samples: int
    tar_bytes: int
    num_frames: int
    seconds: float
    per_class: dict[str, int]

    def class_sizes(self) -> tuple[int, float, int]:
        """Return the fewest, the median and the most samples of a class."""
        sizes = list(self.per_class.values())
        return min(sizes), float(np.median(sizes)), max(sizes)


class Inspection(StrictModel):
    """What is in a shard set.

    Attributes:
        path: Folder or URL of the set, without passwords.
        manifest_hash: SHA-256 of the manifest; it identifies the set.
        dataset: Name of the data set with its version.
        classes: Class names; a label is an index into them.
        task: What is to be learned; in a multilabel set samples count in `splits` for all of their labels.
        options: How the set was packed.
        tool: Versions of the programs that packed it.
        splits: Each split.
        sizes: Samples for each size of the displayed picture, most frequent first.
        codecs: Samples for each codec.
        containers: Samples for each container.
        rates: Samples for each rate in frames a second, rounded to 0.01.
        frames: Frames of a video.
        seconds: Length of a video.
        video_bytes: Bytes of a video.
        keyframe_gap: Frames for each keyframe of a video.
        flow_bytes: Bytes of all optical flow; 0 where there is none.
        coverage: For each split what became of the videos that were listed.
        num_conflicts: Groups of samples that were packed from equal files and have different labels.
        passed_over: What was found beside the listed videos, by reason.
        notes: What was taken for what when the videos were listed, and what could not be listed.
        num_duplicates: Groups of samples of different splits that were packed from equal files.
        duplicates: The first of these groups.
        num_repeats: Groups of samples of one split alone that were packed from equal files.
        repeats: The first of these groups.
        num_flawed: Samples whose original has damaged frames or ends before its container says.
        flawed: The first of them.
        unreadable: Shards whose index cannot be read, and why; their samples count in `splits` alone.
    """

    path: str
    manifest_hash: str
    dataset: str
    classes: tuple[str, ...]
    task: Task
    options: PackOptions
    tool: dict[str, str]
    splits: dict[Split, SplitInspection]
    sizes: dict[str, int]
    codecs: dict[str, int]
    containers: dict[str, int]
    rates: dict[str, int]
    frames: Distribution | None
    seconds: Distribution | None
    video_bytes: Distribution | None
    keyframe_gap: Distribution | None
    flow_bytes: int
    coverage: dict[Split, Coverage]
    num_conflicts: int
    passed_over: tuple[PassedOver, ...]
    notes: tuple[str, ...]
    num_duplicates: int
    duplicates: tuple[Duplicate, ...]
    num_repeats: int
    repeats: tuple[Duplicate, ...]
    num_flawed: int
    flawed: tuple[FlawedVideo, ...]
    unreadable: dict[str, str]


def inspect_shards(shards: ShardSet, *, progress: bool = True) -> Inspection:
    """Sum up a shard set. Manifest and indexes are read, videos are not.

    Args:
        shards: An open shard set.
        progress: Whether to show a progress bar on standard error.
    """
    totals = _Totals()
    manifest = shards.manifest
    results = map_in_order(
        partial(read_index, shards),
        manifest.shards,
        num_workers=1,
        title="inspect",
        progress=progress,
        weights=[shard.num_samples for shard in manifest.shards],
    )
    with closing(results):
        for shard, result in zip(manifest.shards, results, strict=True):
            if isinstance(result, str):
                totals.unreadable[shard.name] = result
            else:
                totals.add(shard.split, result)
    return Inspection(
        path=hide_secrets(shards.path),
        manifest_hash=shards.manifest_hash,
        dataset=manifest.dataset,
        classes=shards.classes,
        task=shards.task,
        options=manifest.options,
        tool=manifest.tool,
        splits={
            split: SplitInspection(
                num_shards=len(shards.shard_sizes(split)),
                num_samples=summary.num_samples,
                tar_bytes=sum(shard.size for shard in manifest.shards if shard.split == split),
                num_frames=totals.split_frames[split],
                seconds=totals.split_seconds[split],
                per_class=summary.per_class,
            )
            for split, summary in manifest.splits.items()
        },
        sizes=_ranked(totals.sizes),
        codecs=_ranked(totals.codecs),
        containers=_ranked(totals.containers),
        rates=_ranked(totals.rates),
        frames=_distribution(totals.frames),
        seconds=_distribution(totals.seconds),
        video_bytes=_distribution(totals.video_bytes),
        keyframe_gap=_distribution(totals.keyframe_gaps),
        flow_bytes=totals.flow_bytes,
        coverage=manifest.coverage,
        num_conflicts=manifest.num_conflicts,
        passed_over=manifest.passed_over,
        notes=manifest.notes,
        num_duplicates=manifest.num_duplicates,
        duplicates=manifest.duplicates,
        num_repeats=manifest.num_repeats,
        repeats=manifest.repeats,
        num_flawed=manifest.num_flawed,
        flawed=manifest.flawed,
        unreadable=totals.unreadable,
    )


def read_index(shards: ShardSet, shard: ShardEntry) -> list[SampleRecord] | str:
    """Return the samples of a shard; a text is the reason why its index cannot be read."""
    try:
        return [shards.sample(shard.split, index) for index in shards.shard_indices(shard.name)]
    except ShardError as error:
        return str(error)


@dataclass
class _Totals:
    """Sums over samples."""

    split_frames: Counter[str] = field(default_factory=Counter)
    split_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    sizes: Counter[str] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    containers: Counter[str] = field(default_factory=Counter)
    rates: Counter[str] = field(default_factory=Counter)
    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    video_bytes: list[int] = field(default_factory=list)
    keyframe_gaps: list[float] = field(default_factory=list)
    flow_bytes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, split: str, records: Iterable[SampleRecord]) -> None:
        for record in records:
            seconds = seconds_of(record)
            width, height = record.display.size(record.width, record.height)
            self.sizes[f"{width}x{height}"] += 1
            self.codecs[record.codec] += 1
            self.containers[record.format] += 1
            self.rates[f"{record.num_frames / seconds:.2f}" if seconds else "single frame"] += 1
            self.frames.append(record.num_frames)
            self.seconds.append(seconds)
            self.video_bytes.append(record.size)
            num_keyframes = sum(run[2] for run in record.keyframes)
            self.keyframe_gaps.append(record.num_frames / max(1, num_keyframes))
            self.flow_bytes += record.flow.size if record.flow else 0
            self.split_frames[split] += record.num_frames
            self.split_seconds[split] += seconds


def seconds_of(record: SampleRecord) -> float:
    """Length of a video; its last frame is shown as long as the others on average. 0 for a single frame."""
    if record.num_frames < 2 or not record.pts:
        return 0.0
    start, step, count = record.pts[-1]
    units = start + step * (count - 1) - record.pts[0][0]
    numerator, denominator = record.time_base
    return units * numerator / denominator * record.num_frames / (record.num_frames - 1)


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _distribution(values: Sequence[float]) -> Distribution | None:
    """None when there are no values."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    counts, edges = np.histogram(array, bins=_NUM_BINS)
    return Distribution(
        min=float(array.min()),
        median=float(np.median(array)),
        mean=float(array.mean()),
        max=float(array.max()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )
