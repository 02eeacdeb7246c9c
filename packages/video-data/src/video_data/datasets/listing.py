"""The listing of a data set: its videos with their splits and classes, and those that are missing."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from video_data.shards.format import Split
from video_data.utils.errors import InputError

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "test": "test",
}


MISSING = "missing"  # the reason of an entry whose file is not there


@dataclass(frozen=True)
class Entry:
    """A video to pack.

    Attributes:
        path: the video, or a folder of pictures whose names in order are the frames.
        source: its path as it is reported, relative to what was listed; with the span unique in its split.
        split: split to which it belongs.
        label: class name.
        other_labels: further classes, where a data set gives several.
        span: start and end in seconds of the part of the video that is meant; None means all of it.
        frame_rate: frames a second of a folder of pictures.
    """

    path: Path
    source: str
    split: Split
    label: str
    other_labels: tuple[str, ...] = ()
    span: tuple[float, float] | None = None
    frame_rate: Fraction | None = None


@dataclass(frozen=True)
class Listing:
    """The videos of a data set.

    Attributes:
        entries: videos that were found.
        dropped: entries that cannot be packed with their reasons; `MISSING` where the file is not there.
        dataset: name of the data set with its version, for the manifest.
        classes: class names in the order of their labels; None means sorted names.
        notes: what is not packed and cannot be listed, for people to read.
    """

    entries: list[Entry]
    dropped: list[tuple[Entry, str]]
    dataset: str
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


class Collection:
    """Gathers the videos that a data set names.

    Args:
        src: folder of the videos.
    """

    def __init__(self, src: Path) -> None:
        self.entries: list[Entry] = []
        self.dropped: list[tuple[Entry, str]] = []
        self._src = src
        self._seen: set[tuple[Split, str]] = set()

    def add(self, name: str, path: Path | None, split: Split, label: str, **fields: Any) -> None:
        """Take a video by its name in the data set; `path` is None when it was not found."""
        source = name if path is None else display_path(path.relative_to(self._src))
        entry = Entry(path or self._src / name, source, split, label, **fields)
        if (split, name) in self._seen:
            self.dropped.append((entry, "listed twice"))
        elif path is None:
            self.dropped.append((entry, MISSING))
        else:
            self.entries.append(entry)
        self._seen.add((split, name))

    def listing(self, dataset: str, classes: tuple[str, ...], *notes: str) -> Listing:
        """What was gathered.

        Raises:
            ValueError: no video was found, or only one class.
        """
        if not self.entries:
            number, first = len(self.dropped), self.dropped[0][0].source if self.dropped else "of any name"
            raise InputError(
                f"none of {number} videos of {dataset} is in {self._src}: the first would be {first}"
            )
        require_two_classes(self.entries, self._src)
        return Listing(self.entries, self.dropped, dataset, classes, notes)


def display_path(path: Path) -> str:
    """A path as text with forward slashes; bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def require_two_classes(entries: list[Entry], origin: Path) -> None:
    """Raise ValueError when all entries have the same class."""
    labels = sorted({entry.label for entry in entries})
    if len(labels) < 2:
        raise InputError(f"only one class in {origin}: {labels[0]!r}; a classifier needs at least two")
