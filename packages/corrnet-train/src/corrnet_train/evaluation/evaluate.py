"""Accuracy over a split, with the fingerprint that makes the figure comparable (paper section 5)."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av

from corrnet_train.checkpoint.state import weights_hash
from corrnet_train.distributed.ranks import ONE_RANK, Ranks, on_every_rank
from corrnet_train.evaluation.accuracy import VideoAccuracy, VideoPrediction, video_accuracy
from corrnet_train.evaluation.journal import EvalJournal, EvalPart
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.interrupt import Stopped
from video_data import ShardSet, ViewBatch, eval_loader, open_shards
from video_data.loading.batches import Unreadable
from video_data.utils.loader import LOADER_TIMEOUT

Fingerprint = dict[str, str | int]
_log = logging.getLogger(__name__)

EVALUATION_FILES = ("result.json", "predictions.csv", "unreadable.csv", "classes.csv", "report.html")
"""What `corrnet eval --output` writes into its folder, and what it needs to go on after a stop."""
JOURNAL = "unfinished.jsonl"


@dataclass(frozen=True)
class EvalResult:
    """Accuracy over a split; each video is counted once, or named as unreadable.

    Attributes:
        num_videos: Videos that were counted.
        num_clips, num_crops: views of each video: clips, and places along the longer side.
        clip_top1, clip_top5: shares of the views, in 0..1; top-5 is 1 for five classes or fewer.
        video: Accuracy, calibration and confusion of the videos.
        predictions: One for each counted video, in the order of the split.
        unreadable: Videos of the split that could not be read and are not counted.
        fingerprint: What the figures depend on.
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

    def mistakes(self, most: int) -> list[tuple[int, VideoPrediction]]:
        """Return the videos that are taken for another class, the surest mistakes first, with their place in the split.

        Args:
            most: How many at most.
        """
        left_out = {entry.number for entry in self.unreadable}
        places = (n for n in range(self.num_videos + len(left_out)) if n not in left_out)
        wrong = [
            (place, prediction)
            for place, prediction in zip(places, self.predictions, strict=True)
            if prediction.predicted != prediction.label
        ]
        return sorted(wrong, key=lambda item: -max(item[1].probabilities))[:most]

    @property
    def confusion(self) -> list[list[int]]:
        """Number of videos, rows are true classes and columns predicted ones."""
        return self.video.confusion


def evaluate(
    classifier: VideoClassifier,
    shards: ShardSet | str | Path,
    split: str,
    *,
    num_clips: int | None = None,
    num_crops: int = 1,
    batch_size: int = 4,
    num_workers: int = 0,
    on_batch: Callable[[int], None] = lambda num_videos: None,
    ranks: Ranks = ONE_RANK,
    journal: str | Path | None = None,
    stop: Callable[[], bool] | None = None,
    timeout: float = LOADER_TIMEOUT,
) -> EvalResult:
    """Classify every video of `split` from `num_clips` x `num_crops` views each.

    A video that cannot be read does not end the evaluation: it is listed in the result, its number is in the
    fingerprint, and a warning of the logger `corrnet_train` says so.

    Args:
        classifier: The model with its classes, which must be those of the shards.
        shards: An open shard set, or the folder or URL of one.
        split: Name of the split.
        num_clips: Clips spaced uniformly over each video; None takes those of the classifier.
        num_crops: 1 for the center of the picture, 3 for three places along its longer side.
        batch_size: Videos a step.
        num_workers: Decoding processes.
        on_batch: Called after every step with the number of videos in it, of this process, and at the start with how
            many were done before.
        ranks: The processes that share the videos; each of them gets the result over all.
        journal: A file that keeps what is done; with the same one, a call goes on where another was stopped. It is
            left there, to be removed when the result is safe. For one process.
        stop: Called before every step; where it returns true in one of the processes, all of them stop.
        timeout: Seconds without a batch after which decoding processes are given up.

    Raises:
        ValueError: The model's classes differ from those of the shards, the split does not exist, or a number is out of
            range.
        WorkError: None of the videos can be read.
        Stopped: `stop` returned true.
    """
    if not isinstance(shards, ShardSet):
        shards = open_shards(shards)
    check_classes(classifier.classes, shards)
    if journal is not None and ranks.world_size > 1:
        raise InputError(f"a journal is for one process, got {ranks.world_size}")
    num_clips = classifier.num_clips if num_clips is None else num_clips
    views = {"num_clips": num_clips, "num_crops": num_crops}
    settings = {} if journal is None else fingerprint(classifier, shards, split, **views, num_videos=0)
    work = EvalJournal(None if journal is None else Path(journal), settings)
    try:
        loader = eval_loader(
            shards,
            split,
            classifier.clip,
            num_clips=num_clips,
            num_crops=num_crops,
            batch_size=batch_size,
            num_workers=num_workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
            first=work.num_videos,
            pixels=classifier.pixels,
            skip_unreadable=True,
            timeout=timeout,
        )
        on_batch(work.num_videos)
        for batch in loader:
            if stop is not None and ranks.any(stop()):
                raise Stopped
            part = _evaluate_batch(classifier, batch, shards, split)
            work.add(part)
            on_batch(part.num_videos)
    finally:
        work.close()
    predictions, unreadable, clip_hits = _of_all(work.parts, ranks, shards, split)
    num_views = len(predictions) * num_clips * num_crops
    return EvalResult(
        num_videos=len(predictions),
        num_clips=num_clips,
        num_crops=num_crops,
        clip_top1=clip_hits[0] / num_views,
        clip_top5=clip_hits[1] / num_views,
        video=video_accuracy(predictions, classifier.classes),
        predictions=predictions,
        unreadable=unreadable,
        fingerprint=fingerprint(classifier, shards, split, **views, num_videos=len(predictions)),
    )


