"""Accuracy over a split, with the fingerprint that makes the figure comparable (paper section 5)."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import av
import torch

from corrnet_train.accuracy import VideoAccuracy, VideoPrediction, video_accuracy
from corrnet_train.checkpoint import weights_hash
from corrnet_train.distributed import Ranks, on_every_rank
from corrnet_train.inference import ClipClassifier
from video_data import ShardSet, Unreadable, test_loader

Fingerprint = dict[str, str | int]
ONE_RANK = Ranks()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalResult:
    """Accuracy over a split; each video is counted once, or named as unreadable.

    Attributes:
        num_videos: videos that were counted.
        num_clips, num_crops: views of each video: clips, and places along the longer side.
        clip_top1, clip_top5: shares of the views, in 0..1; top-5 is 1 for five classes or fewer.
        video: accuracy, calibration and confusion of the videos.
        predictions: one for each counted video, in the order of the split.
        unreadable: videos of the split that could not be read and are not counted.
        fingerprint: what the figures depend on.
    """

    num_videos: int
    num_clips: int
    num_crops: int
    clip_top1: float
    clip_top5: float
    video: VideoAccuracy
    predictions: list[VideoPrediction]
    unreadable: list[Unreadable]
    fingerprint: Fingerprint

    @property
    def video_top1(self) -> float:
        """Top-1 of the videos, in 0..1."""
        return self.video.top1

    @property
    def video_top5(self) -> float:
        """Top-5 of the videos, in 0..1."""
        return self.video.top5

    @property
    def confusion(self) -> list[list[int]]:
        """Number of videos, rows are true classes and columns predicted ones."""
        return self.video.confusion


def evaluate(
    classifier: ClipClassifier,
    shards: ShardSet,
    split: str,
    *,
    num_clips: int = 10,
    num_crops: int = 1,
    batch_size: int = 4,
    num_workers: int = 0,
    on_batch: Callable[[int], None] = lambda num_videos: None,
    ranks: Ranks = ONE_RANK,
) -> EvalResult:
    """Classifies every video of `split` from `num_clips` x `num_crops` views each.

    A video that cannot be read does not end the evaluation: it is listed in the result, its number is in the
    fingerprint, and a warning of the logger `corrnet_train` says so.

    Args:
        classifier: the model with its classes, which must be those of the shards.
        shards: an open shard set.
        split: name of the split.
        num_clips: clips spaced uniformly over each video.
        num_crops: 1 for the centre of the picture, 3 for three places along its longer side.
        batch_size: videos a step.
        num_workers: decoding processes.
        on_batch: called after every step with the number of videos in it, of this process.
        ranks: the processes that share the videos; each of them gets the result over all.

    Raises:
        ValueError: the model's classes differ from those of the shards, the split does not exist, or a number is out of
            range.
        RuntimeError: none of the videos can be read.
    """
    check_classes(classifier.classes, shards)
    loader = test_loader(
        shards,
        split,
        classifier.clip,
        num_clips=num_clips,
        num_crops=num_crops,
        batch_size=batch_size,
        num_workers=num_workers,
        rank=ranks.rank,
        world_size=ranks.world_size,
        skip_unreadable=True,
    )
    top = min(5, len(classifier.classes))
    clip_hits = torch.zeros(2, dtype=torch.int64)
    own: list[tuple[int, VideoPrediction]] = []
    own_unreadable: list[Unreadable] = []
    for batch in loader:
        clips, videos = classifier.video_probabilities(batch.video)
        hits = clips.topk(top).indices == batch.label[:, None, None]  # no class where a row is not valid
        clip_hits += torch.stack([hits[..., 0].sum(), hits.sum()])
        for key, index, label, row in zip(
            batch.keys, batch.index.tolist(), batch.label.tolist(), videos.tolist(), strict=True
        ):
            if index >= 0:
                own.append((index, VideoPrediction(key, shards.sample(split, index).source, label, row)))
        own_unreadable += batch.unreadable
        on_batch(int(batch.valid.sum()) + len(batch.unreadable))
    predictions, unreadable = _of_all(own, own_unreadable, ranks, shards, split)
    num_views = len(predictions) * num_clips * num_crops
    clip_top1, clip_top5 = (sum(ranks.gather(clip_hits), torch.zeros(2)) / num_views).tolist()
    return EvalResult(
        num_videos=len(predictions),
        num_clips=num_clips,
        num_crops=num_crops,
        clip_top1=clip_top1,
        clip_top5=clip_top5,
        video=video_accuracy(predictions, classifier.classes),
        predictions=predictions,
        unreadable=unreadable,
        fingerprint=fingerprint(
            classifier,
            shards,
            split,
            num_clips=num_clips,
            num_crops=num_crops,
            num_videos=len(predictions),
        ),
    )


def _of_all(
    own: list[tuple[int, VideoPrediction]],
    own_unreadable: list[Unreadable],
    ranks: Ranks,
    shards: ShardSet,
    split: str,
) -> tuple[list[VideoPrediction], list[Unreadable]]:
    """The results of all processes in the order of the split, each video once."""
    parts = ranks.gather((own, own_unreadable))
    rows = sorted((row for part, _ in parts for row in part), key=lambda row: row[0])
    unreadable = sorted(entry for _, part in parts for entry in part)
    num_videos = shards.num_samples(split)
    seen = sorted([index for index, _ in rows] + [entry.number for entry in unreadable])
    if seen != list(range(num_videos)):
        raise RuntimeError(f"{len(seen)} videos were counted for {num_videos}: some twice or never")
    if unreadable:
        first = f"the first is {unreadable[0].key}: {unreadable[0].message}"
        if not rows:
            raise on_every_rank(
                RuntimeError(f"none of the {num_videos} videos of split {split} can be read; {first}")
            )
        if ranks.is_first:
            _log.warning(
                "%d of %d videos of split %s cannot be read and are not counted; %s",
                len(unreadable), num_videos, split, first,
            )  # fmt: skip
    return [prediction for _, prediction in rows], unreadable


def check_classes(classes: list[str], shards: ShardSet) -> None:
    """Refuses shards whose label map is not the one the model was trained with.

    Raises:
        ValueError: names the first class that differs.
    """
    if list(shards.classes) == classes:
        return
    if len(shards.classes) != len(classes):
        raise ValueError(
            f"the shards have {len(shards.classes)} classes, the model was trained with {len(classes)}"
        )
    index = next(
        i for i, (ours, theirs) in enumerate(zip(classes, shards.classes, strict=True)) if ours != theirs
    )
    raise ValueError(
        f"class {index} is {shards.classes[index]!r} in the shards, {classes[index]!r} in the model"
    )


def fingerprint(
    classifier: ClipClassifier,
    shards: ShardSet,
    split: str,
    *,
    num_clips: int,
    num_crops: int,
    num_videos: int,
) -> Fingerprint:
    """What a reported accuracy depends on: equal fingerprints mean comparable figures.

    `videos` were counted, `videos packed` are in the shards, `videos listed` are named by the data set.
    """
    clip = classifier.clip
    listed = {str(name): entry.num_listed for name, entry in shards.manifest.coverage.items()}
    return {
        "data set": shards.manifest.dataset,
        "manifest": shards.manifest_hash,
        "label map": hashlib.sha256("\n".join(shards.classes).encode()).hexdigest()[:16],
        "split": split,
        "videos": num_videos,
        "videos packed": shards.num_samples(split),
        "videos listed": listed.get(split, "unknown"),
        "views": f"{num_clips} clips x " + ("1 centre crop" if num_crops == 1 else f"{num_crops} crops"),
        "clip": f"{clip.num_frames} frames, stride {clip.frame_stride}, {clip.crop_size} px, {clip.modality}",
        "resize": f"short side {clip.short_side_range[0]} px",
        "decoder": f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}",
        "precision": classifier.precision,
        "weights": weights_hash(classifier.model),
    }
