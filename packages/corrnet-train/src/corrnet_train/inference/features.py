"""Features of videos: what a stage of the model puts out, averaged over time and space."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from corrnet_models import STAGES
from corrnet_train.checkpoint.state import weights_hash
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.feature_file import FeatureFile, VideoRecord, check_path
from corrnet_train.inference.inputs import VideoInput, find_videos
from corrnet_train.utils.errors import InputError
from video_data import ClipConfig, ShardSet, eval_loader
from video_data.datasets.finder import Tally
from video_data.loading.batches import PixelFormat, ViewStart
from video_data.loading.views import decode_timed_views
from video_data.media.planes import YuvClips
from video_data.shards.format import PassedOver
from video_data.utils.loader import make_data_loader
from video_data.utils.workers import working_on

Views = Tensor | YuvClips
Read = tuple[VideoRecord, Views | None]


@dataclass(frozen=True)
class PackedSplit:
    """The videos of a split of a shard set."""

    shards: ShardSet
    split: str


@dataclass(frozen=True)
class Features:
    """What was written.

    Attributes:
        path: File with `features`, float32 [rows, features].
        index_path: csv with a line for each row, and one for each video that could not be read.
        num_rows: Clips or videos.
        num_features: Values of a row.
        unreadable: Videos that could not be read.
        passed_over: What was found in folders and not taken, by reason.
    """

    path: Path
    index_path: Path
    num_rows: int
    num_features: int
    unreadable: list[VideoRecord]
    passed_over: tuple[PassedOver, ...] = ()


def extract_features(
    classifier: VideoClassifier,
    videos: str | Path | Sequence[str | Path | VideoInput] | PackedSplit,
    path: str | Path,
    *,
    num_clips: int | None = None,
    per_clip: bool = False,
    stage: str = "res5",
    num_workers: int = 0,
    overwrite: bool = False,
    on_video: Callable[[int, VideoRecord | None], None] = lambda num_done, record: None,
) -> Features:
    """Write the features of videos to a file, with an index.

    Clips are cut as by `VideoClassifier.predict`. Features of the last stage are what the classifier gets: its scores
    of a clip are `model.fc(features)`. When it is stopped, the same call goes on with the next video.

    Args:
        classifier: The model.
        videos: Files, folders and URLs, or a split of a shard set.
        path: A file `.npz` or `.safetensors`; the index is beside it and ends in `.csv`.
        num_clips: Clips spaced uniformly over each video; None takes those of the classifier.
        per_clip: Whether each clip has a row; else a row is the mean over the clips of a video.
        stage: Stage of the network that puts the features out, `res2` to `res5`.
        num_workers: Decoding processes; 0 decodes in this one.
        overwrite: Whether to replace a file that is there, and what was begun with other settings.
        on_video: Called with the number of videos that are done and the last one of them; None at the start.

    Raises:
        ValueError: A video is missing, the file cannot be written or was begun with other settings, there is no such
            stage or split, or a number is out of range.
        WorkError: No video can be read.
        ImportError: A package for URLs or optical flow is missing.
    """
    if stage not in STAGES:
        raise InputError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    num_clips = classifier.num_clips if num_clips is None else num_clips
    if num_clips < 1 or num_workers < 0:
        raise InputError(
            f"num_clips must be at least 1 and num_workers at least 0, got {num_clips} and {num_workers}"
        )
    path = Path(path)
    check_path(path, overwrite=overwrite)
    tally = Tally()
    found = _find(videos, tally)
    info = classifier.video_model.feature_info
    num_features = sum(entry.channels for entry in info if entry.module.endswith(stage))
    settings = {
        **_settings_of(found),
        "weights": weights_hash(classifier.model),
        "clip": classifier.clip.model_dump(mode="json"),
        "num_clips": num_clips,
        "per_clip": per_clip,
        "stage": stage,
        "precision": classifier.precision,
        "pixels": classifier.pixels,
    }
    file = FeatureFile(path, settings, num_features=num_features, per_clip=per_clip, overwrite=overwrite)
    try:
        on_video(file.num_videos, None)
        for record, views in _read(found, classifier, num_clips, num_workers, first=file.num_videos):
            rows = np.empty((0, num_features), dtype=np.float32)
            if views is not None:
                clips = classifier.clip_features(views, stage=stage)
                rows = (clips if per_clip else clips.mean(dim=0, keepdim=True)).numpy()
            file.add(record, rows)
            on_video(file.num_videos, record)
        num_rows, unreadable = file.finish()
    finally:
        file.close()
    return Features(path, file.index_path, num_rows, num_features, unreadable, tally.found())


def _find(
    videos: str | Path | Sequence[str | Path | VideoInput] | PackedSplit, tally: Tally
) -> list[VideoInput] | PackedSplit:
    if isinstance(videos, PackedSplit):
        return videos
    named = [videos] if isinstance(videos, (str, Path)) else videos
    found = (
        [video] if isinstance(video, VideoInput) else find_videos([str(video)], tally) for video in named
    )
    listed = [video for some in found for video in some]
    if not listed:
        raise InputError("there is no video to take features of: give files, folders or URLs")
    return listed


def num_videos(videos: Sequence[VideoInput] | PackedSplit) -> int:
    """How many videos there are.

    Raises:
        ValueError: There is no such split.
    """
    return videos.shards.num_samples(videos.split) if isinstance(videos, PackedSplit) else len(videos)


def _settings_of(videos: Sequence[VideoInput] | PackedSplit) -> dict[str, Any]:
    if isinstance(videos, PackedSplit):
        return {
            "manifest": videos.shards.manifest_hash,
            "split": videos.split,
            "num_videos": num_videos(videos),
        }
    names = hashlib.sha256("\0".join(video.name for video in videos).encode("utf-8", "surrogateescape"))
    return {"num_videos": len(videos), "videos": names.hexdigest()[:16]}


def _read(
    videos: Sequence[VideoInput] | PackedSplit,
    classifier: VideoClassifier,
    num_clips: int,
    num_workers: int,
    *,
    first: int,
) -> Iterator[Read]:
    if isinstance(videos, PackedSplit):
        yield from _read_packed(videos, classifier, num_clips, num_workers, first)
        return
    dataset = _Files(videos, classifier.clip, num_clips, classifier.pixels)
    for views, starts, error in make_data_loader(dataset, range(first, len(videos)), num_workers):
        if isinstance(error, ImportError):
            raise error
        yield VideoRecord(videos[first].shown, "", "", starts, str(error or "")), views
        first += 1


def _read_packed(
    packed: PackedSplit, classifier: VideoClassifier, num_clips: int, num_workers: int, first: int
) -> Iterator[Read]:
    loader = eval_loader(
        packed.shards,
        packed.split,
        classifier.clip,
        num_clips=num_clips,
        num_workers=num_workers,
        first=first,
        pixels=classifier.pixels,
        skip_unreadable=True,
    )
    for batch in loader:  # of one video
        if batch.unreadable:
            entry = batch.unreadable[0]
            yield VideoRecord(entry.source or entry.key, entry.key, "", [], entry.message), None
        else:
            sample = packed.shards.sample(packed.split, int(batch.index[0]))
            label = packed.shards.label_text(sample)
            yield VideoRecord(sample.shown, sample.key, label, batch.starts[0], ""), batch.video


class _Files(Dataset[Any]):
    """Views of video files, or why there are none."""

    def __init__(
        self, videos: Sequence[VideoInput], clip: ClipConfig, num_clips: int, pixels: PixelFormat
    ) -> None:
        self._videos = videos
        self._clip = clip
        self._num_clips = num_clips
        self._pixels: PixelFormat = pixels

    def describe(self, index: int) -> str:
        """Name a video for a message."""
        return self._videos[index].shown

    def __getitem__(self, index: int) -> tuple[Views | None, list[ViewStart], Exception | None]:
        working_on(index)
        try:
            video = self._videos[index]
            views, starts = decode_timed_views(
                video.read(), self._clip, self._num_clips, pixels=self._pixels, name=video.shown
            )
            return views, starts, None
        except (InputError, OSError, ImportError) as error:
            return None, [], error
