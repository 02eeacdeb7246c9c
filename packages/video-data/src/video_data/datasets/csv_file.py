"""Listing the videos that a csv names."""

import difflib
import math
import os
import re
from collections.abc import Iterable, Sequence
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
    require_two_values,
    shifted_numbers,
    split_of,
    unseen_classes,
    usual_split,
)
from video_data.datasets.validation import note_of_groups
from video_data.media.pictures import holds_pictures, pattern_fault
from video_data.shards.format import Task
from video_data.utils.errors import InputError, describe
from video_data.utils.files import display_text
from video_data.utils.messages import part_name

_EXPECTED = "expected path,label[,split][,start,end]"
_ONE, _SEVERAL, _VALUE = "label", "labels", "value"
_TASKS: dict[str, Task] = {_ONE: "multiclass", _SEVERAL: "multilabel", _VALUE: "regression"}
_OPTIONAL = ("split", "start", "end")
_SEPARATOR = "|"  # between the labels of a video
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_TIME = re.compile(r"(?:(?:([0-9]+):)?([0-9]+):)?([0-9]+(?:\.[0-9]+)?)", re.ASCII)


def list_csv(
    csv_path: str | Path,
    root: str | Path | None = None,
    *,
    frame_rate: Fraction | None = None,
    pictures: str | None = None,
    group_by: str | None = None,
    to_learn: bool = True,
) -> Listing:
    """List the videos of a csv with the header `path,label`, and where they are wanted `split`, `start` and `end`. The
    notes of the listing name other columns, which are not read.

    With a column `labels` in the place of `label` the set is multilabel: each video has one or several labels,
    separated by `|`. With a column `value` it is for regression: each video has a number.

    `start` and `end` are seconds or `[hours:]minutes:seconds` from the first frame on: that part of the video is meant,
    from the frame at `start` to the one before `end`. Where both are empty it is all of it. A video may be listed with
    several parts, of any labels.

    Labels that are all numbers from 0 on are the labels themselves; -1 is no label, and its row is left out.

    Args:
        csv_path: UTF-8, comma separated. Without the column `split` all videos belong to train.
        root: Folder to which relative paths refer; None means the folder of the csv.
        frame_rate: Frames a second where a path is that of a folder of pictures, or of pictures in one by their
            pattern, as `clip/img_*.jpg`.
        pictures: Pattern of the pictures in all such folders, as `img_*.jpg`.
        group_by: A further column, whose text becomes `Entry.group`.
        to_learn: Off for videos that a model is only tested on: they may be of one class or value, and without the
            column `split` they belong to test.

    Raises:
        ValueError: The csv is missing or not text, a column is missing, a row has more or fewer cells than the header,
            no path, label, finite value or known split, or wrong times; a video, or one part of it, has two labels,
            values or splits, under one path or several; two classes are spelled almost alike; or there are no rows, or
            only one class or value.
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
    rows = read_csv(csv_path, ("path", *group_column), _EXPECTED)
    columns = list(rows[0][1]) if rows else [_ONE]
    column = _label_column(columns, csv_path)
    unread = sorted({*columns} - {"path", column, *_OPTIONAL, "", *group_column})
    _check_times(columns, unread, csv_path)
    for line, row in rows:
        try:
            entry = _read_entry(
                {"split": usual_split(to_learn)} | row, folder, column=column, pictures=pictures
            )
        except InputError as error:
            raise InputError(f"{csv_path}, line {line}: {error}") from None
        group = "".join(row[column] for column in group_column)
        entry = replace(entry, frame_rate=frame_rate, group=group)
        reason, identity = _look_at(entry.path)
        first_line, first = seen.setdefault((identity, entry.span), (line, entry))
        if (set(first.labels), first.value, first.split) != (set(entry.labels), entry.value, entry.split):
            raise InputError(
                f"{csv_path}, line {line}: {part_name(entry.source, entry.span)} was listed before with another "
                f"{'value' if column == _VALUE else 'label'} or split, in line {first_line} as {first.source}: "
                f"{_target_text(entry)!r} in {entry.split}, and {_target_text(first)!r} in {first.split}"
            )
        if first is not entry:
            dropped.append((entry, TWICE))
        elif not entry.labels:
            dropped.append((entry, NO_LABEL))
        else:
            places |= {label: f"line {line}" for label in entry.labels if label not in places}
            if reason is None:
                entries.append(entry)
            else:
                dropped.append((entry, reason))
    if not seen:
        raise InputError(f"no rows in {csv_path}")
    refuse_alike(places)
    if not places:
        raise InputError(f"no row of {csv_path} has a label: all are -1")
    labeled = [*entries, *(entry for entry, _ in dropped if entry.label)]
    if to_learn:
        (require_two_values if column == _VALUE else require_two_classes)(labeled, csv_path)
    notes = [f"columns that are not read: {', '.join(unread)}{_meant(unread, _OPTIONAL)}"] if unread else []
    if column == _SEVERAL and all(len(entry.labels) == 1 for entry in labeled):
        notes.append(f"no video has several labels; a cell has them with {_SEPARATOR} between them")
    if group_by is not None and entries:
        notes.append(note_of_groups(entries, group_by))
    if column == _ONE and (joined := [entry.label for entry in labeled if _SEPARATOR in entry.label]):
        notes.append(
            f"{joined[0]!r} is taken for one class: for several labels of a video call the column {_SEVERAL}"
        )
    listing = Listing(entries, dropped, display_text(csv_path.stem), task=_TASKS[column])
    return replace(listing, notes=(*notes, *shifted_numbers(listing.class_names), *unseen_classes(entries)))


def _label_column(columns: Sequence[str], csv_path: Path) -> str:
    """Return the name of the column that says what is to be learned."""
    names = [name for name in _TASKS if name in columns]
    if not names:
        raise InputError(
            f"{csv_path}: no column {_ONE} in the header {','.join(columns)!r}, nor {_SEVERAL} of several for each "
            f"video, nor {_VALUE} of a number; {_EXPECTED}{_meant(columns, _TASKS)}"
        )
    if len(names) > 1:
        raise InputError(
            f"{csv_path}: there are columns {' and '.join(names)}: give another name to what is not meant"
        )
    return names[0]


def _check_times(columns: Sequence[str], unread: Sequence[str], csv_path: Path) -> None:
    """Refuse one of the columns start and end without the other, which may be there under another name."""
    missing = [name for name in ("start", "end") if name not in columns]
    if len(missing) == 1:
        meant = f"; is {unread[0]} meant as {missing[0]}?" if len(unread) == 1 else ""
        raise InputError(
            f"{csv_path}: of the columns start and end there is no {missing[0]} in the header {','.join(columns)!r}: "
            f"give both, or another name to the one that is there; {_EXPECTED}{meant}"
        )


def _meant(given: Iterable[str], known: Iterable[str]) -> str:
    """Return which known columns may be meant by others that are spelled almost so, as the end of a message."""
    pairs = [(name, difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)) for name in given]
    return "".join(f"; is {name} meant as {near[0]}?" for name, near in pairs if near)


def _read_entry(row: dict[str, str], folder: Path, *, column: str, pictures: str | None) -> Entry:
    """Return what a row lists.

    Args:
        row: Its cells.
        folder: To which relative paths refer.
        column: Name of the column that says what is to be learned.
        pictures: Pattern of the pictures in all folders of pictures.
    """
    source, split_name = row["path"], row["split"]
    if not source or not row[column]:
        raise InputError(f"path and {column} must not be empty")
    split = split_of(split_name)
    if split is None:
        raise InputError(f"split {split_name!r}, allowed are {', '.join(SPLIT_NAMES)}")
    path = folder / source
    if pictures is not None and os.path.isdir(path):  # noqa: PTH112  (False for a name that is too long)
        path /= pictures
    span = _read_span(row)
    if span is not None and holds_pictures(path):
        raise InputError(
            f"start and end are for video files, and {source} is a folder of pictures; list the pictures that are "
            "meant, or leave both empty"
        )
    if column == _VALUE:
        return Entry(path, source, split, _VALUE, span=span, value=_read_value(row[column]))
    label, *others = _read_labels(row[column]) if column == _SEVERAL else [row[column]]
    return Entry(path, source, split, "" if label == "-1" else label, tuple(others), span)


def _read_labels(text: str) -> list[str]:
    """Return the labels of a cell of a multilabel set."""
    labels = [label.strip() for label in text.split(_SEPARATOR)]
    if "" in labels or len(set(labels)) < len(labels) or ("-1" in labels and len(labels) > 1):
        raise InputError(
            f"labels {text!r}: expected different labels with {_SEPARATOR} between them, or -1 alone for none"
        )
    return labels


def _read_value(text: str) -> float:
    """Return the number of a cell of a set for regression."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise InputError(f"value must be a finite number, as 12.5 or -3e-2, got {text!r}")
    return value


def _target_text(entry: Entry) -> str:
    return _SEPARATOR.join(entry.labels) if entry.value is None else f"{entry.value:g}"


def _read_span(row: dict[str, str]) -> tuple[float, float] | None:
    """Return start and end of the part that a row means; None where it is all of the video."""
    start, end = row.get("start", ""), row.get("end", "")
    if not start and not end:
        return None
    span = _seconds("start", start), _seconds("end", end)
    if span[0] >= span[1]:
        raise InputError(f"start {start} is not before end {end}")
    return span


def _seconds(name: str, text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise InputError(
            f"{name} must be a number of seconds or [hours:]minutes:seconds, as 12.5 or 1:02:03, got {text!r}; "
            "for all of a video leave start and end empty"
        )
    hours, minutes, seconds = match.groups("0")
    return float(3600 * int(hours) + 60 * int(minutes) + Fraction(seconds))


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
