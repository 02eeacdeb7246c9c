"""The files of a shard set as pydantic models: one manifest, and one index beside each tar."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError, field_validator

from video_data.media.container import VideoInfo
from video_data.media.delivery import Delivery
from video_data.media.display import Display
from video_data.media.limits import MAX_BYTES, MAX_FRAMES, VIDEO_SUFFIXES
from video_data.shards.pack_options import PackOptions, Positive, StrictModel
from video_data.utils.errors import InputError
from video_data.utils.files import check_file
from video_data.utils.messages import part_name

MANIFEST_NAME = "manifest.json"
UNFINISHED_NAME = ".packing"  # the folder of what is kept until the manifest is written
FLOW_SUFFIX = "flow.mp4"  # webdataset takes what is before the first dot for the key
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Task = Literal["multiclass", "multilabel", "regression"]
"""What is to be learned of a video: its one class, all of its classes, or a number."""

Run = tuple[int, Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=MAX_FRAMES)]]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NonNegative = Annotated[int, Field(ge=0)]
FORMAT_VERSION = 4
M = TypeVar("M", bound=BaseModel)


class _VersionedModel(StrictModel):
    """A file with the version of its format."""

    format_version: int = FORMAT_VERSION

    @field_validator("format_version")
    @classmethod
    def _check_version(cls, version: int) -> int:
        if version != FORMAT_VERSION:
            raise InputError(
                f"format {version} was written by another version of video-data, this one reads {FORMAT_VERSION}: "
                "pack the videos again"
            )
        return version


class FlowRecord(StrictModel):
    """The optical flow of a sample: a gray H.264 video, the member `<key>.flow.mp4` of the tar.

    It has as many frames as the sample's video and is as wide as its displayed picture and twice as high; see
    `video_data.media.flow`.

    Attributes:
        offset: First byte of the member in the tar.
        size: Bytes of the member.
        sha256: Hash of the member.
        time_base: Seconds per pts unit as numerator and denominator.
        pts: Times of the frames as runs (first, step, count).
        keyframes: Indices of the keyframes as runs (first, step, count).
    """

    offset: NonNegative
    size: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    sha256: Sha256
    time_base: tuple[Positive, Positive]
    pts: tuple[Run, ...]
    keyframes: tuple[Run, ...]


class SampleRecord(StrictModel):
    """One sample of a shard: where its video lies in the tar and which frames it has.

    Attributes:
        key: Name of the sample, unique in its split, without dots.
        suffix: Ending of the video member, whose name is `<key>.<suffix>`.
        offset: First byte of the video in the tar.
        size: Bytes of the video.
        sha256: Hash of the video's bytes.
        source: Path of the original, relative to the folder or csv that was packed.
        source_sha256: Hash of the original's bytes; of a folder of pictures, of names and bytes in order.
        span: Start and end in seconds of the part of the original that is packed; None means all of it.
        label: Index into the manifest's `classes`.
        other_labels: Indices of further classes, where the data set gives several.
        value: The number that is to be learned, in a set for regression.
        format: Short name of the container format.
        codec: Name of the video codec.
        width: Columns of a decoded frame in pixels, as stored.
        height: Rows of a decoded frame in pixels, as stored.
        rotation: Degrees counter-clockwise by which frames are turned for display.
        mirror: Whether frames are mirrored left to right before they are turned.
        pixel_aspect: Width of a stored pixel divided by its height, as numerator and denominator.
        time_base: Seconds per pts unit as numerator and denominator.
        num_frames: Number of frames.
        pts: Times of the frames as runs (first, step, count).
        keyframes: Indices of the keyframes as runs (first, step, count).
        flow: The sample's optical flow, where the set has it.
        stream: Number of the video stream among those of the file.
        delivery: What the original promised and delivered; None in sets that were packed before that was recorded.
        num_damaged: Frames of the packed video that the decoder marked as damaged; None in such sets.
    """

    key: str = Field(pattern=r"^[0-9A-Za-z_][0-9A-Za-z_-]*$", max_length=90)
    suffix: str
    offset: NonNegative
    size: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    sha256: Sha256
    source: str
    source_sha256: Sha256
    span: tuple[float, float] | None = None
    label: NonNegative
    other_labels: tuple[NonNegative, ...] = ()
    value: float | None = Field(default=None, allow_inf_nan=False)
    format: str
    codec: str
    width: Positive
    height: Positive
    rotation: int = Field(ge=0, le=270, multiple_of=90)
    mirror: bool = False
    pixel_aspect: tuple[Positive, Positive] = (1, 1)
    time_base: tuple[Positive, Positive]
    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)]
    pts: tuple[Run, ...]
    keyframes: tuple[Run, ...]
    flow: FlowRecord | None = None
    stream: NonNegative = 0
    delivery: Delivery | None = None
    num_damaged: NonNegative | None = None

    @property
    def shown(self) -> str:
        """What it is called for people: its source, and which part of it."""
        return part_name(self.source, self.span)

    def labels(self, task: Task) -> tuple[int, ...]:
        """Return the labels that a task has of the sample: `label`, or of "multilabel" all of them."""
        return (self.label, *self.other_labels) if task == "multilabel" else (self.label,)

    @property
    def display(self) -> Display:
        """How frames are shown."""
        return Display(self.rotation, self.mirror, Fraction(*self.pixel_aspect))

    def video_info(self) -> VideoInfo:
        """Return the frame index in the form that the decoder takes.

        Raises:
            ValueError: The runs do not have `num_frames` increasing times.
        """
        pts, keyframes = self._frame_index(self.pts, self.keyframes)
        return VideoInfo(
            format=self.format,
            codec=self.codec,
            width=self.width,
            height=self.height,
            display=self.display,
            time_base=Fraction(*self.time_base),
            pts=pts,
            keyframes=keyframes,
            stream=self.stream,
            delivery=self.delivery,
            num_damaged=self.num_damaged,
        )

    def flow_info(self) -> VideoInfo:
        """Return the frame index of the flow video.

        Raises:
            ValueError: The sample has no flow, or its runs do not have `num_frames` increasing times.
        """
        if self.flow is None:
            raise InputError(f"sample {self.key!r} has no optical flow")
        pts, keyframes = self._frame_index(self.flow.pts, self.flow.keyframes)
        width, height = self.display.size(self.width, self.height)
        return VideoInfo(
            format="mov",
            codec="h264",
            width=width,
            height=2 * height,
            display=Display(),
            time_base=Fraction(*self.flow.time_base),
            pts=pts,
            keyframes=keyframes,
            num_damaged=0,
        )

    def _frame_index(
        self, pts_runs: tuple[Run, ...], keyframe_runs: tuple[Run, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the times and keyframes of the runs of a video of `num_frames` frames."""
        pts, keyframes = from_runs(pts_runs), from_runs(keyframe_runs)
        if len(pts) != self.num_frames or (np.diff(pts) <= 0).any():
            raise InputError(f"sample {self.key!r}: its index must list {self.num_frames} increasing times")
        if len(keyframes) and not 0 <= keyframes.min() <= keyframes.max() < self.num_frames:
            raise InputError(f"sample {self.key!r}: its index names keyframes outside of its frames")
        return pts, keyframes


