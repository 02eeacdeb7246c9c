"""Listing the videos of Something-Something v1 and v2."""

from fractions import Fraction
from pathlib import Path

from video_data.datasets.finder import Finder, find_file, find_files, read_json, read_lines
from video_data.datasets.listing import Collection, Listing, check_pictures
from video_data.shards.format import Split
from video_data.utils.errors import InputError

_PREFIX = "something-something-v"
_FILES: dict[str, Split] = {"train": "train", "validation": "val"}
_FRAME_RATE_V1 = Fraction(12)


def list_something(
    src: str | Path, *, annotations: str | Path | None = None, pictures: str | None = None
) -> Listing:
    """List Something-Something; which version it is follows from the annotation files.

    Version 1: `something-something-v1-labels.csv` (a class a line), `-train.csv` and `-validation.csv` (`id;label`, no
    header), and a folder of JPEG frames `<id>/00001.jpg`, at 12 frames a second, for each video. Version 2:
    `something-something-v2-labels.json` ({class: "index"}), `-train.json` and `-validation.json` (a list of objects
    with `id` and `template`, whose class has no brackets), with or without the prefix, and `<id>.webm`. Videos may lie
    anywhere under `src`. The test split has no labels and is not packed.

    Args:
        src: Folder of the videos, and of the annotation files to a depth of three folders.
        annotations: Another folder of the annotation files.
        pictures: Version 1: pattern of the frames, where the folders hold several sequences of pictures: `img_*.jpg`.

    Raises:
        ValueError: Annotation files are missing, of both versions or wrong; a video has two labels; or no video is
            there.
    """
    folder = Path(annotations or src)
    check_pictures(pictures, _FRAME_RATE_V1)
    versions = [
        version
        for version, names in (
            ("1", [f"{_PREFIX}1-labels.csv"]),
            ("2", [f"{_PREFIX}2-labels.json", "labels.json"]),
        )
        if find_files(folder, names)
    ]
    if len(versions) != 1:
        which = "both versions" if versions else "no annotations"
        raise InputError(
            f"{which} of Something-Something in {folder}: expected {_PREFIX}1-labels.csv with frames in folders, or "
            f"{_PREFIX}2-labels.json (or labels.json) with webm files"
            + ("; name the folder of one with annotations" if versions else "")
        )
    classes, rows = (_read_v1 if versions == ["1"] else _read_v2)(folder)
    finder = Finder(src)
    found = Collection(finder)
    for split, number, label, place in rows:
        frames = finder.pictures(number) if versions == ["1"] else None
        frame_rate = _FRAME_RATE_V1 if frames else None
        path = frames / pictures if frames and pictures else frames or finder.video(number)
        found.add(number, path, split, label, place=place, frame_rate=frame_rate)
    return found.listing(
        f"Something-Something v{versions[0]}",
        tuple(classes),
        "the test split has no labels and is not packed",
    )


def _read_v1(folder: Path) -> tuple[list[str], list[tuple[Split, str, str, str]]]:
    """Class names, and split, id, class and place of each video."""
    labels = find_file(folder, [f"{_PREFIX}1-labels.csv"], expected="a class a line")
    classes = [line for _, line in read_lines(labels)]
    known = set(classes)
    rows: list[tuple[Split, str, str, str]] = []
    for name, split in _FILES.items():
        path = find_file(folder, [f"{_PREFIX}1-{name}.csv"], expected="id;label on each line")
        for line, text in read_lines(path):
            number, separator, label = text.partition(";")
            if not separator or label not in known:
                raise InputError(
                    f"{path}, line {line}: {text!r} is not id;label with a class of {labels.name}"
                )
            rows.append((split, number, label, f"{path}, line {line}"))
    return classes, rows


def _read_v2(folder: Path) -> tuple[list[str], list[tuple[Split, str, str, str]]]:
    """Class names, and split, id, class and place of each video."""
    path = find_file(folder, [f"{_PREFIX}2-labels.json", "labels.json"], expected='{"class": "index"}')
    labels = read_json(path)
    try:
        classes = sorted(labels, key=lambda name: int(labels[name]))
        indices = [int(labels[name]) for name in classes]
    except (TypeError, ValueError, OverflowError, AttributeError):
        indices = []
    if not indices or indices != list(range(len(indices))):
        raise InputError(f'{path}: expected {{"class": "index"}} with the indices 0, 1, ...')
    known = set(classes)
    rows: list[tuple[Split, str, str, str]] = []
    for name, split in _FILES.items():
        names = [f"{_PREFIX}2-{name}.json", f"{name}.json"]
        path = find_file(folder, names, expected="a list of objects with id and template")
        items = read_json(path)
        if not isinstance(items, list):
            raise InputError(f"{path}: expected a list of objects with id and template")
        for number, item in enumerate(items):
            label = _template(item)
            if label is None or label not in known:
                raise InputError(f"{path}, entry {number}: {item!r} has no id and template of a known class")
            rows.append((split, str(item["id"]), label, f"{path}, entry {number}"))
    return classes, rows


def _template(item: object) -> str | None:
    """Return the class of an entry: its template without brackets."""
    if not isinstance(item, dict) or "id" not in item:
        return None
    return str(item.get("template", "")).replace("[", "").replace("]", "")
