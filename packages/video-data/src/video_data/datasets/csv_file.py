"""Listing the videos that a csv names."""

from fractions import Fraction
from pathlib import Path

from video_data.datasets.finder import read_csv
from video_data.datasets.listing import MISSING, SPLIT_NAMES, Entry, Listing, require_two_classes
from video_data.utils.errors import InputError


def list_csv(csv_path: Path, root: Path | None = None, *, frame_rate: Fraction | None = None) -> Listing:
    """List the videos of a csv with the header `path,label` or `path,label,split` (other columns are
    ignored).

    Args:
        csv_path: UTF-8, comma separated. Without the column `split` all videos belong to train.
        root: Folder to which relative paths refer; None means the folder of the csv.
        frame_rate: Frames a second where a path is that of a folder of pictures.

    Raises:
        ValueError: The csv is missing or not text, a column is missing, a row has no path, label or known
            split, a path has two labels or splits, or there are no rows or only one class.
    """
    if not csv_path.exists():
        raise InputError(f"no csv file {csv_path}")
    folder = csv_path.parent if root is None else root
    entries: dict[str, Entry] = {}
    dropped: list[tuple[Entry, str]] = []
    for line, row in read_csv(csv_path, ("path", "label"), "expected path,label[,split]"):
        path, label, split_name = row["path"], row["label"], row.get("split", "train")
        if not path or not label:
            raise InputError(f"{csv_path}, line {line}: path and label must not be empty")
        if split_name.lower() not in SPLIT_NAMES:
            raise InputError(
                f"{csv_path}, line {line}: split {split_name!r}, allowed are {', '.join(SPLIT_NAMES)}"
            )
        entry = Entry(folder / path, path, SPLIT_NAMES[split_name.lower()], label, frame_rate=frame_rate)
        first = entries.setdefault(path, entry)
        if first is entry:
            continue
        if (first.label, first.split) != (entry.label, entry.split):
            raise InputError(f"{csv_path}, line {line}: {path} was listed before with another label or split")
        dropped.append((entry, "listed twice"))
    if not entries:
        raise InputError(f"no rows in {csv_path}")
    require_two_classes(list(entries.values()), csv_path)
    present = {path: entry for path, entry in entries.items() if entry.path.exists()}
    dropped += [(entry, MISSING) for path, entry in entries.items() if path not in present]
    return Listing(list(present.values()), dropped, "csv")
