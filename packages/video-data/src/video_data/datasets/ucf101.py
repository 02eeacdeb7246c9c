"""Listing the videos of UCF101."""

from pathlib import Path, PurePosixPath

from video_data.datasets.finder import Finder, find_file, read_lines
from video_data.datasets.listing import Collection, Listing
from video_data.shards.format import Split
from video_data.utils.errors import InputError


def list_ucf101(src: str | Path, *, fold: int = 1, annotations: str | Path | None = None) -> Listing:
    """List UCF101 from `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`, as in `ucfTrainTestlist`.

    `classInd.txt` has `<number> <class>`, counted from 1; the lists have `<class>/<video>.avi`, for training followed
    by the number. Videos may lie anywhere under `src` and have any video ending.

    Args:
        src: Folder of the videos, and of the annotation files to a depth of three folders.
        fold: Which of the three ways to split, 1 to 3.
        annotations: Another folder of the annotation files.

    Raises:
        ValueError: The fold is another number, annotation files are missing or wrong, a video has two
            labels, or no video is there.
    """
    if fold not in (1, 2, 3):
        raise InputError(f"fold {fold}, allowed are 1, 2 and 3")
    folder = annotations or src
    path = find_file(folder, ["classInd.txt"], expected="<number> <class> on each line")
    classes: list[str] = []
    for line, text in read_lines(path):
        number, _, name = text.partition(" ")
        if number != str(len(classes) + 1) or not name:
            raise InputError(f"{path}, line {line}: {text!r} is not '{len(classes) + 1} <class>'")
        classes.append(name)
    finder = Finder(src)
    found = Collection(finder)
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        path = find_file(folder, [f"{split}list{fold:02d}.txt"], expected="<class>/<video> on each line")
        for line, text in read_lines(path):
            name, _, number = text.rpartition(" ")
            has_number = bool(name) and number.isdecimal()
            video = PurePosixPath(name.strip() if has_number else text)
            label = video.parent.name
            if label not in classes or (has_number and int(number) != classes.index(label) + 1):
                raise InputError(
                    f"{path}, line {line}: {text!r} is not <class>/<video> with a class of classInd.txt, for training "
                    "followed by its number"
                )
            file = finder.video(video.stem, near=(label,), classes=classes)
            found.add(str(video), file, split, label, place=f"{path}, line {line}")
    return found.listing(f"UCF101 fold {fold}", tuple(classes))
