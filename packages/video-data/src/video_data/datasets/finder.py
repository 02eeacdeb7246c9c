"""Finding the files of a data set, wherever its users have put them."""

import csv
import functools
import itertools
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from video_data.media.limits import VIDEO_SUFFIXES
from video_data.media.pictures import PICTURE_SUFFIXES
from video_data.shards.format import PassedOver
from video_data.utils.errors import InputError
from video_data.utils.files import check_file, display_text

_OTHER_FILES = "files with"
_OTHER_SEPARATORS = ((";", "semicolons"), ("\t", "tabs"))
_MOST_NAMES = 10  # paths that are reported of each reason


def ending(name: str) -> str:
    """Return what stands after the last dot of a file's name, in lower case."""
    return name.rpartition(".")[2].lower() if "." in name else ""


class Tally:
    """Counts what is passed over, by reason.

    Args:
        root: Folder to which the reported paths refer; None reports them as they are.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, path: Path) -> None:
        """Count a file or folder, under the root where there is one."""
        self._counts[reason] += 1
        if len(self._first[reason]) < _MOST_NAMES:
            shown = path if self._root is None else path.relative_to(self._root)
            self._first[reason].append(display_text(shown))

    def add_ending(self, path: Path) -> None:
        """Count a file with an ending that is none of a video."""
        suffix = ending(path.name)
        is_plain = suffix.isascii() and suffix.isalnum() and not suffix.isdecimal() and len(suffix) < 9
        self.add(f"{_OTHER_FILES} {f'the ending .{suffix}' if is_plain else 'no or another ending'}", path)

    def found(self) -> tuple[PassedOver, ...]:
        """Return the counts, the largest first, and last the files with other endings."""

        def order(item: tuple[str, int]) -> tuple[bool, int, str]:
            return item[0].startswith(_OTHER_FILES), -item[1], item[0]

        ranked = sorted(self._counts.items(), key=order)
        return tuple(
            PassedOver(reason=reason, count=count, first=tuple(self._first[reason]))
            for reason, count in ranked
        )

    def __str__(self) -> str:
        """Return the counts for the end of a message; empty where nothing was passed over."""
        return "".join(f"; {passed.reason}: {passed.count}" for passed in self.found())


class Walker:
    """Walks through folders, each once, also where links make a loop; what is passed over is counted.

    Args:
        tally: Counts what is hidden, cannot be read, or leads nowhere.
        visited: Folders that are not entered.
    """

    def __init__(self, tally: Tally, visited: Iterable[Path] = ()) -> None:
        self.tally = tally
        self._visited = {_identity(folder) for folder in visited}

    def walk(self, top: Path, depth: int | None = None) -> Iterator[tuple[Path, list[str]]]:
        """Yield folders and the names of their files, sorted; folders that are linked come last.

        Args:
            top: Folder to begin with.
            depth: Levels below it; None means all.
        """
        queue, links = deque([(top, 0)]), deque[tuple[Path, int]]()
        while queue or links:
            folder, level = (queue or links).popleft()
            identity = _identity(folder)
            if identity in self._visited:
                self.tally.add("linked folders that are listed elsewhere", folder)
                continue
            self._visited.add(identity)
            folders, files = self.entries(folder)
            if depth is None or level < depth:
                for name in folders:
                    path = folder / name
                    (links if path.is_symlink() else queue).append((path, level + 1))
            yield folder, files

    def entries(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files in a folder, sorted."""
        folders, files = [], []
        try:
            with os.scandir(folder) as scanned:
                found = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            self.tally.add(f"folders that cannot be read ({error.strerror})", folder)
            return [], []
        for entry in found:
            if entry.name.startswith("."):
                self.tally.add("hidden files and folders", folder / entry.name)
            elif _is(entry.is_dir):
                folders.append(entry.name)
            elif _is(entry.is_file):
                files.append(entry.name)
            elif entry.is_symlink():
                self.tally.add("links that lead nowhere", folder / entry.name)
            else:
                self.tally.add("neither files nor folders", folder / entry.name)
        return folders, files


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int] | Path:
    try:
        status = folder.stat()
    except OSError:
        return folder
    return status.st_dev, status.st_ino


