"""Listing the videos of a folder that has a folder for each class."""

from fractions import Fraction
from pathlib import Path

from video_data.datasets.listing import SPLIT_NAMES, Entry, Listing, display_path, require_two_classes
from video_data.media.limits import VIDEO_SUFFIXES
from video_data.media.pictures import PICTURE_SUFFIXES
from video_data.shards.format import Split
from video_data.utils.errors import InputError


def list_folder(src: Path, *, frame_rate: Fraction | None = None) -> Listing:
    """List `src/<class>/**/<video>` or `src/<split>/<class>/**/<video>`.

    The second form is taken when every folder in `src` is named train, val, valid, validation or test; in the
    first form all videos belong to train. Files without a video ending and hidden files are passed over.

    Args:
        src: folder of the videos.
        frame_rate: takes folders that hold pictures for videos too, with so many frames a second.

    Raises:
        ValueError: `src` is not a folder, or has no videos, or only one class.
    """
    if not src.is_dir():
        raise InputError(f"no folder {src}")
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
            pictures = [] if frame_rate is None else _picture_folders(folder)
            entries += [
                Entry(path, display_path(path.relative_to(src)), split, label, frame_rate=frame_rate)
                for path in pictures
            ]
            if not videos and not pictures:
                empty = Entry(folder, display_path(folder.relative_to(src)), split, label)
                dropped.append((empty, "no videos in this folder"))
    if not entries:
        hint = (
            "; folders of pictures are taken when their frame rate is given" if _picture_folders(src) else ""
        )
        raise InputError(f"no videos in {src}: expected <class>/<video> or <split>/<class>/<video>{hint}")
    require_two_classes(entries, src)
    return Listing(entries, dropped, "folder")


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_visible_video(path: Path, folder: Path) -> bool:
    return not _is_hidden(path, folder) and path.suffix[1:].lower() in VIDEO_SUFFIXES and path.is_file()


def _picture_folders(folder: Path) -> list[Path]:
    """Folders at any depth that hold pictures."""
    pictures = (path for path in folder.rglob("*") if path.suffix[1:].lower() in PICTURE_SUFFIXES)
    return sorted({path.parent for path in pictures if not _is_hidden(path, folder)})
