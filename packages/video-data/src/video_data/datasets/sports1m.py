"""Listing the videos of Sports-1M, or clips of them."""

import math
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from video_data.datasets.finder import Finder, find_file, read_lines
from video_data.datasets.listing import Collection, Entry, Listing
from video_data.media.container import video_seconds
from video_data.media.limits import VideoError
from video_data.shards.format import Split
from video_data.utils.errors import InputError
from video_data.utils.pool import map_in_order


def list_sports1m(
    src: str | Path,
    *,
    clip_seconds: float | None = 10.0,
    clips_per_video: int | None = None,
    annotations: str | Path | None = None,
    num_workers: int = 1,
    progress: bool = True,
) -> Listing:
    """List Sports-1M from `train_partition.txt`, `test_partition.txt` and `labels.txt`, as in its folder `original`.

    A line of a partition is `<URL> <label>[,<label>...]`, labels counted from 0 into the lines of `labels.txt`. The
    first label is the class, the rest are kept as further ones. Videos are files whose name is the video's id of the
    URL, with any video ending, anywhere under `src`. They are minutes long and are cut into clips when packing.

    Args:
        src: Folder of the videos, and of the annotation files to a depth of three folders.
        clip_seconds: Length of a clip in seconds; what is left at the end is dropped when it is shorter than half of
            that. None packs whole videos.
        clips_per_video: Most clips of a video, spread uniformly; None takes all.
        annotations: Another folder of the annotation files.
        num_workers: Processes that read the lengths of the videos.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: A number is out of range, annotation files are missing or wrong, a video has two lines with
            other labels, or no video is there.
    """
    if clip_seconds is not None and not 0 < clip_seconds < math.inf:
        raise InputError(f"clip_seconds must be a finite number above 0, got {clip_seconds}")
    if clips_per_video is not None and clips_per_video < 1:
        raise InputError(f"clips_per_video must be at least 1, got {clips_per_video}")
    folder = Path(annotations or src)
    labels = find_file(folder, ["labels.txt"], expected="a class a line")
    classes = tuple(line for _, line in read_lines(labels))
    finder = Finder(src)
    found = Collection(finder)
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        path = find_file(
            folder, [f"{split}_partition.txt"], expected="<URL> <label>[,<label>...] on each line"
        )
        for line, text in read_lines(path):
            place = f"{path}, line {line}"
            name, numbers = _parse(text, len(classes), place)
            video = finder.video(name)
            first, *others = (classes[number] for number in numbers)
            found.add(name, video, split, first, place=place, other_labels=tuple(others))
    if clip_seconds is None:
        return found.listing("Sports-1M", classes)
    listing = found.listing(f"Sports-1M in clips of {clip_seconds:g} s", classes)
    entries: list[Entry] = []
    paths = [entry.path for entry in listing.entries]
    lengths = map_in_order(_seconds, paths, num_workers=num_workers, title="lengths", progress=progress)
    for entry, length in zip(listing.entries, lengths, strict=True):
        if isinstance(length, str):
            listing.dropped.append((entry, length))
        else:
            entries += [replace(entry, span=span) for span in _spans(length, clip_seconds, clips_per_video)]
    return replace(listing, entries=entries)


def _parse(text: str, num_classes: int, place: str) -> tuple[str, list[int]]:
    """Return the video's id and labels of a line."""
    url, _, numbers = text.partition(" ")
    parts = urlsplit(url)
    name = parse_qs(parts.query).get("v", [parts.path.rsplit("/", 1)[-1]])[0]
    try:
        labels = list(dict.fromkeys(int(number) for number in numbers.split(",")))
    except ValueError:
        labels = []
    if not name or not labels or not all(0 <= label < num_classes for label in labels):
        raise InputError(
            f"{place}: {text!r} is not <URL> <label>[,<label>...] with labels of 0 to {num_classes - 1}"
        )
    return name, labels


def _seconds(path: Path) -> float | str:
    """Length of a video; a text is the reason why it is not known, to count by."""
    try:
        return video_seconds(path)
    except VideoError as error:
        return error.reason


def _spans(length: float, clip: float, most: int | None) -> list[tuple[float, float]]:
    """Clips one after the other, of a long video `most` spread uniformly; a short video is one clip."""
    count = max(1, int(length / clip + 0.5))
    chosen = range(count) if most is None or most >= count else (i * count // most for i in range(most))
    return [(round(i * clip, 3), round((i + 1) * clip, 3)) for i in chosen]
