"""Shards as data sets of `datasets`, and data sets of `datasets` as shards."""

import csv
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_data.datasets import SPLIT_NAMES
from video_data.media.container import open_video
from video_data.media.limits import VIDEO_SUFFIXES, VideoError
from video_data.packing.pack import PackReport, pack_csv
from video_data.shards.format import FLOW_SUFFIX
from video_data.shards.pack_options import PackOptions
from video_data.shards.reader import ShardSet
from video_data.utils.errors import InputError, MissingPackageError, describe

if TYPE_CHECKING:
    import datasets

_SUFFIXES = {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "ogg": "ogv", "asf": "wmv"}


def to_hf_dataset(shards: ShardSet, split: str) -> "datasets.IterableDataset":
    """A split as a streaming data set of `datasets` (extra `hf`).

    Its features are `key`, `video` (the file's bytes; nothing is decoded), `label` (a `ClassLabel`) and `source`, and
    where the set has optical flow `flow`, a video as `video_data.media.flow` describes. Each shard is one of its
    shards.

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
    """Pack a video data set of `datasets` (extra `hf`) into shards.

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
        raise InputError(f"splits {unknown}, allowed are {', '.join(SPLIT_NAMES)}")
    for split, part in parts.items():
        columns = list(part.features or {})
        missing = [name for name in (video, label) if name not in columns]
        if missing:
            raise InputError(
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
    """Put a video of `datasets` into a folder, where it gets its number and what is known of its name."""
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
        raise MissingPackageError(
            f"{describe(error)}; install it with: pip install 'video-data[hf]'"
        ) from error
    return datasets
