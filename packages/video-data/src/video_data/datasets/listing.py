"""The listing of a data set: its videos with their splits and classes, and those that are missing."""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_data.media.pictures import pattern_fault
from video_data.shards.format import PassedOver, Split, Task
from video_data.utils.errors import InputError
from video_data.utils.files import display_text
from video_data.utils.messages import some_of

if TYPE_CHECKING:
    from video_data.datasets.finder import Finder

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}


_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")
# What the name of a split may hold beside it.
_SPLIT_WORDS = frozenset(
    (
        "set",
        "split",
        "data",
        "video",
        "videos",
        "rawvideos",
        "frame",
        "frames",
        "rawframes",
        "image",
        "images",
    )
)
MISSING = "missing"  # the reason of an entry whose file is not there
NO_LABEL = "no label"  # that of one whose class the data set does not say: an empty label, or -1
TWICE = "listed twice"
_MOST_NUMBERS = 10_000  # labels that are numbers are indices up to here


@dataclass(frozen=True)
class Entry:
    """A video to pack.

    Attributes:
        path: The video; or a folder of pictures of one sequence, or such a folder and a pattern, as `clip/img_*.jpg`.
        source: Its path as it is reported, relative to what was listed; with the span unique in its split.
        split: Split to which it belongs.
        label: Class name; empty where there is none, of an entry that cannot be packed.
        other_labels: Further classes, where a data set gives several.
        span: Start and end in seconds of the part of the video that is meant; None means all of it.
        frame_rate: Frames a second of a folder of pictures.
        group: The recording that the video was cut from: `PackOptions.val_fraction` keeps those of one group together.
            Empty means that it belongs with those of the same `source` alone.
        value: The number that is to be learned, in a listing for regression.
    """

    path: Path
    source: str
    split: Split
    label: str
    other_labels: tuple[str, ...] = ()
    span: tuple[float, float] | None = None
    frame_rate: Fraction | None = None
    group: str = ""
    value: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # text is taken too

    @property
    def labels(self) -> tuple[str, ...]:
        """All of its classes; none where it cannot be packed for want of one."""
        return (self.label, *self.other_labels) if self.label else ()


@dataclass(frozen=True)
class Listing:
    """The videos of a data set.

    Attributes:
        entries: Videos that were found.
        dropped: Entries that cannot be packed with their reasons; `MISSING` where the file is not there.
        dataset: Name of the data set with its version, for the manifest; of folders and csv files it is theirs.
        classes: Class names in the order of their labels; None means `label_order` of the names of all entries.
        task: What is to be learned of an entry: its `label`, all of its classes, or its `value`.
        notes: What was taken for what, and what is not packed and cannot be listed, for people to read.
        passed_over: Files and folders that were found and not listed, by reason.
    """

    entries: list[Entry]
    dropped: list[tuple[Entry, str]]
    dataset: str
    classes: tuple[str, ...] | None = None
    task: Task = "multiclass"
    notes: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""
        if self.classes is not None:
            return self.classes
        listed = (*self.entries, *(entry for entry, _ in self.dropped))
        return label_order({label for entry in listed for label in entry.labels})


def label_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of their labels: numbers from 0 on are the labels themselves, others are sorted.

    Numbers that do not begin with 0 are sorted as numbers.
    """
    unique = set(names)
    if not all(re.fullmatch(r"0|[1-9][0-9]{0,9}", name) for name in unique):
        are_numbers = all(map(_NUMBER.fullmatch, unique))
        return tuple(sorted(unique, key=float) if are_numbers else sorted(unique))
    numbers = sorted(map(int, unique))
    if numbers and numbers[0] == 0 and numbers[-1] < _MOST_NUMBERS:
        numbers = list(range(numbers[-1] + 1))
    return tuple(map(str, numbers))


def usual_split(to_learn: bool) -> Split:
    """Return the split of videos of which nothing says it: to learn from, or that a model is only tested on."""
    return "train" if to_learn else "test"


def split_of(name: str) -> Split | None:
    """Return the split that a name means, also as `training_set`, `videos_val` or `train2017`; None for all others."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    named = [
        split for word in words if (split := SPLIT_NAMES.get(re.sub(r"(set|split|data|videos?)$", "", word)))
    ]
    others = [word for word in words if word not in _SPLIT_WORDS]
    return named[0] if len(named) == len(others) == 1 else None


