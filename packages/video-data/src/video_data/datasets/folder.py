"""Listing the videos of a folder that has a folder for each class."""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from video_data.datasets.finder import Tally, Walker, ending
from video_data.datasets.listing import (
    TWICE,
    Entry,
    Listing,
    check_pictures,
    refuse_alike,
    require_two_classes,
    shifted_numbers,
    split_of,
    unseen_classes,
    usual_split,
)
from video_data.datasets.validation import group_of_path, note_of_groups
from video_data.media.limits import VIDEO_SUFFIXES
from video_data.media.pictures import PICTURE_SUFFIXES
from video_data.shards.format import UNFINISHED_NAME, Split
from video_data.utils.errors import InputError
from video_data.utils.files import display_text

_MOST_NAMES = 10
_LOOSE = "videos beside the folders of classes"


def list_folder(
    src: str | Path,
    *,
    frame_rate: Fraction | None = None,
    pictures: str | None = None,
    group_by: str | None = None,
    to_learn: bool = True,
) -> Listing:
    """List `src/<class>/**/<video>` or `src/<split>/<class>/**/<video>`.

    The second form is taken when folders in `src` have the name of a split (train, training, val, dev, test, ...:
    `split_of`) and the others hold no videos; in the first form all videos belong to train. The notes of the listing
    say which folders were taken for what. Links are followed. What is not taken is counted by reason: hidden files,
    other endings, links that lead nowhere, videos beside the folders of classes, folders without videos.

    Args:
        src: Folder of the videos.
        frame_rate: Takes folders that hold at least two pictures and no video for videos too, with so many frames a
            second.
        pictures: Pattern of the pictures in these folders, where they hold several sequences: `img_*.jpg`.
        group_by: Regular expression that is searched for in the path of each video below `src`. Its first group in
            parentheses, or without any all that it matches, becomes `Entry.group`.
        to_learn: Off for videos that a model is only tested on: they may be of one class, and in the first form they
            belong to test.

    Raises:
        ValueError: `src` is not a folder, or holds an unfinished packing, no videos, or only one class; a folder of a
            split is where that of a class is expected; two classes are spelled almost alike; or `group_by` is no
            regular expression or matches nowhere.
    """
    src = Path(src)
    if not src.is_dir():
        raise InputError(f"no folder {src}")
    if (src / UNFINISHED_NAME).is_dir():
        raise InputError(f"{src} holds an unfinished packing: the command that began it goes on with it")
    check_pictures(pictures, frame_rate)
    if group_by is None:
        return _FolderListing(src, frame_rate, pictures, to_learn).listing()
    group_of = group_of_path(group_by)
    listing = _FolderListing(src, frame_rate, pictures, to_learn).listing()
    entries = [replace(entry, group=group_of(entry.source)) for entry in listing.entries]
    return replace(listing, entries=entries, notes=(*listing.notes, note_of_groups(entries, group_by)))


