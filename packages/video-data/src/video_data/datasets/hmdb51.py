"""Listing the videos of HMDB51."""

import re
from pathlib import Path

from video_data.datasets.finder import Finder, find_files, read_lines
from video_data.datasets.listing import Collection, Listing, refuse_alike
from video_data.shards.format import Split
from video_data.utils.errors import InputError

_SPLITS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}


def list_hmdb51(src: str | Path, *, fold: int = 1, annotations: str | Path | None = None) -> Listing:
    """List HMDB51 from the files `<class>_test_split<fold>.txt`, as in `testTrainMulti_7030_splits`.

    Each has `<video>.avi <use>` with 1 for training, 2 for testing and 0 for videos that this fold leaves out. Videos
    may lie anywhere under `src`, best in a folder for each class, and have any video ending.

    Args:
        src: Folder of the videos, and of the annotation files to a depth of three folders.
        fold: Which of the three ways to split, 1 to 3.
        annotations: Another folder of the annotation files.

    Raises:
        ValueError: The fold is another number, annotation files are missing or wrong, a video has two
            labels, two classes are spelled almost alike, or no video is there.
    """
    if fold not in (1, 2, 3):
        raise InputError(f"fold {fold}, allowed are 1, 2 and 3")
    ending = f"_test_split{fold}.txt"
    files = find_files(annotations or src, [f"*{ending}"])
    if not files:
        raise InputError(
            f"no file <class>{ending} in {annotations or src}: expected <video>.avi and 0, 1 or 2"
        )
    finder = Finder(src)
    found = Collection(finder)
    num_unused = 0
    classes = tuple(sorted({path.name.removesuffix(ending) for path in files}))
    refuse_alike({path.name.removesuffix(ending): str(path) for path in sorted(files)})
    for path in sorted(files):
        label = path.name.removesuffix(ending)
        for line, text in read_lines(path):
            name, _, use = text.rpartition(" ")
            if use not in _SPLITS or not name:
                raise InputError(f"{path}, line {line}: {text!r} is not <video>.avi with 0, 1 or 2")
            split = _SPLITS[use]
            stem = re.sub(r"\.avi$", "", name.strip(), flags=re.IGNORECASE)
            video = finder.video(stem, near=(label,), classes=classes)
            if split is None:
                num_unused += 1
            else:
                found.add(f"{label}/{name.strip()}", video, split, label, place=f"{path}, line {line}")
    notes = [f"{num_unused} videos are in neither split of fold {fold}"] if num_unused else []
    return found.listing(f"HMDB51 fold {fold}", classes, *notes)
