"""What an unfinished packing keeps beside its shards: the plan, and a record of each group that is done.

A group is as many listed videos as a shard may hold. Which shards it becomes depends on these videos and the options
alone, so a group is done or not whatever became of others: that is what makes packing go on where it stopped, and parts
independent.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av

from video_data.datasets import Entry
from video_data.media.pictures import holds_pictures
from video_data.shards.format import (
    UNFINISHED_NAME,
    DroppedEntry,
    PassedOver,
    Sha256,
    ShardEntry,
    Split,
    Task,
    model_bytes,
    parse_file,
)
from video_data.shards.pack_options import PackOptions, Positive, StrictModel
from video_data.utils.errors import InputError, describe
from video_data.utils.files import atomic_file, temporary_name, write_atomic
from video_data.utils.messages import part_name
from video_data.utils.settings import changed_settings

_LISTING = "listing.jsonl.gz"
_SHARD_FILE = re.compile(r"((?:train|val|test)-[0-9]{6})(?:-[0-9]{2,})?\.(?:tar|json)")


class Group(StrictModel):
    """Listed videos that are packed together; `name` is that of their shards."""

    name: str
    split: Split
    num_entries: Positive


class Plan(StrictModel):
    """What is to be packed.

    Attributes:
        listing_sha256: Hash of the listed videos: order, sizes, labels, spans; the list itself lies beside the plan.
        dataset: Name of the data set.
        classes: Class names.
        task: What is to be learned of a video.
        options: How to pack.
        tool: Versions of the programs that pack.
        groups: All groups, by split and number.
        dropped: Listed videos that are not there or cannot be packed.
        passed_over: What else was found and not listed.
        notes: Notes of the listing.
    """

    listing_sha256: Sha256
    dataset: str
    classes: tuple[str, ...]
    task: Task = "multiclass"
    options: PackOptions
    tool: dict[str, str]
    groups: tuple[Group, ...]
    dropped: tuple[DroppedEntry, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()

    def difference(self, other: "Plan") -> str | None:
        """Return what keeps the two from being parts of one packing, with both values; None when nothing does."""
        ours, theirs = (
            {"data set": plan.dataset, **plan.options.model_dump(), **plan.tool} for plan in (self, other)
        )
        changed = changed_settings(theirs, ours, names=ours)
        differing = [f"{name} {before!r}, now {now!r}" for name, (before, now) in changed.items()]
        if not differing and self.task != other.task:
            differing = [f"task {other.task!r}, now {self.task!r}"]
        if not differing and self.classes != other.classes:
            differing = ["the classes or their order"]
        return "; ".join(differing) or None


class GroupRecord(StrictModel):
    """A group that is done: its shards, and the videos that were left out."""

    shards: tuple[ShardEntry, ...]
    dropped: tuple[DroppedEntry, ...]


def listing_line(entry: Entry) -> str:
    """Return an entry as a line of JSON: what identifies it, and then all else that decides what is packed."""
    rate = None if entry.frame_rate is None else str(entry.frame_rate)
    identity = (entry.split, entry.source, entry.span)
    pictures = (
        (entry.path.name,) if holds_pictures(entry.path) and not entry.path.is_dir() else ()
    )  # their pattern
    labels = (entry.label, entry.other_labels, entry.value)
    return json.dumps((identity, _size(entry.path), *labels, rate, *pictures))


def listing_hash(listed: Iterable[str]) -> str:
    """Return a hash of what is packed, and in which order."""
    digest = hashlib.sha256()
    for line in listed:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def listing_difference(ours: Iterable[str], theirs: Iterable[str]) -> str:
    """In words, how many videos are new, gone or changed, and the first of each by name."""
    new, old = dict(_identified(ours)), dict(_identified(theirs))
    changed = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "of another size or label": sorted(key for key in new.keys() & old.keys() if new[key] != old[key]),
    }
    words = [f"{len(keys)} {what}, the first is {keys[0]}" for what, keys in changed.items() if keys]
    return f"the videos: {'; '.join(words) or 'their order'}"


def _identified(listed: Iterable[str]) -> Iterator[tuple[str, object]]:
    for line in listed:
        (split, source, span), *rest = json.loads(line)
        yield f"{part_name(source, span)} ({split})", rest


def _size(path: Path) -> int:
    """Bytes of a file, number of files in a folder of pictures, 0 for what is not there."""
    try:
        if not holds_pictures(path):
            return path.stat().st_size
        return sum(1 for _ in (path if path.is_dir() else path.parent).iterdir())
    except OSError:
        return 0


def tool_versions() -> dict[str, str]:
    """Versions of the programs on which the bytes of shards depend."""
    return {"av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info)}


class Journal:
    """The unfinished packing in a folder of shards.

    Args:
        dest: Folder of the shards.
    """

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self._folder = dest / UNFINISHED_NAME

    def plan(self) -> Plan | None:
        """Return the plan of the unfinished packing; None when there is none.

        Raises:
            ValueError: It is damaged.
        """
        path = self._folder / "plan.json"
        try:
            return parse_file(Plan, path.read_bytes(), path) if path.is_file() else None
        except InputError as error:
            raise InputError(f"{error}; {self._remedy()}") from None

    def begin(self, plan: Plan, listed: Sequence[str]) -> None:
        """Write the plan, and the list of videos as lines of `listing_line`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(self._folder / _LISTING) as file,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        ):
            for line in listed:
                packed.write(line.encode() + b"\n")
        write_atomic(self._folder / "plan.json", model_bytes(plan))

    def listed(self) -> list[str]:
        """Return the list of videos that `begin` wrote.

        Raises:
            ValueError: It is damaged or gone.
        """
        path = self._folder / _LISTING
        plan = self.plan()
        try:
            listed = gzip.decompress(path.read_bytes()).decode().splitlines()
            if plan is not None and listing_hash(listed) != plan.listing_sha256:
                raise ValueError("it is not the list of plan.json")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(f"{path} is damaged: {describe(error)}; {self._remedy()}") from None
        return listed

    def _remedy(self) -> str:
        return f"remove the shards and {self._folder} to pack all videos anew"

    def difference(self, plan: Plan, listed: Sequence[str]) -> str | None:
        """Return what keeps the unfinished packing from being of this plan; None when nothing does or there is none."""
        unfinished = self.plan()
        if unfinished is None:
            return None
        if difference := plan.difference(unfinished):
            return difference
        if plan.listing_sha256 == unfinished.listing_sha256:
            return None
        return listing_difference(listed, self.listed())

    def is_started(self) -> bool:
        """Whether a group is done."""
        return any(path.name != "plan.json" for path in self._folder.glob("*.json"))

    def unnamed_shards(self) -> list[Path]:
        """Return the files with names of shards that are not those of the unfinished packing."""
        found = [(_SHARD_FILE.fullmatch(path.name), path) for path in sorted(self.dest.iterdir())]
        files = [(match[1], path) for match, path in found if match]
        # Read after the files were listed: another part writes the plan before its shards.
        plan = self.plan() if files else None
        named = {group.name for group in plan.groups} if plan else set()
        return [path for name, path in files if name not in named]

    def record(self, group: Group) -> GroupRecord | None:
        """Return the record of a group whose shards are there; None when it is not done, or one of these is damaged."""
        path = self._folder / f"{group.name}.json"
        if not path.is_file():
            return None
        try:
            record = parse_file(GroupRecord, path.read_bytes(), path)
        except InputError:
            return None
        is_whole = all(self._has(shard) for shard in record.shards)
        return record if is_whole else None

    def _has(self, shard: ShardEntry) -> bool:
        tar, index = (self.dest / f"{shard.name}.{suffix}" for suffix in ("tar", "json"))
        if not (tar.is_file() and tar.stat().st_size == shard.size and index.is_file()):
            return False
        return hashlib.sha256(index.read_bytes()).hexdigest() == shard.index_sha256

    def write(self, group: Group, record: GroupRecord) -> None:
        """Record that a group is done."""
        write_atomic(self._folder / f"{group.name}.json", model_bytes(record))

    def clean(self, groups: Sequence[Group]) -> None:
        """Remove what writing these groups left when it was killed."""
        for group in groups:
            for path in (*self.dest.glob(f".{group.name}*.tmp"), *self._folder.glob(f".{group.name}.*.tmp")):
                path.unlink(missing_ok=True)

    def take(self, other: "Journal", group: Group) -> None:
        """Take over a group that is done in another folder; files are linked where that is possible, else copied."""
        record = other.record(group)
        if record is None:
            return
        self.clean([group])
        for shard in record.shards:
            for suffix in ("tar", "json"):
                name = f"{shard.name}.{suffix}"
                _link_or_copy(other.dest / name, self.dest / name)
        self.write(group, record)

    def remove(self) -> None:
        """Forget the packing; shards stay."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    temporary = temporary_name(target)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
    temporary.replace(target)