class ShardIndex(_VersionedModel):
    """Index of one tar: its samples in the order of the tar."""

    samples: tuple[SampleRecord, ...]


class ShardEntry(StrictModel):
    """One shard in the manifest: `<name>.tar` and its index `<name>.json`.

    Attributes:
        name: File name without its ending.
        split: Split to which all its samples belong.
        num_samples: Samples in the tar.
        size: Bytes of the tar.
        sha256: Hash of the tar.
        index_sha256: Hash of the index file.
    """

    name: str = Field(pattern=r"^[a-z]+-[0-9]{6}(-[0-9]{2,})?$")
    split: Split
    num_samples: Positive
    size: Positive
    sha256: Sha256
    index_sha256: Sha256


class DroppedEntry(StrictModel):
    """A video that was listed but not packed, and why.

    Attributes:
        source: Path of the video, as it was listed.
        span: Start and end in seconds of the part of it that was meant; None means all of it.
        split: Its split.
        label: Its class.
        reason: What was wrong, in the same words for all videos of which it is true.
        message: What was wrong, with the details; empty where the reason says all.
    """

    source: str
    span: tuple[float, float] | None = None
    split: Split
    label: str
    reason: str
    message: str = ""


class PassedOver(StrictModel):
    """Files and folders beside those that were listed, and why they were not taken.

    Attributes:
        reason: Why they were passed over.
        count: How many there are.
        first: Paths of the first of them.
    """

    reason: str
    count: Positive
    first: tuple[str, ...]


