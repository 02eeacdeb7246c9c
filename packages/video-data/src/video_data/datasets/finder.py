"""Finding the files of a data set, wherever its users have put them."""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from video_data.media.limits import VIDEO_SUFFIXES
from video_data.media.pictures import PICTURE_SUFFIXES
from video_data.utils.errors import InputError
from video_data.utils.files import check_file


class Finder:
    """Videos and folders of pictures under a folder, by name.

    Args:
        root: Searched to any depth; hidden files and folders are passed over, links to folders are followed.

    Raises:
        ValueError: There is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"no folder {root}")
        self.root = root
        self._videos: dict[str, list[Path]] = defaultdict(list)
        self._folders: dict[str, list[Path]] = defaultdict(list)
        for name, folders, files in os.walk(root, followlinks=True):
            folder = Path(name)
            folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
            for file in sorted(files):
                stem, dot, suffix = file.rpartition(".")
                if dot and not file.startswith(".") and suffix.lower() in VIDEO_SUFFIXES:
                    self._videos[stem].append(folder / file)
            if any(file.rpartition(".")[2].lower() in PICTURE_SUFFIXES for file in files):
                self._folders[folder.name].append(folder)

    def video(self, stem: str, *, near: Iterable[str] = ()) -> Path | None:
        """Return the video with this name without its ending; of several the one in most folders named in `near`."""
        return self._nearest(self._videos.get(stem, []), near)

    def pictures(self, name: str) -> Path | None:
        """Return the folder of pictures with this name."""
        return self._nearest(self._folders.get(name, []), ())

    def _nearest(self, paths: list[Path], near: Iterable[str]) -> Path | None:
        wanted = {normalized(name) for name in near}

        def strangeness(path: Path) -> tuple[int, str]:
            parts = {normalized(part) for part in path.relative_to(self.root).parts[:-1]}
            return -len(parts & wanted), path.as_posix()

        return min(paths, key=strangeness, default=None)


def normalized(name: str) -> str:
    """Return a class name as folders of several distributions spell it: without case, spaces, `_` and punctuation."""
    return re.sub(r"[\W_]+", "", name.lower())


def find_file(src: Path, names: Iterable[str], *, expected: str, annotations: Path | None = None) -> Path:
    """Return the one file with one of these names in `annotations`, or else in `src` or its subfolders.

    Raises:
        ValueError: There is none, or there are several; the message says what is expected.
    """
    wanted = list(names)
    found = find_files(annotations or src, wanted)
    if not found:
        raise InputError(f"no file {' or '.join(wanted)} in {annotations or src}: {expected}")
    if len(found) > 1:
        raise InputError(
            f"several files {' or '.join(wanted)} in {annotations or src}: {', '.join(map(str, found))}; "
            "name the folder of the right one with annotations"
        )
    return found[0]


def find_files(folder: Path, names: Iterable[str], depth: int = 3) -> list[Path]:
    """Files with one of these names in a folder and its subfolders, down to `depth` levels; names may have `*`."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    patterns = [re.compile(".*".join(map(re.escape, name.split("*"))), re.IGNORECASE) for name in names]
    found: list[Path] = []
    for name, folders, files in os.walk(folder, followlinks=True):
        level = len(Path(name).relative_to(folder).parts)
        folders[:] = sorted(entry for entry in folders if not entry.startswith(".")) if level < depth else []
        found += [
            Path(name) / file
            for file in sorted(files)
            if any(pattern.fullmatch(file) for pattern in patterns)
        ]
    return found


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: It is none; the message names the file.
    """
    check_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a JSON file: {error}") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Numbers and text of the lines of a text file that are not empty.

    Raises:
        ValueError: It is no UTF-8 text; the message names the file.
    """
    check_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def read_csv(path: Path, required: Iterable[str], expected: str) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a csv whose header has the required columns; cells without spaces around.

    Raises:
        ValueError: It is no csv or a column is missing; the message names the file and what is expected.
    """
    check_file(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in required if name not in columns]
            if missing:
                raise InputError(
                    f"{path}: no column {' and '.join(missing)} in the header {','.join(columns)!r}; {expected}"
                )
            reader.fieldnames = columns
            return [(reader.line_num, {key: (row[key] or "").strip() for key in columns}) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a UTF-8 csv file: {error}") from error
