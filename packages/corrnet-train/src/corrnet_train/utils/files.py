"""What may be written where, and files that are written whole or not at all."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from corrnet_train.utils.errors import InputError
from video_data.utils.files import what_instead_of_file, write_atomic


def check_output(
    path: Path,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
    endings: Sequence[str] = (),
    files: Sequence[str] = (),
) -> None:
    """Check, before any work, that a file or a folder may be written.

    Args:
        path: The file, or a folder with `files`.
        overwrite: Whether what is there may be replaced.
        inputs: Files and folders that are read meanwhile, which are never replaced, nor is what is in them. Names of
            other things may be among them.
        endings: Endings of the file that are allowed, in lower case; empty allows any.
        files: Names of the files that are written into a folder.

    Raises:
        InputError: It must not be, or it cannot be.
    """
    if endings:
        check_ending(path, endings)
    written = [path / name for name in files] or [path]
    folder = next(folder for folder in written[0].parents if folder.exists())
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {folder} is a file")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: writing into {folder} is not allowed")
    for file in written:
        if not file.exists():
            continue
        if what := what_instead_of_file(file):
            raise InputError(f"{file} is {what}, and a file is to be written")
        if any(_is_or_holds(name, file) for name in map(str, inputs)):
            raise InputError(f"{file} is read, or lies in a folder that is: choose another name")
        if not overwrite:
            raise InputError(f"{file} exists; --overwrite replaces it")


def check_ending(path: Path, endings: Sequence[str]) -> None:
    """Check that a file has one of the endings, which are in lower case.

    Raises:
        InputError: It has another one.
    """
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: expected a file that ends with {' or '.join(endings)}")


def _is_or_holds(name: str, file: Path) -> bool:
    from video_data.media.pictures import holds_pictures  # not above: it takes PyAV along

    if holds_pictures(Path(name)):  # also by their pattern
        name = name if os.path.isdir(name) else os.path.dirname(name) or "."  # noqa: PTH112, PTH120
    if not os.path.exists(name):  # noqa: PTH110  (Path.exists raises for a long URL)
        return False
    return file.samefile(name) or file.resolve().is_relative_to(Path(name).resolve())


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; numbers that JSON lacks, infinite ones, as their names."""
    write_text(path, json.dumps(_named(value), indent=2, allow_nan=False) + "\n")


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, (list, tuple)) else value


def numbered(path: Path) -> Iterator[Path]:
    """Yield `path-2`, `path-3` and so on."""
    return (path.with_name(f"{path.name}-{number}") for number in count(2))


def unused_path(path: Path) -> Path:
    """Return the first of `path-2`, `path-3` and so on that is not there."""
    return next(other for other in numbered(path) if not other.exists())