class SplitSummary(StrictModel):
    """Counts of one split; `per_class` names every class, and in a multilabel set counts a sample for each label."""

    num_samples: Positive
    per_class: dict[str, NonNegative]


class Coverage(StrictModel):
    """What became of the videos that were listed for a split.

    Attributes:
        num_listed: Videos that the data set names.
        num_packed: Videos in the shards.
        num_missing: Videos whose file was not there.
        left_out: Videos that were there and were not packed, by reason.
    """

    num_listed: NonNegative
    num_packed: NonNegative
    num_missing: NonNegative
    left_out: dict[str, int]


class Duplicate(StrictModel):
    """Samples that were packed from equal files.

    Attributes:
        samples: Split and source of each.
        labels: Those of their labels that not all of them have, so that they contradict each other.
    """

    samples: tuple[tuple[str, str], ...]
    labels: tuple[NonNegative, ...] = ()


class FlawedVideo(StrictModel):
    """A sample whose original has damaged frames or ends before its container says."""

    split: Split
    source: str
    delivery: Delivery


class Manifest(_VersionedModel):
    """A whole shard set; the last file that packing writes.

    Attributes:
        format_version: Version of these files.
        dataset: Name of the data set with its version.
        classes: Class names; a label is an index into them. In a set for regression the one name of its numbers.
        task: What is to be learned: `label`, all labels of a sample, or its `value`.
        splits: Counts of each split that has samples.
        coverage: For each split what became of the videos that were listed.
        shards: All shards, by split and number.
        dropped: Videos that were left out.
        passed_over: What else was found and not listed, by reason.
        notes: What was taken for what, and what is not packed and cannot be listed.
        num_conflicts: Groups of samples that were packed from equal files and have different labels.
        num_duplicates: Groups of samples of different splits that were packed from equal files.
        duplicates: The first of these groups, those with different labels before the others.
        num_repeats: Groups of samples of one split alone that were packed from equal files.
        repeats: The first of these groups, those with different labels before the others.
        num_flawed: Samples whose original has damaged frames or ends before its container says.
        flawed: The first of them.
        options: How the set was packed.
        tool: Versions of the programs that packed it.
    """

    dataset: str
    classes: tuple[str, ...] = Field(min_length=1)
    task: Task = "multiclass"
    splits: dict[Split, SplitSummary]
    coverage: dict[Split, Coverage]
    shards: tuple[ShardEntry, ...]
    dropped: tuple[DroppedEntry, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()
    num_conflicts: NonNegative = 0
    num_duplicates: NonNegative
    duplicates: tuple[Duplicate, ...]
    num_repeats: NonNegative
    repeats: tuple[Duplicate, ...]
    num_flawed: NonNegative = 0
    flawed: tuple[FlawedVideo, ...] = ()
    options: PackOptions
    tool: dict[str, str]


def to_runs(values: Sequence[int] | np.ndarray) -> tuple[Run, ...]:
    """Write increasing integers as runs (first, step, count)."""
    runs: list[Run] = []
    numbers = [int(value) for value in values]
    start = 0
    while start < len(numbers):
        step = numbers[start + 1] - numbers[start] if start + 1 < len(numbers) else 1
        end = start + 1
        while end < len(numbers) and numbers[end] - numbers[end - 1] == step:
            end += 1
        runs.append((numbers[start], step, end - start))
        start = end
    return tuple(runs)


def from_runs(runs: Sequence[Run]) -> np.ndarray:
    """Return the integers that `to_runs` wrote, int64 [sum of counts]."""
    parts = [first + step * np.arange(count, dtype=np.int64) for first, step, count in runs]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def model_bytes(model: BaseModel, *, indent: int | None = None) -> bytes:
    """Return a model as the content of a JSON file; equal models give equal bytes."""
    return (model.model_dump_json(indent=indent) + "\n").encode()


def load_manifest(folder: Path) -> tuple[Manifest, str]:
    """Read and check the manifest of a shard set.

    Returns:
        The manifest and the SHA-256 of its file, which identifies the whole set: it covers the hashes of all
        shards.

    Raises:
        ValueError: It is missing, or something in it is wrong; the message names the field.
    """
    path = folder / MANIFEST_NAME
    check_file(path)
    if not path.exists():
        raise InputError(
            f"{folder} is not a finished shard set: {MANIFEST_NAME} is missing. Videos are packed first, with "
            "pack_folder or pack_csv (corrnet pack folder, corrnet pack csv); packing that was stopped goes on with "
            "the same command"
        )
    return parse_manifest(path.read_bytes(), path)


def parse_manifest(content: bytes, path: str | Path) -> tuple[Manifest, str]:
    """As `load_manifest`, of the content of the file; `path` names it in errors."""
    manifest = parse_file(Manifest, content, path)
    for split in {shard.split for shard in manifest.shards} | set(manifest.splits):
        packed = sum(shard.num_samples for shard in manifest.shards if shard.split == split)
        counted = manifest.splits[split].num_samples if split in manifest.splits else 0
        if packed != counted:
            raise InputError(f"{path}: split {split!r} counts {counted} samples, its shards hold {packed}")
    return manifest, hashlib.sha256(content).hexdigest()


def load_index(
    path: Path, content: bytes, *, num_samples: int, num_classes: int, task: Task, tar_size: int
) -> ShardIndex:
    """Read and check the index of one shard.

    Raises:
        ValueError: Something in it is wrong; the message names it.
    """
    index = parse_file(ShardIndex, content, path)
    if len(index.samples) != num_samples:
        raise InputError(f"{path}: {len(index.samples)} samples, the manifest says {num_samples}")
    for sample in index.samples:
        flow_end = sample.flow.offset + sample.flow.size if sample.flow else 0
        if max(sample.offset + sample.size, flow_end) > tar_size:
            raise InputError(f"{path}: sample {sample.key!r} ends after the tar's {tar_size} bytes")
        if (sample.value is None) == (task == "regression"):
            wanted = (
                "no value, and the set is for regression"
                if sample.value is None
                else f"a value in a {task} set"
            )
            raise InputError(f"{path}: sample {sample.key!r} has {wanted}")
        for label in (sample.label, *sample.other_labels):
            if label >= num_classes:
                raise InputError(
                    f"{path}: sample {sample.key!r} has label {label}, there are {num_classes} classes"
                )
        if sample.suffix not in VIDEO_SUFFIXES:
            raise InputError(f"{path}: sample {sample.key!r} has the unknown ending {sample.suffix!r}")
    return index


def parse_file(model: type[M], content: bytes, path: str | Path) -> M:
    """Parse a JSON file.

    Raises:
        ValueError: It does not match the model; the message names the file and the first wrong field.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "content"
        raise InputError(f"{path}: {field}: {first['msg']}") from error
