"""Listing the videos to pack: a folder per class, or a csv."""

import csv
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from video_data.manifest import Split
from video_data.probe import VIDEO_SUFFIXES

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
        source: its path as it is reported, relative to what was listed; unique in its split.
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
    """

    entries: list[Entry]
    dropped: list[tuple[Entry, str]]
    dataset: str
    classes: tuple[str, ...] | None = None


def list_folder(src: Path) -> Listing:
    """Lists `src/<class>/**/<video>` or `src/<split>/<class>/**/<video>`.

    The second form is taken when every folder in `src` is named train, val, valid, validation or test; in the
    first form all videos belong to train. Files without a video ending and hidden files are passed over.

    Raises:
        ValueError: `src` is not a folder, or has no videos, or only one class.
    """
    if not src.is_dir():
        raise ValueError(f"no folder {src}")
    folders = _visible_folders(src)
    entries: list[Entry] = []
    dropped: list[tuple[Entry, str]] = []
    has_splits = bool(folders) and all(folder.name.lower() in SPLIT_NAMES for folder in folders)
    for top in folders:
        split: Split = SPLIT_NAMES[top.name.lower()] if has_splits else "train"
        for folder in _visible_folders(top) if has_splits else [top]:
            label = display_path(Path(folder.name))
            videos = sorted(path for path in folder.rglob("*") if _is_visible_video(path, folder))
            entries += [Entry(path, display_path(path.relative_to(src)), split, label) for path in videos]
            if not videos:
                empty = Entry(folder, display_path(folder.relative_to(src)), split, label)
                dropped.append((empty, "no videos in this folder"))
    if not entries:
        raise ValueError(f"no videos in {src}: expected <class>/<video> or <split>/<class>/<video>")
    _require_two_classes(entries, src)
    return Listing(entries, dropped, "folder")


def list_csv(csv_path: Path, root: Path | None) -> Listing:
    """Lists the videos of a csv with the header `path,label` or `path,label,split` (other columns are
    ignored).

    Args:
        csv_path: UTF-8, comma separated. Without the column `split` all videos belong to train.
        root: folder to which relative paths refer; None means the folder of the csv.

    Raises:
        ValueError: the csv is missing or not text, a column is missing, a row has no path, label or known
            split, a path has two labels or splits, or there are no rows or only one class.
    """
    if not csv_path.is_file():
        raise ValueError(f"no csv file {csv_path}")
    folder = csv_path.parent if root is None else root
    entries: dict[str, Entry] = {}
    dropped: list[tuple[Entry, str]] = []
    for line, row in _csv_rows(csv_path):
        path, label = (row.get("path") or "").strip(), (row.get("label") or "").strip()
        split_name = (row["split"] or "").strip() if "split" in row else "train"
        if not path or not label:
            raise ValueError(f"{csv_path}, line {line}: path and label must not be empty")
        if split_name.lower() not in SPLIT_NAMES:
            raise ValueError(
                f"{csv_path}, line {line}: split {split_name!r}, allowed are {', '.join(SPLIT_NAMES)}"
            )
        entry = Entry(folder / path, path, SPLIT_NAMES[split_name.lower()], label)
        first = entries.setdefault(path, entry)
        if first is entry:
            continue
        if (first.label, first.split) != (entry.label, entry.split):
            raise ValueError(f"{csv_path}, line {line}: {path} was listed before with another label or split")
        dropped.append((entry, "listed twice"))
    if not entries:
        raise ValueError(f"no rows in {csv_path}")
    _require_two_classes(list(entries.values()), csv_path)
    present = {path: entry for path, entry in entries.items() if entry.path.is_file()}
    dropped += [(entry, MISSING) for path, entry in entries.items() if path not in present]
    return Listing(list(present.values()), dropped, "csv")


def _csv_rows(csv_path: Path) -> list[tuple[int, dict[str, str | None]]]:
    """Line numbers and rows of a csv that has the columns `path` and `label`."""
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in ("path", "label") if name not in columns]
            if missing:
                raise ValueError(
                    f"{csv_path}: no column {' and '.join(missing)} in the header {','.join(columns)!r}; "
                    "expected path,label[,split]"
                )
            reader.fieldnames = columns
            return [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{csv_path} is not a UTF-8 csv file: {error}") from error


def display_path(path: Path) -> str:
    """A path as text with forward slashes; bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_visible_video(path: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    return path.suffix[1:].lower() in VIDEO_SUFFIXES and path.is_file()


def _require_two_classes(entries: list[Entry], origin: Path) -> None:
    labels = sorted({entry.label for entry in entries})
    if len(labels) < 2:
        raise ValueError(f"only one class in {origin}: {labels[0]!r}; a classifier needs at least two")
