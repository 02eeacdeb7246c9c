"""Listing the videos of Kinetics-400, 600 and 700."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from video_data.datasets.finder import Finder, find_files, read_csv
from video_data.datasets.listing import SPLIT_NAMES, Collection, Listing, refuse_alike, split_of
from video_data.shards.format import Split
from video_data.utils.errors import InputError
from video_data.utils.files import check_file
from video_data.utils.messages import some_of

_EXPECTED = "expected label,youtube_id,time_start,time_end,split"


@dataclass(frozen=True)
class _Clip:
    split: Split
    label: str
    youtube_id: str
    start: int
    end: int
    place: str

    @property
    def name(self) -> str:
        return f"{self.youtube_id}_{self.start:06d}_{self.end:06d}"


def list_kinetics(src: str | Path, *, annotations: str | Path | None = None) -> Listing:
    """List Kinetics from its csv files, whose header is `label,youtube_id,time_start,time_end,split[,is_cc]`.

    Videos may lie anywhere under `src`, in one folder, by split or by class, with any video ending. They are named
    `<youtube_id>_<start>_<end>` with six digits for each time, or `<youtube_id>` where the csv files have one clip of
    that video. Of equal names the one in the folder of its split and class is taken. Labels are the sorted class names
    of the train csv. Rows without a label, as in some test csv files, cannot be packed and are counted.

    Args:
        src: Folder of the videos, and of the csv files to a depth of three folders.
        annotations: Another folder of the csv files.

    Raises:
        ValueError: There is no such csv or no train split; a row has a wrong split or time; a class is not one of the
            train split, or spelled almost as another one; a video has two labels; no video is there.
    """
    tables = [path for path in find_files(annotations or src, ["*.csv"]) if _is_kinetics(path)]
    if not tables:
        raise InputError(f"no csv file of Kinetics in {annotations or src}: {_EXPECTED}")
    clips, num_unlabeled = _read_clips(tables)
    classes = tuple(sorted({clip.label for clip in clips if clip.split == "train"}))
    if not classes:
        raise InputError(f"no rows of the split train in {', '.join(map(str, tables))}: they give the labels")
    unknown = sorted({clip.label for clip in clips} - set(classes))
    if unknown:
        raise InputError(f"classes {some_of(unknown)} are in val or test, but not in train")
    places: dict[str, str] = {}
    for clip in clips:
        places.setdefault(clip.label, clip.place)
    refuse_alike(places)
    finder = Finder(src)
    ids = Counter(clip.youtube_id for clip in clips)
    found = Collection(finder)
    for clip in clips:
        near = (clip.split, *(name for name, split in SPLIT_NAMES.items() if split == clip.split), clip.label)
        path = finder.video(clip.name, near=near)
        if path is None and ids[clip.youtube_id] == 1:
            path = finder.video(clip.youtube_id, near=near)
        found.add(clip.name, path, clip.split, clip.label, place=clip.place)
    notes = [f"{num_unlabeled} videos without a label are not packed"] if num_unlabeled else []
    return found.listing(f"Kinetics-{len(classes)}", classes, *notes)


def _is_kinetics(path: Path) -> bool:
    check_file(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "youtube_id" in file.readline()


def _read_clips(tables: list[Path]) -> tuple[list[_Clip], int]:
    """Return the labeled clips of csv files, and the number of those without a label."""
    clips, num_unlabeled = [], 0
    for path in tables:
        for line, row in read_csv(path, ("youtube_id", "time_start", "time_end", "split"), _EXPECTED):
            if not row.get("label"):
                num_unlabeled += 1
                continue
            split = split_of(row["split"])
            if split is None:
                allowed = ", ".join(SPLIT_NAMES)
                raise InputError(f"{path}, line {line}: split {row['split']!r}, allowed are {allowed}")
            try:
                start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
            except (ValueError, OverflowError):
                times = f"{row['time_start']!r} and {row['time_end']!r}"
                raise InputError(f"{path}, line {line}: times {times} are no seconds") from None
            place = f"{path}, line {line}"
            clips.append(_Clip(split, row["label"], row["youtube_id"], start, end, place))
    return clips, num_unlabeled