def _evaluate_batch(classifier: VideoClassifier, batch: ViewBatch, shards: ShardSet, split: str) -> EvalPart:
    clips, videos = classifier.video_probabilities(batch.video)
    ranked = clips.topk(min(5, len(classifier.classes))).indices
    hits = ranked == batch.label[:, None, None]  # no class where a row is not valid
    rows = zip(batch.keys, batch.index.tolist(), batch.label.tolist(), videos.tolist(), strict=True)
    return EvalPart(
        [
            (index, VideoPrediction(key, shards.sample(split, index).source, label, row))
            for key, index, label, row in rows
            if index >= 0
        ],
        batch.unreadable,
        (int(hits[..., 0].sum()), int(hits.sum())),
    )


def _of_all(
    own: list[EvalPart], ranks: Ranks, shards: ShardSet, split: str
) -> tuple[list[VideoPrediction], list[Unreadable], tuple[int, int]]:
    """Return the results of all processes in the order of the split, each video once, and the hits of all views."""
    parts = [part for parts in ranks.gather(own) for part in parts]
    rows = sorted((row for part in parts for row in part.videos), key=lambda row: row[0])
    unreadable = sorted(entry for part in parts for entry in part.unreadable)
    num_videos = shards.num_samples(split)
    seen = sorted([index for index, _ in rows] + [entry.number for entry in unreadable])
    if seen != list(range(num_videos)):
        raise RuntimeError(f"{len(seen)} videos were counted for {num_videos}: some twice or never")
    if unreadable:
        first = f"the first is {unreadable[0].key}: {unreadable[0].message}"
        if not rows:
            raise on_every_rank(
                WorkError(f"none of the {num_videos} videos of split {split} can be read; {first}")
            )
        if ranks.is_first:
            _log.warning(
                "%d of %d videos of split %s cannot be read and are not counted; %s",
                len(unreadable), num_videos, split, first,
            )  # fmt: skip
    top1, top5 = (sum(part.clip_hits[rank] for part in parts) for rank in (0, 1))
    return [prediction for _, prediction in rows], unreadable, (top1, top5)


def check_classes(classes: tuple[str, ...], shards: ShardSet) -> None:
    """Refuse shards whose label map is not the one the model was trained with, and multi-label ones.

    Raises:
        ValueError: Names the first class that differs.
    """
    require_one_label(shards)
    if shards.classes == classes:
        return
    if len(shards.classes) != len(classes):
        raise InputError(
            f"the shards have {len(shards.classes)} classes, the model was trained with {len(classes)}"
        )
    index = next(
        i for i, (ours, theirs) in enumerate(zip(classes, shards.classes, strict=True)) if ours != theirs
    )
    raise InputError(
        f"class {index} is {shards.classes[index]!r} in the shards, {classes[index]!r} in the model"
    )


def require_one_label(shards: ShardSet) -> None:
    """Refuse multi-label shards, of which a model that is trained here would learn the first label alone.

    Raises:
        ValueError: They are multi-label.
    """
    if shards.multi_label:
        raise InputError(
            f"{shards.path} has several labels for each video (multi-label), and corrnet trains and evaluates models "
            "of one label: pack the videos with a column label, or train with video_data's loaders and a loss of your "
            "own"
        )


def fingerprint(
    classifier: VideoClassifier,
    shards: ShardSet,
    split: str,
    *,
    num_clips: int,
    num_crops: int,
    num_videos: int,
) -> Fingerprint:
    """Return what a reported accuracy depends on: equal fingerprints mean comparable figures.

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
        "views": f"{num_clips} clips x " + ("1 center crop" if num_crops == 1 else f"{num_crops} crops"),
        "clip": f"{clip.num_frames} frames, {clip.spacing}, {clip.crop_size} px, {clip.modality}",
        "resize": f"short side {clip.short_side_range[0]} px",
        "pixels": classifier.pixels,
        "decoder": f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}",
        "precision": classifier.precision,
        "weights": weights_hash(classifier.model),
    }
