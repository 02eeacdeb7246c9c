"""Shards as pipelines of `webdataset`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from video_data.loading._streams import Streams, check_streams, decode_streams
from video_data.loading.batches import channels_first, label_tensor
from video_data.media.limits import VideoError
from video_data.sampling.clips import ClipConfig, train_clip
from video_data.sampling.order import hash_words
from video_data.shards.format import FLOW_SUFFIX
from video_data.shards.reader import ShardError, ShardSet
from video_data.shards.untrusted_tar import Sample, read_samples
from video_data.utils.error_budget import ErrorBudget, allowed_errors

if TYPE_CHECKING:
    pass


def webdataset_pipeline(
    shards: ShardSet,
    split: str,
    clip: ClipConfig,
    *,
    seed: int = 0,
    epoch: int = 0,
    error_budget: float | None = None,
) -> "webdataset.DataPipeline":
    """One pass over a split as a `webdataset` pipeline, to which users may append stages of their own.

    Shards are split among nodes and workers as `webdataset` does, so ranks may get different numbers of samples, and
    there is no resuming; `train_loader` has neither weakness. Tars are read from front to end, by members: regular
    files with plain names and known endings alone; nothing is unpickled, and no command is run.

    Args:
        shards: An open shard set.
        split: Split to read.
        clip: The clip that is cut at random from each video.
        seed: With `epoch` and the number of a sample it determines its clip.
        epoch: Number of the pass.
        error_budget: Fraction of the samples of the split that may be unreadable; None stands for 0.01, and in small
            sets for 5 videos. They are left out, counted by reason, and the first for each reason is logged.

    Returns:
        A pipeline of `{"__key__", "__url__", "video": uint8 [C, L, H, W], "label": int}`; in a multilabel set
        the label is float32 [classes], 1 for those of the sample and 0 for all others, and in one for regression the
        value, float32 [1].

    Raises:
        ValueError: There is no such split, or the set was packed without the flow that `clip` asks for.
        WorkError: While iterating, more samples than the budget allows could not be read.
    """
    check_streams(shards, clip, "rgb")
    names = [shard.name for shard in shards.manifest.shards if shard.split == split]
    num_videos = shards.num_samples(split)
    budget = ErrorBudget(allowed_errors(error_budget, num_videos, num_videos=num_videos))
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(names),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        _ReadClips(shards, split, clip, (seed, epoch), budget),
    )


class _ReadClips:
    """Pipeline stage: names of shards to clips."""

    def __init__(
        self, shards: ShardSet, split: str, clip: ClipConfig, seeds: tuple[int, int], budget: ErrorBudget
    ) -> None:
        self._shards = shards
        self._split = split
        self._clip = clip
        self._seeds = seeds
        self._budget = budget

    def __call__(self, source: Iterable[dict[str, str]]) -> Iterator[dict[str, Any]]:
        for item in source:
            yield from self._read_shard(item["url"])

    def _read_shard(self, name: str) -> Iterator[dict[str, Any]]:
        indices = self._shards.shard_indices(name)
        try:
            left = {self._shards.sample(self._split, index).key: index for index in indices}
            tar = self._shards.open_tar(name)
        except ShardError as error:
            for index in indices:
                self._budget.add(f"{self._split}/{index}", error.reason, str(error))
            return
        with tar:
            for sample in read_samples(tar, name, self._budget):
                key = str(sample["__key__"])
                try:
                    if key not in left:
                        raise ShardError(
                            f"{name}: {key!r} is not in the index", reason="a sample is not in the index"
                        )
                    video, label = self._cut(sample, left.pop(key))
                except (VideoError, ShardError) as error:
                    self._budget.add(key, error.reason, str(error))
                else:
                    yield {"__key__": key, "__url__": name, "video": video, "label": label}
        for key in left:
            self._budget.add(key, "a sample is missing from its tar", f"{name}.tar has no sample {key!r}")

    def _cut(self, sample: Sample, index: int) -> tuple[Tensor, int | Tensor]:
        record, info = self._shards.sample(self._split, index), self._shards.info(self._split, index)
        streams = Streams(
            None if self._clip.modality == "flow" else (_member(sample, record.suffix), info),
            None
            if self._clip.modality == "rgb"
            else (_member(sample, FLOW_SUFFIX), self._shards.flow_info(self._split, index)),
        )
        seed, epoch = self._seeds
        position = hash_words(epoch, index)[0]
        spec = train_clip(info, info.display_size, self._clip, seed=seed, position=position)
        size = self._clip.crop_size
        out = np.empty((1, 1, len(spec.frames), size, size, self._clip.num_channels), dtype=np.uint8)
        decode_streams(streams, [spec.frames], [spec.box], size, flip=spec.flip, out=out)
        label = record.label if self._shards.task == "multiclass" else label_tensor(self._shards, [record])[0]
        return channels_first(torch.from_numpy(out[0, 0])), label


def _member(sample: Sample, suffix: str) -> bytes:
    content = sample.get(suffix)
    if not isinstance(content, bytes):
        raise ShardError(f"no member {sample['__key__']!s}.{suffix}", reason="a sample without a video")
    return content
