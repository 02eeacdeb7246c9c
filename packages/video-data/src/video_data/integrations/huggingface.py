"""Shards as data sets of `datasets`, and data sets of `datasets` as shards."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_data.datasets import MISSING, SPLIT_NAMES, Entry, Listing
from video_data.datasets.listing import (
    NO_LABEL,
    refuse_alike,
    require_two_classes,
    shifted_numbers,
    split_of,
    unseen_classes,
)
from video_data.media.container import open_video
from video_data.media.limits import VIDEO_SUFFIXES, VideoError
from video_data.packing.pack import PackReport, check_destination, pack_listing
from video_data.shards.format import FLOW_SUFFIX
from video_data.shards.pack_options import PackOptions
from video_data.shards.reader import ShardSet
from video_data.utils.errors import InputError, MissingPackageError, describe

if TYPE_CHECKING:
    import datasets

_MOST_NAME = 48  # characters of a video's name that are kept
_SUFFIXES = {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "ogg": "ogv", "asf": "wmv"}


def to_hf_dataset(shards: ShardSet, split: str) -> "datasets.IterableDataset":
    """Return a split as a streaming data set of `datasets` (extra `hf`).

    Its features are `key`, `video` (the file's bytes; nothing is decoded), what is to be learned (`label`, a
    `ClassLabel`; of a multilabel set `labels`, a list of them; of a set for regression `value`, a number) and `source`,
    and where the set has optical flow `flow`, a video as `video_data.media.flow` describes. Each shard is one of its
    shards.

    Args:
        shards: An open shard set.
        split: Split to read.

    Raises:
        ValueError: There is no such split.
        ImportError: `datasets` is not installed.
        ShardError: While iterating, a shard cannot be read.
    """
    datasets = _import_datasets()
    shards.num_samples(split)  # refuses an unknown split
    names = [shard.name for shard in shards.manifest.shards if shard.split == split]
    label = datasets.ClassLabel(names=list(shards.classes))
    targets = {
        "multiclass": {"label": label},
        "multilabel": {"labels": datasets.Sequence(label)},
        "regression": {"value": datasets.Value("float64")},
    }
    features = datasets.Features(
        {
            "key": datasets.Value("string"),
            "video": datasets.Video(decode=False),
            **targets[shards.task],
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
            example: dict[str, Any] = {
                "key": record.key,
                "video": {"bytes": shards.read(split, index), "path": f"{record.key}.{record.suffix}"},
                "source": record.source,
            }
            if shards.task == "regression":
                example["value"] = record.value
            elif shards.task == "multilabel":
                example["labels"] = record.labels(shards.task)
            else:
                example["label"] = record.label
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

    The labels of a `ClassLabel` and their order are kept, also of classes without a video. Numbers from 0 on are labels
    themselves; texts are sorted. Videos whose label is None, -1 or an empty text have none and are left out.

    Args:
        dataset: A `Dataset` or `IterableDataset`, whose videos belong to train, or a mapping from the name of a split
            (train, training, val, dev, test, ...) to them, as `load_dataset` returns.
        dest: Folder for the shards.
        video: Name of the column of videos, a feature `Video`.
        label: Name of the column of labels: a `ClassLabel`, or texts or numbers.
        options: How to pack; None means the defaults.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: A column is missing, a split has another name, the splits have different class names, a label is
            none of them, or as in `pack_listing`.
        ImportError: `datasets` is not installed.
    """
    datasets = _import_datasets()
    parts: dict[str, Any] = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
    unknown = sorted(split for split in parts if split_of(split) is None)
    if unknown:
        raise InputError(f"splits {unknown}, allowed are {', '.join(SPLIT_NAMES)}")
    for split, part in parts.items():
        columns = list(part.features or {})
        missing = [name for name in (video, label) if name not in columns]
        if missing:
            raise InputError(
                f"no column {' and '.join(missing)} in split {split!r}; it has {', '.join(columns)}"
            )
    maps = {split: getattr(part.features[label], "names", None) for split, part in parts.items()}
    classes = next(iter(maps.values()), None)
    if any(names != classes for names in maps.values()):
        raise InputError(f"the splits {', '.join(maps)} have different class names in the column {label!r}")
    target = Path(dest)
    check_destination(target, options)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".video-data-") as name:
        folder = Path(name)
        entries: list[Entry] = []
        dropped: list[tuple[Entry, str]] = []
        places: dict[str, str] = {}
        for split, part in parts.items():
            encoded = part.cast_column(video, datasets.Video(decode=False))
            for number, example in enumerate(encoded):
                place = f"{split}, row {number}"
                class_name = _class_name(example[label], classes, place)
                path = _write_video(example[video] or {}, folder / split, number)
                source = path.relative_to(folder).as_posix()
                entry = Entry(path, source, split_of(split) or "train", class_name or "")
                if class_name is None:
                    dropped.append((entry, NO_LABEL))
                    continue
                places.setdefault(class_name, place)
                if path.exists():
                    entries.append(entry)
                else:
                    dropped.append((entry, MISSING))
        if classes is None:
            refuse_alike(places)
        if not entries:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in Counter(reason for _, reason in dropped).items()
            )
            raise InputError(f"the data set has no video with a label; its rows: {reasons or 'none'}")
        require_two_classes(entries, "the data set")
        known = None if classes is None else tuple(classes)
        names = (part.info.dataset_name for part in parts.values())
        listing = Listing(entries, dropped, next(filter(None, names), "datasets"), known)
        notes = (*shifted_numbers(listing.class_names), *unseen_classes(entries))
        listing = replace(listing, notes=notes)
        return pack_listing(listing, target, options=options, progress=progress)


def _class_name(value: Any, classes: list[str] | None, place: str) -> str | None:
    """Return the class that a label stands for; None where it is no label.

    Raises:
        ValueError: It is none of the classes.
    """
    if value is None or value in ("", -1, "-1"):
        return None
    if not isinstance(value, str | int):
        raise InputError(f"{place}: the label {value!r} is neither a text nor a whole number")
    if classes is None:
        return str(value)
    if isinstance(value, str) or not 0 <= value < len(classes):
        raise InputError(f"{place}: the label {value} is none of the {len(classes)} classes")
    name: str = classes[value]
    return name


def _write_video(value: Mapping[str, Any], folder: Path, number: int) -> Path:
    """Put a video of `datasets` into a folder, where it gets its number and what is known of its name."""
    content, original = value.get("bytes"), Path(value.get("path") or "")
    suffix = original.suffix[1:].lower()
    if suffix not in VIDEO_SUFFIXES:
        suffix = _sniff(content if content is not None else original)
    path = folder / f"{number:08d}-{original.stem[:_MOST_NAME]}.{suffix}".replace("-.", ".")
    folder.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    elif os.path.isfile(original):  # noqa: PTH113  (False for a name that is too long)
        path.symlink_to(os.path.abspath(original))  # noqa: PTH100
    return path  # without a file it is packed as missing


def _sniff(source: bytes | Path) -> str:
    """Return the file ending of a video; mp4 where it cannot be told."""
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
