"""Our shards for users of `webdataset` and `datasets`, and data sets of `datasets` as shards."""

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from video_data.batches import channels_first
from video_data.budget import ErrorBudget
from video_data.clips import ClipConfig, train_clip
from video_data.manifest import FLOW_SUFFIX, PackOptions
from video_data.order import hash_words
from video_data.pack import PackReport, pack_csv
from video_data.probe import VIDEO_SUFFIXES, VideoError, describe, open_video
from video_data.shards import ShardError, ShardSet
from video_data.sources import SPLIT_NAMES
from video_data.streams import Streams, check_streams, decode_streams
from video_data.tars import Sample, read_samples

if TYPE_CHECKING:
    import datasets

_SUFFIXES = {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "ogg": "ogv", "asf": "wmv"}


def webdataset_pipeline(
    shards: ShardSet,
    split: str,
    clip: ClipConfig,
    *,
    seed: int = 0,
    epoch: int = 0,
    error_budget: float = 0.01,
) -> "webdataset.DataPipeline":
    """One pass over a split as a `webdataset` pipeline, to which users may append stages of their own.

    Shards are split among nodes and workers as `webdataset` does, so ranks may get different numbers of samples, and
    there is no resuming; `train_loader` has neither weakness. Tars are read from front to end, by members: regular
    files with plain names and known endings alone; nothing is unpickled, and no command is run.

    Args:
        shards: an open shard set.
        split: split to read.
        clip: the clip that is cut at random from each video.
        seed: with `epoch` and the number of a sample it determines its clip.
        epoch: number of the pass.
        error_budget: fraction of the samples of the split that may be unreadable; they are left out, counted by
            reason, and the first for each reason is logged.

    Returns:
        A pipeline of `{"__key__", "__url__", "video": uint8 [C, L, H, W], "label": int}`.

    Raises:
        ValueError: there is no such split, or the set was packed without the flow that `clip` asks for.
        RuntimeError: while iterating, more samples than the budget allows could not be read.
    """
    check_streams(shards, clip, "rgb")
    names = [shard.name for shard in shards.manifest.shards if shard.split == split]
    budget = ErrorBudget(error_budget * shards.num_samples(split))
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

    def _cut(self, sample: Sample, index: int) -> tuple[Tensor, int]:
        record, info = self._shards.sample(self._split, index), self._shards.info(self._split, index)
        streams = Streams(
            None if self._clip.modality == "flow" else (_member(sample, record.suffix), info),
            None
            if self._clip.modality == "rgb"
            else (_member(sample, FLOW_SUFFIX), self._shards.flow_info(self._split, index)),
        )
        seed, epoch = self._seeds
        position = hash_words(epoch, index)[0]
        spec = train_clip(info.num_frames, info.display_size, self._clip, seed=seed, position=position)
        size = self._clip.crop_size
        out = np.empty((1, 1, len(spec.frames), size, size, self._clip.num_channels), dtype=np.uint8)
        decode_streams(streams, [spec.frames], [spec.box], size, flip=spec.flip, out=out)
        return channels_first(torch.from_numpy(out[0, 0])), record.label


def _member(sample: Sample, suffix: str) -> bytes:
    content = sample.get(suffix)
    if not isinstance(content, bytes):
        raise ShardError(f"no member {sample['__key__']!s}.{suffix}", reason="a sample without a video")
    return content


def to_hf_dataset(shards: ShardSet, split: str) -> "datasets.IterableDataset":
    """A split as a streaming data set of `datasets` (extra `hf`).

    Its features are `key`, `video` (the file's bytes; nothing is decoded), `label` (a `ClassLabel`) and `source`, and
    where the set has optical flow `flow`, a video as `video_data.flow` describes. Each shard is one of its shards.

    Args:
        shards: an open shard set.
        split: split to read.

    Raises:
        ValueError: there is no such split.
        ImportError: `datasets` is not installed.
        ShardError: while iterating, a shard cannot be read.
    """
    datasets = _import_datasets()
    shards.num_samples(split)  # refuses an unknown split
    names = [shard.name for shard in shards.manifest.shards if shard.split == split]
    features = datasets.Features(
        {
            "key": datasets.Value("string"),
            "video": datasets.Video(decode=False),
            "label": datasets.ClassLabel(names=list(shards.classes)),
            "source": datasets.Value("string"),
            **({"flow": datasets.Video(decode=False)} if shards.has_flow else {}),
        }
    )
    return datasets.IterableDataset.from_generator(
        _examples,
        features=features,
        gen_kwargs={"shards": shards, "split": split, "names": names},
    )


