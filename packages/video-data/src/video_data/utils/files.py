"""Writing files that appear under their final name only when they are complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, whose file takes the name `path` when the block ends without an exception.

    The content is on disk before the rename. After an exception, as on a full disk, the temporary file is removed and
    what stood under `path` is as it was. The folder is made when it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing as `atomic_path` names it."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees all of it or nothing."""
    with atomic_file(path) as file:
        file.write(content)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`; random, since machines that share a folder have processes of the same number."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