class _FolderListing:
    """Gathers the videos of a folder."""

    def __init__(self, src: Path, frame_rate: Fraction | None, pictures: str | None, to_learn: bool) -> None:
        self._src, self._frame_rate, self._pictures, self._to_learn = src, frame_rate, pictures, to_learn
        self._usual_split: Split = usual_split(to_learn)
        self._tally = Tally(src)
        self._entries: list[Entry] = []
        self._has_pictures = False
        self._folders: dict[str, list[Path]] = defaultdict(list)  # of each class

    def listing(self) -> Listing:
        src = self._src
        tops = self._folders_in(src, [src])
        splits = {top: split for top in tops if (split := split_of(top.name))}
        if splits:
            self._list_splits(splits, [top for top in tops if top not in splits])
        else:
            for top in tops:
                self._list_class(top, self._usual_split, [src])
        entries = self._entries
        if not entries:
            hint = (
                "; folders of pictures are taken when their frame rate is given" if self._has_pictures else ""
            )
            if any(found.reason == _LOOSE for found in self._tally.found()):
                hint += ", and here videos lie beside the folders: give the folder that holds those of the classes"
            raise InputError(
                f"no videos in {src}: expected <class>/<video> or <split>/<class>/<video>{hint}{self._tally}"
            )
        refuse_alike({name: ascii(str(folders[0])) for name, folders in self._folders.items()})
        if self._to_learn:
            require_two_classes(entries, src)
        kept, dropped, conflicts = _by_file(entries)
        # A folder's name is the name of a class, also -1: unlike an empty cell of a csv, somebody has made it.
        name = src.name if src.name not in ("", "..") else src.resolve().name  # of a link its own
        listing = Listing(kept, dropped, display_text(name) or "folder", passed_over=self._tally.found())
        shifted = shifted_numbers(listing.class_names)
        return replace(listing, notes=(self._layout(splits), *conflicts, *shifted, *unseen_classes(kept)))

    def _list_splits(self, splits: dict[Path, Split], others: list[Path]) -> None:
        for top in others:
            if self._videos(top, "", "train", [self._src]):
                named = ", ".join(display_text(split.name) for split in splits)
                raise InputError(
                    f"{self._src} holds {named}, named as splits are, beside {display_text(top.name)}, which holds "
                    "videos: move the classes into the folders of splits, rename a class that is named as a split, or "
                    "move away what is no class; a csv (path,label,split) takes every name"
                )
            self._tally.add("folders without videos", top)
        for top, split in splits.items():
            for folder in self._folders_in(top, [self._src, top]):
                self._list_class(folder, split, [self._src, top])

    def _list_class(self, folder: Path, split: Split, above: list[Path]) -> None:
        label = display_text(folder.name)
        entries = self._videos(folder, label, split, above)
        if not entries:
            self._tally.add("folders without videos", folder)
            return
        # An entry is the folder itself where its pictures are named by no pattern.
        is_folder = self._pictures is None
        below = {
            entry.path if entry.frame_rate is not None and is_folder else entry.path.parent
            for entry in entries
        }
        names = {folder.name, *(name for place in below for name in place.relative_to(folder).parts[:1])}
        inner = sorted(name for name in names if split_of(name))
        if inner:
            raise InputError(
                f"{folder} would be the folder of a class, and {', '.join(map(repr, inner))} is named as splits are: "
                "expected <class>/<video> or <split>/<class>/<video>; give the folder that holds the splits, rename "
                "this one, or list the videos in a csv (path,label,split)"
            )
        self._folders[label].append(folder)
        self._entries += entries

    def _videos(self, folder: Path, label: str, split: Split, above: list[Path]) -> list[Entry]:
        """Return the videos in a folder at any depth."""
        entries = []
        for place, files in Walker(self._tally, above).walk(folder):
            suffixes = [ending(file) for file in files]
            pictures = [suffix in PICTURE_SUFFIXES for suffix in suffixes]
            self._has_pictures |= any(pictures)
            has_videos = not VIDEO_SUFFIXES.isdisjoint(suffixes)
            takes_pictures = self._frame_rate is not None and sum(pictures) > 1 and not has_videos
            for file, suffix, is_picture in zip(files, suffixes, pictures, strict=True):
                if suffix in VIDEO_SUFFIXES:
                    entries.append(self._entry(place / file, label, split))
                elif not (is_picture and takes_pictures):
                    self._tally.add_ending(place / file)
            if takes_pictures:
                entries.append(self._entry(place, label, split, self._frame_rate))
        return entries

    def _entry(self, path: Path, label: str, split: Split, frame_rate: Fraction | None = None) -> Entry:
        source = display_text(path.relative_to(self._src))
        if frame_rate is not None and self._pictures is not None:
            path /= self._pictures
        return Entry(path, source, split, label, frame_rate=frame_rate)

    def _folders_in(self, folder: Path, above: list[Path]) -> list[Path]:
        """Return the folders in a folder; files beside them are counted."""
        folders, files = Walker(self._tally, above).entries(folder)
        for file in files:
            if ending(file) in VIDEO_SUFFIXES:
                self._tally.add(_LOOSE, folder / file)
            else:
                self._tally.add_ending(folder / file)
        return [folder / name for name in folders]

    def _layout(self, splits: dict[Path, Split]) -> str:
        """Say which folders were taken for what."""
        names = sorted(self._folders)
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        classes = f"{len(names)} folders for classes: {', '.join(names[:_MOST_NAMES])}{more}"
        if not splits:
            return f"taken {classes}; all videos for the split {self._usual_split}"
        taken = ", ".join(f"{display_text(top.name)} ({split})" for top, split in splits.items())
        return f"taken for splits: {taken}; in them {classes}"


def _by_file(entries: list[Entry]) -> tuple[list[Entry], list[tuple[Entry, str]], list[str]]:
    """Return the entries without those of files that are listed twice, these, and notes on other labels or splits."""
    kept, dropped, conflicts = [], [], []
    first: dict[Path, Entry] = {}
    parents: dict[Path, Path] = {}
    for entry in entries:
        path = entry.path
        if path.parent not in parents:
            parents[path.parent] = path.parent.resolve()
        other = first.setdefault(
            path.resolve() if path.is_symlink() else parents[path.parent] / path.name, entry
        )
        if other is not entry and (other.label, other.split) == (entry.label, entry.split):
            dropped.append((entry, TWICE))
            continue
        if other is not entry:
            conflicts.append(f"{entry.source} and {other.source}")
        kept.append(entry)
    notes = (
        [f"{len(conflicts)} videos are in two classes or splits through links, the first is {conflicts[0]}"]
        if conflicts
        else []
    )
    return kept, dropped, notes
