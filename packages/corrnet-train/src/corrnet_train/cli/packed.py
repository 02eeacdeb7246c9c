"""Where videos of one's own are packed already, and what has changed since."""

import hashlib
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import numbered, unused_path
from video_data.utils.messages import part_name

if TYPE_CHECKING:
    from corrnet_train.config.schema import DataConfig
    from video_data import ShardSet
    from video_data.datasets import Listing
    from video_data.shards.format import SampleRecord

_MOST_COMPARED = 3  # videos, of which one that is the same shows that two sets are of one source
_Videos = dict[str, set[tuple[str, str]]]  # the splits and targets of each name


@dataclass(frozen=True)
class Place:
    """Where videos are packed, or are to be.

    Attributes:
        shards: The folder.
        is_packed: Whether they are in it.
        passed_over: Why the last place before it does not count; those before that are older.
    """

    shards: Path
    is_packed: bool
    passed_over: str = ""


def source_name(source: Path) -> str:
    """Return the name of a folder or a csv without its ending, after which its packed videos and its run are called."""
    name = source.name if source.name not in ("", "..") else source.resolve().name  # of a link its own
    return name.removesuffix(source.suffix if source.is_file() else "")


def are_videos(source: str) -> bool:
    """Whether what is given are videos in a folder or a csv, and no shards."""
    path = Path(source).expanduser()
    is_csv = path.suffix.lower() == ".csv" and "://" not in source
    return is_csv or (path.is_dir() and not (path / "manifest.json").is_file())


def list_source(
    source: Path, root: Path | None, *, group_by: str | None = None, to_learn: bool = True
) -> "Listing":
    """List the videos of a folder, or of a csv whose paths may refer to another folder.

    Raises:
        InputError: The list is wrong or its videos are not there; `root` is given with a folder.
    """
    from video_data.datasets import list_csv, list_folder
    from video_data.datasets.listing import require_files

    if not source.is_dir():
        listing = list_csv(source, root, group_by=group_by, to_learn=to_learn)
    elif root is not None:
        raise InputError(f"--root is for the paths in a csv, and {source} is a folder")
    else:
        listing = list_folder(source, group_by=group_by, to_learn=to_learn)
    require_files(listing)
    return listing


def place_of(source: Path, listing: "Listing", folders: Iterable[Path]) -> Place:
    """Return the first of several folders that holds videos as they are, or that holds nothing yet.

    Args:
        source: The folder or the csv, for messages.
        listing: What it holds now.
        folders: Folders of shards, which may not be there yet, or hold an unfinished packing.

    Raises:
        InputError: One has them in other splits, or all hold others.
    """
    from video_data import open_shards

    told = ""
    for shards in folders:
        if not (shards / "manifest.json").is_file():
            return Place(shards, is_packed=False, passed_over=told)
        packed = open_shards(shards)
        if not shares_videos(listing, packed):
            told = f"{shards} holds other videos than those of {source}"
        elif changes := changes_since(listing, packed):
            told = f"{shards} holds the videos of {source} as they were: {changes}"
        elif _videos_of_shards(packed) != _videos_of_listing(listing):
            raise InputError(
                f"{shards} has these videos in other splits: give --val-fraction and --group-by as when they were "
                f"packed, or a folder of their own, as data.shards={shlex.quote(str(unused_path(shards)))}"
            )
        else:
            return Place(shards, is_packed=True)
    another = shlex.quote(str(unused_path(shards)))
    raise InputError(f"{told}; give these a folder of their own, as data.shards={another}")


def place_to_measure(source: Path, listing: "Listing", own: Path | None, folder: Path) -> Place:
    """Return where videos are packed that a model is tested on, or where they are to be.

    Those that the model itself was trained with are taken as they are, with the split that was kept back.

    Args:
        source: The folder or the csv, for messages.
        listing: What it holds now.
        own: The shards that the model was trained with, where they are still there.
        folder: Of the shards.
    """
    from video_data import open_shards

    if own is not None:
        packed = open_shards(own)
        if shares_videos(listing, packed) and not changes_since(listing, packed):
            return Place(own, is_packed=True)
    usual = folder / f"{source_name(source)}-test"
    return place_of(source, listing, chain([usual], numbered(usual)))


def learned_videos(trained: "DataConfig", tested: "ShardSet", split: str) -> int:
    """Return how many videos of a split were packed from files that a model has learned from, or from parts of them."""
    from video_data import open_shards

    learned = {sample.source_sha256 for sample in open_shards(trained.shards).samples(trained.train_split)}
    return sum(sample.source_sha256 in learned for sample in tested.samples(split))


def changes_since(listing: "Listing", packed: "ShardSet") -> str:
    """Return in words how the videos of a listing differ from those that were packed, whatever their splits."""
    have, want = _videos_of_shards(packed), _videos_of_listing(listing)
    packed_at, now = Path(packed.path, "manifest.json").stat().st_mtime, time.time()
    # Times to come are of clocks that are wrong: packing again would not change that.
    newer = {
        part_name(entry.source, entry.span)
        for entry in listing.entries
        if entry.path.exists() and packed_at < entry.path.stat().st_mtime <= now
    }
    kept = have.keys() & want.keys()
    others = {name for name in kept if _targets(have[name]) != _targets(want[name])}
    kinds = {
        "new": want.keys() - have.keys(),
        "gone": have.keys() - want.keys(),
        "of another class or value": others,
        "changed": kept & newer - others,
    }
    return ", ".join(
        f"{len(names):,} {'is' if len(names) == 1 else 'are'} {kind} (as {min(names)})"
        for kind, names in kinds.items()
        if names
    )


def shares_videos(listing: "Listing", packed: "ShardSet") -> bool:
    """Whether one of the first videos of the same name in both is the same file."""
    paths = {entry.source: entry.path for entry in listing.entries}
    samples = (sample for split in packed.splits for sample in packed.samples(split))
    both = islice((sample for sample in samples if sample.source in paths), _MOST_COMPARED)
    return any(_is_original(paths[sample.source], sample) for sample in both)


def _is_original(path: Path, sample: "SampleRecord") -> bool:
    """Whether a sample was packed from this file; of pictures that is taken for granted."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sample.source_sha256


def _videos_of_shards(packed: "ShardSet") -> _Videos:
    videos: _Videos = defaultdict(set)
    for entry in packed.manifest.dropped:
        videos[part_name(entry.source, entry.span)].add((entry.split, entry.label))
    for split in packed.splits:
        for sample in packed.samples(split):
            target = str(sample.value) if packed.task == "regression" else packed.label_text(sample)
            videos[part_name(sample.source, sample.span)].add((split, target))
    return videos


def _videos_of_listing(listing: "Listing") -> _Videos:
    videos: _Videos = defaultdict(set)
    for entry, _ in listing.dropped:
        videos[part_name(entry.source, entry.span)].add((entry.split, entry.label))
    for entry in listing.entries:
        target = str(entry.value) if listing.task == "regression" else "|".join(entry.labels)
        videos[part_name(entry.source, entry.span)].add((entry.split, target))
    return videos


def _targets(found: set[tuple[str, str]]) -> set[str]:
    return {target for _, target in found}