def _examples(shards: ShardSet, split: str, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        for index in shards.shard_indices(name):
            record = shards.sample(split, index)
            example = {
                "key": record.key,
                "video": {"bytes": shards.read(split, index), "path": f"{record.key}.{record.suffix}"},
                "label": record.label,
                "source": record.source,
            }
            if shards.has_flow:
                path = f"{record.key}.{FLOW_SUFFIX}"
                example["flow"] = {"bytes": shards.read_flow(split, index), "path": path}
            yield example


def pack_hf_dataset(
    dataset: Any,
    dest: str | Path,
    *,
    video: str = "video",
    label: str = "label",
    options: PackOptions | None = None,
    progress: bool = True,
) -> PackReport:
    """Packs a video data set of `datasets` (extra `hf`) into shards.

    Videos are written to a temporary folder beside `dest` first, where they are not files already; a data set that
    names local files has those packed. Nothing is decoded by `datasets`.

    Args:
        dataset: a `Dataset` or `IterableDataset`, whose videos belong to train, or a mapping from train, val,
            valid, validation or test to them, as `load_dataset` returns.
        dest: folder for the shards.
        video: name of the column of videos, a feature `Video`.
        label: name of the column of labels: a `ClassLabel`, or texts or numbers.
        options: how to pack; None means the defaults.
        progress: whether to show a progress bar on standard error.

    Raises:
        ValueError: a column is missing or a split has another name, or as in `pack_csv`.
        ImportError: `datasets` is not installed.
    """
    datasets = _import_datasets()
    parts: dict[str, Any] = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
    unknown = sorted(set(parts) - set(SPLIT_NAMES))
    if unknown:
        raise ValueError(f"splits {unknown}, allowed are {', '.join(SPLIT_NAMES)}")
    for split, part in parts.items():
        columns = list(part.features or {})
        missing = [name for name in (video, label) if name not in columns]
        if missing:
            raise ValueError(
                f"no column {' and '.join(missing)} in split {split!r}; it has {', '.join(columns)}"
            )
    target = Path(dest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".video-data-") as name:
        folder = Path(name)
        with (folder / "videos.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "label", "split"))
            for split, part in parts.items():
                names = getattr(part.features[label], "names", None)
                encoded = part.cast_column(video, datasets.Video(decode=False))
                for number, example in enumerate(encoded):
                    value = example[label]
                    path = _write_video(example[video] or {}, folder / split, number)
                    rows.writerow(
                        (path.relative_to(folder).as_posix(), names[value] if names else value, split)
                    )
        return pack_csv(folder / "videos.csv", target, options=options, progress=progress)


def _write_video(value: Mapping[str, Any], folder: Path, number: int) -> Path:
    """Puts a video of `datasets` into a folder, where it gets its number and what is known of its name."""
    content, original = value.get("bytes"), Path(value.get("path") or "")
    suffix = original.suffix[1:].lower()
    if suffix not in VIDEO_SUFFIXES:
        suffix = _sniff(content if content is not None else original)
    path = folder / f"{number:08d}-{original.stem}.{suffix}".replace("-.", ".")
    folder.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    elif original.is_file():
        path.symlink_to(os.path.abspath(original))  # noqa: PTH100
    return path  # without a file it is packed as missing


def _sniff(source: bytes | Path) -> str:
    """The file ending of a video; mp4 where it cannot be told."""
    try:
        with open_video(source) as (container, _):
            name = container.format.name.split(",")[0]
    except VideoError:
        return "mp4"
    return _SUFFIXES.get(name, name)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{describe(error)}; install it with: pip install 'video-data[hf]'") from error
    return datasets