class Finder:
    """Videos and folders of pictures under a folder, by name.

    Args:
        root: Searched to any depth; hidden files and folders are passed over, links to folders are followed.

    Raises:
        ValueError: There is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"no folder {root}")
        self._videos: dict[str, list[Path]] = defaultdict(list)
        self._folders: dict[str, list[Path]] = defaultdict(list)
        self._taken: set[Path] = set()
        self._tally = Tally(self.root)
        for folder, files in Walker(self._tally).walk(self.root):
            suffixes = [ending(file) for file in files]
            for file, suffix in zip(files, suffixes, strict=True):
                if suffix in VIDEO_SUFFIXES:
                    self._videos[_composed(file.rpartition(".")[0])].append(folder / file)
                elif suffix not in PICTURE_SUFFIXES:
                    self._tally.add_ending(folder / file)
            if not PICTURE_SUFFIXES.isdisjoint(suffixes):
                self._folders[_composed(folder.name)].append(folder)

    def video(self, stem: str, *, near: Iterable[str] = (), classes: Iterable[str] = ()) -> Path | None:
        """Return the video with this name without its ending; of several the one in most folders named in `near`.

        Args:
            stem: Name of the video.
            near: Names of folders in which it should lie.
            classes: Names of classes: in a folder of one that is not named in `near` there is another video.
        """
        wanted = {normalized(name) for name in near}
        others = {normalized(name) for name in classes} - wanted
        paths = self._videos.get(_composed(stem), [])
        return self._nearest(
            [path for path in paths if self._parents(path) & wanted or not self._parents(path) & others],
            wanted,
        )

    def pictures(self, name: str) -> Path | None:
        """Return the folder of pictures with this name.

        Raises:
            ValueError: There are several.
        """
        paths = self._folders.get(_composed(name), [])
        if len(paths) > 1:
            raise InputError(
                f"several folders of pictures are named {name}: {', '.join(map(str, paths))}; give the folder "
                "above the right ones, and that of the annotation files with annotations (--annotations)"
            )
        return self._nearest(paths, set())

    def passed_over(self) -> tuple[PassedOver, ...]:
        """Return what was passed over, and which videos and folders of pictures nobody asked for."""
        tally = deepcopy(self._tally)
        for kind, found in (("videos", self._videos), ("folders of pictures", self._folders)):
            for paths in found.values():
                left = [path for path in paths if path not in self._taken]
                has_taken = len(left) < len(paths)
                for path in left:
                    which = (
                        "with the name of another one that is taken"
                        if has_taken
                        else "that the annotations do not name"
                    )
                    tally.add(f"{kind} {which}", path)
        return tally.found()

    def _nearest(self, paths: list[Path], wanted: set[str]) -> Path | None:
        def strangeness(path: Path) -> tuple[int, str]:
            return -len(self._parents(path) & wanted), path.as_posix()

        found = min(paths, key=strangeness, default=None)
        if found is not None:
            self._taken.add(found)
        return found

    def _parents(self, path: Path) -> set[str]:
        """Return the names of the folders in which a path lies."""
        return {normalized(part) for part in path.relative_to(self.root).parts[:-1]}


def _composed(name: str) -> str:
    """Return a name in one of the forms that Unicode has for it; systems differ in which they write."""
    return unicodedata.normalize("NFC", name)


@functools.cache
def normalized(name: str) -> str:
    """Return a class name as folders of several distributions spell it: without case, spaces, `_` and punctuation."""
    return re.sub(r"[\W_]+", "", _composed(name).casefold())


def find_file(folder: str | Path, names: Iterable[str], *, expected: str) -> Path:
    """Return the one file with one of these names in a folder or its subfolders.

    Raises:
        ValueError: There is none, or there are several; the message says what is expected.
    """
    wanted = list(names)
    tally = Tally()
    found = find_files(folder, wanted, tally=tally)
    if not found:
        raise InputError(f"no file {' or '.join(wanted)} in {folder}: {expected}{tally}")
    if len(found) > 1:
        raise InputError(
            f"several files {' or '.join(wanted)} in {folder}: {', '.join(map(str, found))}; "
            "name the folder of the right one with annotations"
        )
    return found[0]


def find_files(
    folder: str | Path, names: Iterable[str], depth: int = 3, *, tally: Tally | None = None
) -> list[Path]:
    """Files with one of these names in a folder and its subfolders, down to `depth` levels; names may have `*`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    patterns = [re.compile(".*".join(map(re.escape, name.split("*"))), re.IGNORECASE) for name in names]
    return [
        place / file
        for place, files in Walker(tally or Tally()).walk(folder, depth)
        for file in files
        if any(pattern.fullmatch(file) for pattern in patterns)
    ]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: It is none, or has a name twice in one object, of which Python takes the last; the message names
            the file.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise InputError(f"{path}: {twice[0]!r} is given twice in one object: keep one of them")
        return dict(pairs)

    check_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
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
    """Line numbers and rows of a csv whose header has the required columns, in any case; cells without spaces around.

    Raises:
        ValueError: It is no csv, a column is missing or there twice, or a row has other cells than the header; the
            message names the file, the line and what is expected.
    """
    check_file(path)
    rows: list[tuple[int, dict[str, str]]] = []
    line = 1  # where the next row begins
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            header = next(reader, [])
            columns = [name.strip().lower() for name in header]
            missing = [name for name in required if name not in columns]
            if missing:
                other = next((name for sign, name in _OTHER_SEPARATORS if sign in ",".join(header)), None)
                hint = "" if other is None else f"; cells are separated by commas, not by {other}"
                raise InputError(
                    f"{path}: no column {' and '.join(missing)} in the header {','.join(header)!r}; {expected}{hint}"
                )
            twice = [name for name, count in Counter(columns).items() if name and count > 1]
            if twice:
                raise InputError(f"{path}: the column {twice[0]} is twice in the header {','.join(header)!r}")
            line = reader.line_num + 1
            for row in reader:
                cells = [cell.strip() for cell in row]
                if cells in ([], [""]):  # an empty line
                    line = reader.line_num + 1
                    continue
                named = itertools.zip_longest(columns, cells, fillvalue="")
                if any(cell and not name for name, cell in named) or len(cells) < len(columns):
                    raise InputError(
                        f"{path}, line {line}: {len(cells)} cells, the header names {sum(map(bool, columns))}; a cell "
                        f"with a comma needs quotes: {','.join(row)!r}"
                    )
                rows.append((line, dict(zip(columns, cells, strict=False))))
                line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: {error}; a quote within a quoted cell is written twice"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a UTF-8 csv file: {error}") from error
    return rows
