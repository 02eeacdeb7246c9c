"""Listing the videos of Diving48."""

from pathlib import Path

from video_data.datasets.finder import Finder, find_file, find_files, read_json
from video_data.datasets.listing import Collection, Listing
from video_data.shards.format import Split
from video_data.utils.errors import InputError

_FILES = {"V1": "Diving48_{}.json", "V2": "Diving48_V2_{}.json"}
_EXPECTED = "a list of objects with vid_name and label"


def list_diving48(
    src: str | Path, *, version: str | None = None, annotations: str | Path | None = None
) -> Listing:
    """List Diving48 from `Diving48_{train,test}.json` (V1, that of the paper) or `Diving48_V2_{train,test}.json`.

    Each is a list of objects with `vid_name` and `label`. `Diving48_vocab.json` names the classes, four words each;
    without it they are named by their numbers. Videos are named `<vid_name>.mp4`, hold one dive each, and may lie
    anywhere under `src`.

    Args:
        src: Folder of the videos, and of the annotation files to a depth of three folders.
        version: `V1` or `V2`; None takes the one that is there.
        annotations: Another folder of the annotation files.

    Raises:
        ValueError: Annotation files are missing or wrong, those of both versions are there and `version` is None, or
            no video is there.
    """
    folder = Path(annotations or src)
    if version is None:
        there = [name for name, file in _FILES.items() if find_files(folder, [file.format("train")])]
        if len(there) != 1:
            which = "both versions" if there else "no annotations"
            raise InputError(
                f"{which} of Diving48 in {folder}: expected Diving48_train.json and Diving48_test.json (V1) or "
                "Diving48_V2_train.json and Diving48_V2_test.json (V2)"
                + ("; give the version" if there else "")
            )
        version = there[0]
    if version not in _FILES:
        raise InputError(f"version {version!r}, allowed are {', '.join(_FILES)}")
    rows: list[tuple[Split, str, int, str]] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        path = find_file(folder, [_FILES[version].format(split)], expected=_EXPECTED)
        rows += [
            (split, name, label, f"{path}, entry {number}")
            for number, (name, label) in enumerate(_read(path))
        ]
    classes = _classes(folder, rows)
    finder = Finder(src)
    found = Collection(finder)
    for split, name, label, place in rows:
        found.add(name, finder.video(name), split, classes[label], place=place)
    return found.listing(f"Diving48 {version}", classes)


def _read(path: Path) -> list[tuple[str, int]]:
    """Names and labels of the videos of a split."""
    items = read_json(path)
    rows = []
    for number, item in enumerate(items if isinstance(items, list) else [None]):
        if not (isinstance(item, dict) and "vid_name" in item and _is_index(item.get("label"))):
            raise InputError(f"{path}, entry {number}: expected {_EXPECTED}, got {item!r}")
        rows.append((str(item["vid_name"]), item["label"]))
    return rows


def _is_index(label: object) -> bool:
    return isinstance(label, int) and label >= 0


def _classes(folder: Path, rows: list[tuple[Split, str, int, str]]) -> tuple[str, ...]:
    """Names of the classes; of equal names a later one gets its number too."""
    largest = max((label for _, _, label, _ in rows), default=0)
    found = find_files(folder, ["Diving48_vocab.json"])
    if not found:
        return tuple(f"{label:02d}" for label in range(largest + 1))
    vocabulary = read_json(found[0])
    if not isinstance(vocabulary, list) or largest >= len(vocabulary):
        raise InputError(f"{found[0]}: expected a list of at least {largest + 1} classes")
    names = [" ".join(map(str, item)) if isinstance(item, list) else str(item) for item in vocabulary]
    return tuple(f"{name} {label}" if name in names[:label] else name for label, name in enumerate(names))