class Collection:
    """Gathers the videos that a data set names.

    Args:
        finder: Finds the videos.
    """

    def __init__(self, finder: "Finder") -> None:
        self.entries: list[Entry] = []
        self.dropped: list[tuple[Entry, str]] = []
        self._finder = finder
        self._seen: dict[str | Path, tuple[tuple[str, ...], str]] = {}
        self._taken: set[tuple[Split, str]] = set()

    def add(
        self, name: str, path: Path | None, split: Split, label: str, *, place: str, **fields: Any
    ) -> None:
        """Take a video by its name in the data set; `path` is None when it was not found.

        Args:
            name: Name of the video in the data set.
            path: The video.
            split: Its split.
            label: Its class.
            place: Where it is listed: the file and the line.
            fields: Further fields of the entry.

        Raises:
            ValueError: The same name, or another one that stands for the same file, has another label.
        """
        root = self._finder.root
        source = display_text(name if path is None else path.relative_to(root))
        entry = Entry(path or root / name, source, split, label, **fields)
        labels = (label, *entry.other_labels)
        keys: list[str | Path] = [name] if path is None else [name, path]
        for key in keys:
            before, other_place = self._seen.setdefault(key, (labels, place))
            if before != labels:
                raise InputError(
                    f"{place}: {source} has the label {' and '.join(labels)!r}, and {' and '.join(before)!r} in "
                    f"{other_place}: one video, two labels; remove one of the lines"
                )
        if (split, source) in self._taken:
            self.dropped.append((entry, TWICE))
        elif path is None:
            self.dropped.append((entry, MISSING))
        else:
            self.entries.append(entry)
        self._taken.add((split, source))

    def listing(self, dataset: str, classes: tuple[str, ...], *notes: str) -> Listing:
        """Return what was gathered.

        Raises:
            ValueError: No video was found, or only one class.
        """
        root = self._finder.root
        if not self.entries:
            number, first = len(self.dropped), self.dropped[0][0].source if self.dropped else "of any name"
            raise InputError(f"none of {number} videos of {dataset} is in {root}: the first would be {first}")
        require_two_classes(self.entries, root)
        notes = (*notes, *shifted_numbers(classes))
        passed_over = self._finder.passed_over()
        return Listing(self.entries, self.dropped, dataset, classes, notes=notes, passed_over=passed_over)


def require_files(listing: Listing) -> None:
    """Refuse a listing of which no file is there, as of a list that was moved.

    Raises:
        ValueError: None is; the message has the path where the first one is looked for.
    """
    if listing.dropped and not listing.entries and all(reason == MISSING for _, reason in listing.dropped):
        first = listing.dropped[0][0]
        raise InputError(
            f"none of {len(listing.dropped):,} listed videos is there; the first, {first.source}, is looked for at "
            f"{first.path}: a path counts from the folder of the list, or from another one that is given (--root "
            "FOLDER), or is absolute"
        )


def require_two_classes(entries: list[Entry], origin: str | os.PathLike[str]) -> None:
    """Raise ValueError when all entries have the same class."""
    labels = sorted({label for entry in entries for label in entry.labels})
    if len(labels) < 2:
        raise InputError(f"only one class in {origin}: {labels[0]!r}; a classifier needs at least two")


def require_two_values(entries: list[Entry], origin: str | os.PathLike[str]) -> None:
    """Raise ValueError when all entries have the same value."""
    values = {entry.value for entry in entries}
    if len(values) < 2:
        raise InputError(f"only one value in {origin}: {values.pop():g}; there is nothing to learn from it")


def unseen_classes(entries: list[Entry]) -> tuple[str, ...]:
    """Return a note of classes that training never sees, as those are that one split spells otherwise; else nothing."""
    trained = {label for entry in entries if entry.split == "train" for label in entry.labels}
    unseen = sorted({label for entry in entries for label in entry.labels} - trained) if trained else []
    if not unseen:
        return ()
    return (f"{len(unseen)} classes have videos in val or test and none in train: {some_of(unseen)}",)


def shifted_numbers(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note of class names that are numbers and do not begin with 0, so that others are their labels."""
    if not all(map(_NUMBER.fullmatch, class_names)) or float(class_names[0]) == 0:
        return ()
    return (f"the classes are numbers that do not begin with 0: the label of class {class_names[0]} is 0",)


def refuse_alike(places: Mapping[str, str]) -> None:
    """Raise ValueError when two class names differ in case, spaces, Unicode form or the writing of a number alone.

    Args:
        places: For each class name where it stands.
    """
    first: dict[str, str] = {}
    for name, place in places.items():
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        other = first.setdefault(str(float(plain)) if _NUMBER.fullmatch(plain) else plain, name)
        if other != name:
            raise InputError(
                f"the classes {other!a} ({places[other]}) and {name!a} ({place}) differ in case, spaces, "
                "Unicode form or the writing of a number alone: spell them alike where they are one class, else in "
                "other words"
            )


def check_pictures(pictures: str | None, frame_rate: Fraction | None) -> None:
    """Raise ValueError unless a pattern of pictures is the name of some, and the frame rate is given with it."""
    if pictures is None:
        return
    if "/" in pictures or pattern_fault(Path(pictures)):
        raise InputError(f"pictures {pictures!r}: expected a name with one * for the number, as img_*.jpg")
    if frame_rate is None:
        raise InputError(f"pictures {pictures!r}: give the frame rate too")
