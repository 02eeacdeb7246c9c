"""Listing the videos of UCF101."""

from pathlib import Path, PurePosixPath

from video_data.datasets.finder import Finder, find_file, read_lines
from video_data.datasets.listing import Collection, Listing
from video_data.shards.format import Split
from video_data.utils.errors import InputError


def list_ucf101(src: Path, *, fold: int = 1, annotations: Path | None = None) -> Listing:
    """List UCF101 from `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`, as in `ucfTrainTestlist`.

    `classInd.txt` has `<number> <class>`, counted from 1; the lists have `<class>/<video>.avi`, for training followed
    by the number. Videos may lie anywhere under `src` and have any video ending.

    Args:
        src: folder of the videos, and of the annotation files to a depth of three folders.
        fold: which of the three ways to split, 1 to 3.
        annotations: another folder of the annotation files.

    Raises:
        ValueError: the fold is another number, annotation files are missing or wrong, or no video is there.
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
    found = Collection(src)
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        path = find_file(folder, [f"{split}list{fold:02d}.txt"], expected="<class>/<video> on each line")
        for line, text in read_lines(path):
            video = PurePosixPath(text.split()[0])
            label = video.parent.name
            if label not in classes:
                raise InputError(
                    f"{path}, line {line}: {text!r} is not <class>/<video> with a class of classInd.txt"
                )
            found.add(str(video), finder.video(video.stem, near=(label,)), split, label)
    return found.listing(f"UCF101 fold {fold}", tuple(classes))
