"""Listing the videos that a csv names."""

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from video_data.datasets.finder import read_csv
from video_data.datasets.listing import (
    MISSING,
    NO_LABEL,
    SPLIT_NAMES,
    TWICE,
    Entry,
    Listing,
    check_pictures,
    refuse_alike,
    require_two_classes,
    shifted_numbers,
    split_of,
    unseen_classes,
)
from video_data.datasets.validation import note_of_groups
from video_data.media.pictures import holds_pictures, pattern_fault
from video_data.utils.errors import InputError, describe


def list_csv(
    csv_path: str | Path,
    root: str | Path | None = None,
    *,
    frame_rate: Fraction | None = None,
    pictures: str | None = None,
    group_by: str | None = None,
) -> Listing:
    """List the videos of a csv with the header `path,label` or `path,label,split`. The notes of the
    listing name other columns, which are not read.

    Labels that are all numbers from 0 on are the labels themselves; -1 is no label, and its row is left out.

    Args:
        csv_path: UTF-8, comma separated. Without the column `split` all videos belong to train.
        root: Folder to which relative paths refer; None means the folder of the csv.
        frame_rate: Frames a second where a path is that of a folder of pictures, or of pictures in one by their
            pattern, as `clip/img_*.jpg`.
        pictures: Pattern of the pictures in all such folders, as `img_*.jpg`.
        group_by: A further column, whose text becomes `Entry.group`.

    Raises:
        ValueError: The csv is missing or not text, a column is missing, a row has more or fewer cells than the header,
            no path, label or known split, a video has two labels or splits, under one path or several, two classes are
            spelled almost alike, or there are no rows or only one class.
    """
    csv_path = Path(csv_path)
    if not csv_path.exists():
        raise InputError(f"no csv file {csv_path}")
    check_pictures(pictures, frame_rate)
    folder = csv_path.parent if root is None else Path(root)
    entries: list[Entry] = []
    dropped: list[tuple[Entry, str]] = []
    seen: dict[object, tuple[int, Entry]] = {}
    places: dict[str, str] = {}
    group_column = [] if group_by is None else [group_by.strip().lower()]
    for line, row in read_csv(csv_path, ("path", "label", *group_column), "expected path,label[,split]"):
        source, label, split_name = row["path"], row["label"], row.get("split", "train")
        if not source or not label:
            raise InputError(f"{csv_path}, line {line}: path and label must not be empty")
        label = "" if label == "-1" else label
        split = split_of(split_name)
        if split is None:
            raise InputError(
                f"{csv_path}, line {line}: split {split_name!r}, allowed are {', '.join(SPLIT_NAMES)}"
            )
        path = folder / source
        if pictures is not None and os.path.isdir(path):  # noqa: PTH112  (False for a name that is too long)
            path /= pictures
        group = "".join(row[column] for column in group_column)
        entry = Entry(path, source, split, label, frame_rate=frame_rate, group=group)
        reason, identity = _look_at(path)
        first_line, first = seen.setdefault(identity, (line, entry))
        if (first.label, first.split) != (label, split):
            raise InputError(
                f"{csv_path}, line {line}: {source} was listed before with another label or split, in line "
                f"{first_line} as {first.source}: {label!r} in {split}, and {first.label!r} in {first.split}"
            )
        if first is not entry:
            dropped.append((entry, TWICE))
        elif not label:
            dropped.append((entry, NO_LABEL))
        else:
            places.setdefault(label, f"line {line}")
            if reason is None:
                entries.append(entry)
            else:
                dropped.append((entry, reason))
    if not seen:
        raise InputError(f"no rows in {csv_path}")
    refuse_alike(places)
    if not places:
        raise InputError(f"no row of {csv_path} has a label: all are -1")
    require_two_classes([*entries, *(entry for entry, _ in dropped if entry.label)], csv_path)
    ignored = sorted(row.keys() - {"path", "label", "split", "", *group_column})
    notes = [f"columns that are not read: {', '.join(ignored)}"] if ignored else []
    if group_by is not None and entries:
        notes.append(note_of_groups(entries, group_by))
    listing = Listing(entries, dropped, "csv")
    return replace(listing, notes=(*notes, *shifted_numbers(listing.class_names), *unseen_classes(entries)))


def _look_at(path: Path) -> tuple[str | None, object]:
    """Return why a file cannot be packed, if it cannot, and what identifies it under all its spellings."""
    pattern = ""
    if holds_pictures(path) and not path.is_dir():
        if fault := pattern_fault(path):
            return fault, os.path.normpath(path)
        path, pattern = path.parent, path.name
    try:
        status = path.stat()
        return None, (status.st_dev, status.st_ino, pattern)
    except (FileNotFoundError, NotADirectoryError):
        reason = MISSING
    except (OSError, ValueError) as error:  # a name that no system takes
        reason = describe(error)
    return reason, os.path.normpath(path)
