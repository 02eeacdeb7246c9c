"""Accuracy over a split, with the fingerprint that makes the figure comparable (paper section 5)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import av
import torch

from corrnet_train.checkpoint import weights_hash
from corrnet_train.inference import ClipClassifier
from video_data import ShardSet, test_loader

Fingerprint = dict[str, str | int]


@dataclass(frozen=True)
class VideoPrediction:
    """The result for one video.

    Attributes:
        key: sample key in the shards.
        label: class index in the shards.
        probabilities: class probabilities averaged over the clips.
    """

    key: str
    label: int
    probabilities: list[float]


@dataclass(frozen=True)
class EvalResult:
    """Accuracy over a split; each video is counted once.

    Attributes:
        clip_top1, clip_top5, video_top1, video_top5: fractions in 0..1; top-5 is 1 for five
            classes or fewer.
        confusion: number of videos, rows are true classes and columns predicted ones.
        predictions: one for each video, in the order of the split.
        fingerprint: what the figures depend on.
    """

    num_videos: int
    num_clips: int
    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    confusion: list[list[int]]
    predictions: list[VideoPrediction]
    fingerprint: Fingerprint


def evaluate(
    classifier: ClipClassifier,
    shards: ShardSet,
    split: str,
    *,
    num_clips: int = 10,
    batch_size: int = 4,
    num_workers: int = 0,
    on_batch: Callable[[int], None] = lambda num_videos: None,
) -> EvalResult:
    """Classifies every video of `split` from `num_clips` clips each.

    Args:
        classifier: the model with its classes, which must be those of the shards.
        shards: an open shard set.
        split: name of the split.
        num_clips: clips spaced uniformly over each video.
        batch_size: videos a step.
        num_workers: decoding processes.
        on_batch: called after every step with the number of videos in it.

    Raises:
        ValueError: the model's classes differ from those of the shards, or the split does not exist.
        RuntimeError: a video cannot be read; accuracy over fewer videos would be another figure.
    """
    check_classes(classifier.classes, shards)
    loader = test_loader(
        shards, split, classifier.clip, num_clips=num_clips, batch_size=batch_size, num_workers=num_workers
    )
    num_classes = len(classifier.classes)
    top = min(5, num_classes)
    hits = torch.zeros(4)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    predictions: list[VideoPrediction] = []
    for batch in loader:
        clips, videos = classifier.video_probabilities(batch.video)
        labels = batch.label
        clip_ranks = clips.topk(top).indices == labels[:, None, None]
        video_ranks = videos.topk(top).indices == labels[:, None]
        hits += torch.tensor(
            [clip_ranks[..., 0].sum(), clip_ranks.sum(), video_ranks[..., 0].sum(), video_ranks.sum()]
        )
        for key, label, row in zip(batch.keys, labels.tolist(), videos, strict=True):
            confusion[label, int(row.argmax())] += 1
            predictions.append(VideoPrediction(key, label, row.tolist()))
        on_batch(len(batch.keys))
    num_videos = len(predictions)
    clip_top1, clip_top5, video_top1, video_top5 = (
        hits / torch.tensor([num_videos * num_clips, num_videos * num_clips, num_videos, num_videos])
    ).tolist()
    return EvalResult(
        num_videos=num_videos,
        num_clips=num_clips,
        clip_top1=clip_top1,
        clip_top5=clip_top5,
        video_top1=video_top1,
        video_top5=video_top5,
        confusion=confusion.tolist(),
        predictions=predictions,
        fingerprint=fingerprint(classifier, shards, split, num_clips=num_clips, num_videos=num_videos),
    )


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
    classifier: ClipClassifier, shards: ShardSet, split: str, *, num_clips: int, num_videos: int
) -> Fingerprint:
    """What a reported accuracy depends on: equal fingerprints mean comparable figures."""
    clip = classifier.clip
    return {
        "manifest": shards.manifest_hash,
        "label map": hashlib.sha256("\n".join(shards.classes).encode()).hexdigest()[:16],
        "split": split,
        "videos": num_videos,
        "views": f"{num_clips} clips x 1 centre crop",
        "clip": f"{clip.num_frames} frames, stride {clip.frame_stride}, {clip.crop_size} px, {clip.modality}",
        "resize": f"short side {clip.short_side_range[0]} px",
        "decoder": f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}",
        "precision": classifier.precision,
        "weights": weights_hash(classifier.model),
    }
