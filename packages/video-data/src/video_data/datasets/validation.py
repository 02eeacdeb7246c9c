"""A validation split for data sets that have none."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

from video_data.datasets.listing import Entry, Listing
from video_data.utils.errors import InputError
from video_data.utils.messages import some_of


def split_validation(listing: Listing, fraction: float, *, seed: int = 0) -> Listing:
    """Move a fraction of the training videos of each class to the split val.

    All entries of one `Entry.group`, or where it is empty of one `Entry.source`, stay on one side. Each class keeps one
    in train, and a class that can spare one has one in val. They are taken in the order of a hash of their names and
    the seed, until each class is as near to its fraction as whole groups allow: a listing with a few videos more or
    less is split almost alike.

    Args:
        listing: What is to be split; its split test stays as it is.
        fraction: Share of the videos of each class that val gets, between 0 and 1.
        seed: Another one chooses other videos.

    Returns:
        The listing with its new split, and with a note of how many videos of which class are in val.

    Raises:
        ValueError: The listing has a split val already, or no class has two videos (or groups) to share out.
    """
    listed = [*listing.entries, *(entry for entry, _ in listing.dropped)]
    if num_val := sum(entry.split == "val" for entry in listed):
        raise InputError(
            f"there is a split val already, with {num_val} videos: leave out val_fraction (--val-fraction), which is "
            "for sources without one"
        )
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in listing.entries:
        if entry.split == "train":
            groups[_group(entry)].update(entry.labels)
    chosen = _choose(groups, fraction, seed)
    if not chosen:
        raise InputError(
            "no validation split can be made: all videos of each class are one video, parts of one file, or one group "
            "of videos (--group-by), which stay together; add videos, divide them in a csv with a column split, or "
            "train without a validation split"
        )
    entries = [
        replace(entry, split="val") if entry.split == "train" and _group(entry) in chosen else entry
        for entry in listing.entries
    ]
    taken = sum(entry.split == "val" for entry in entries)
    before = sum(entry.split == "train" for entry in listing.entries)
    kind = "videos" if all(entry.span is None for entry in entries) else "parts"
    told = f"val gets {taken} of the {before} {kind} of train (val_fraction {fraction:g}, seed {seed})"
    if kind == "parts" and not any(entry.group for entry in entries):
        told += ", all parts of a file on one side (a column split divides them otherwise)"
    notes = [told] if listing.task == "regression" else _notes(groups, chosen, told)
    return replace(listing, entries=entries, notes=(*listing.notes, *notes))


def group_of_path(pattern: str) -> Callable[[str], str]:
    """Return what finds the group of a video in its path; a path in which there is none gives an empty text.

    Args:
        pattern: Regular expression that is searched for; its first group in parentheses is taken, or without any all
            that it matches.

    Raises:
        ValueError: It is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"group_by {pattern!r} (--group-by) is no regular expression: {error}") from None

    def group(path: str) -> str:
        match = compiled.search(path)
        return "" if match is None else match[min(1, compiled.groups)] or ""

    return group


def note_of_groups(entries: list[Entry], group_by: str) -> str:
    """Return how many groups there are by `Entry.group`, for people to read.

    Raises:
        ValueError: No entry has a group.
    """
    alone = [entry.source for entry in entries if not entry.group]
    if len(alone) == len(entries):
        raise InputError(
            f"group_by {group_by!r} (--group-by) finds no group for any video, as for {alone[0]}"
        )
    rest = f"; {len(alone)} videos have none and stay alone: {some_of(alone, most=3)}" if alone else ""
    return f"{group_by!r} finds {len({entry.group for entry in entries} - {''})} groups of videos{rest}"


def _group(entry: Entry) -> str:
    return entry.group or entry.source


def _choose(groups: dict[str, Counter[str]], fraction: float, seed: int) -> set[str]:
    """Return the groups that go to val, given the videos of each class in each group."""
    total: Counter[str] = Counter()
    for counts in groups.values():
        total += counts
    wanted = {label: max(1, min(round(fraction * count), count - 1)) for label, count in total.items()}
    taken: Counter[str] = Counter()
    chosen: set[str] = set()

    def take(group: str) -> None:
        chosen.add(group)
        taken.update(groups[group])

    def leaves_some(group: str) -> bool:
        return all(taken[label] + count < total[label] for label, count in groups[group].items())

    def gain(group: str) -> int:
        """Return by how many videos the classes of a group come nearer to what is wanted."""
        return sum(
            abs(taken[label] - wanted[label]) - abs(taken[label] + count - wanted[label])
            for label, count in groups[group].items()
        )

    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    for group in order:
        if gain(group) > 0 and leaves_some(group):
            take(group)
    by_size = sorted(order, key=lambda group: groups[group].total())
    for label in sorted(total):
        if not taken[label]:  # each of its groups is larger than what is wanted
            smallest = [group for group in by_size if groups[group][label] and leaves_some(group)][:1]
            for group in smallest:
                take(group)
    return chosen


def _notes(groups: dict[str, Counter[str]], chosen: set[str], told: str) -> list[str]:
    """Add to what is told how many videos of which class are in val, and which classes have none."""
    total: Counter[str] = Counter()
    val: Counter[str] = Counter()
    for group, counts in groups.items():
        total += counts
        if group in chosen:
            val += counts
    shares = [f"{label} {val[label]} of {total[label]}" for label in sorted(total)]
    notes = [f"{told}: {some_of(shares)}"]
    if without := [label for label in sorted(total) if not val[label]]:
        notes.append(
            f"{len(without)} classes stay in train alone, since their videos cannot be shared out: {some_of(without)}"
        )
    return notes
